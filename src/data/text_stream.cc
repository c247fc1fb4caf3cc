#include "data/text_stream.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "nibble/error.h"
#include "nibble_bridge.h"
#include "text/bridge_call.h"

namespace nibble {
namespace {

constexpr size_t kChunkBytes = size_t{1} << 18;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

std::string LowerCase(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return name;
}

Error TooLong(const std::string& name, int64_t line) {
  return Error(ErrorCode::kInvalidData, fmt::format("{}:{}: a row longer than {} MiB", name, line,
                                                    TextStream::kMaxLineBytes >> 20));
}

}  // namespace

std::string UncompressedName(const std::filesystem::path& name) {
  const std::string extension = LowerCase(name.extension().string());
  const bool compressed = extension == ".gz" || extension == ".zst";
  return LowerCase((compressed ? name.stem() : name.filename()).string());
}

struct TextStream::Source {
  std::string name;
  rust::Box<bridge::ByteStream> stream;
};

TextStream::TextStream(const Input& input) {
  const int descriptor = input.Open();
  source_.reset(new Source{
      input.name(), BridgeCall(input.name(), [&] { return bridge::open_stream(descriptor); })});
}

TextStream::TextStream(TextStream&&) noexcept = default;
TextStream::~TextStream() = default;

std::string_view TextStream::NextChunk() {
  buffer_.resize(kChunkBytes);
  const rust::Slice<uint8_t> into(reinterpret_cast<uint8_t*>(buffer_.data()), buffer_.size());
  const size_t count = BridgeCall(source_->name, [&] { return source_->stream->read(into); });
  std::string_view chunk = std::string_view(buffer_).substr(0, count);
  if (std::exchange(at_start_, false)) {  // a chunk is shorter than a mark only at the end
    if (chunk.starts_with("\xFF\xFE") || chunk.starts_with("\xFE\xFF")) {
      throw Error(ErrorCode::kInvalidData, source_->name + ": UTF-16 text; save it as UTF-8");
    }
    if (chunk.starts_with(kByteOrderMark)) chunk.remove_prefix(kByteOrderMark.size());
  }
  return chunk;
}

std::optional<std::string_view> TextStream::NextLine() {
  line_.clear();
  const auto finish = [&](std::string_view line) {
    ++line_number_;
    return line;
  };
  while (true) {
    if (rest_.empty()) rest_ = NextChunk();
    if (rest_.empty()) {
      return line_.empty() ? std::nullopt : std::optional(finish(line_));
    }
    const size_t newline = rest_.find('\n');
    const std::string_view piece = rest_.substr(0, newline);
    if (line_.size() + piece.size() > kMaxLineBytes) {
      throw TooLong(source_->name, line_number_ + 1);
    }
    const bool complete = newline != std::string_view::npos;
    rest_.remove_prefix(complete ? newline + 1 : rest_.size());
    if (complete && line_.empty()) return finish(piece);  // no copy
    line_ += piece;
    if (complete) return finish(line_);
  }
}

void CharStream::ThrowTooLong() const { throw TooLong(name_, row_line_); }

}  // namespace nibble
