#include "data/text_stream.h"

#include <fmt/format.h>

#include <algorithm>

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

// "gz", "zst" or "".
std::string Compression(const std::filesystem::path& path) {
  const std::string extension = LowerCase(path.extension().string());
  return extension == ".gz" || extension == ".zst" ? extension.substr(1) : "";
}

}  // namespace

std::string UncompressedName(const std::filesystem::path& name) {
  const bool compressed = !Compression(name).empty();
  return LowerCase((compressed ? name.stem() : name.filename()).string());
}

struct TextStream::Source {
  std::string path;
  rust::Box<bridge::ByteStream> stream;
};

TextStream::TextStream(const std::filesystem::path& path) {
  const std::string name = path.string();
  source_.reset(new Source{name, BridgeCall(name, [&] {
                             return bridge::open_stream(rust::Str(name.data(), name.size()),
                                                        Compression(path));
                           })});
}

TextStream::TextStream(TextStream&&) noexcept = default;
TextStream::~TextStream() = default;

std::string_view TextStream::NextChunk() {
  buffer_.resize(kChunkBytes);
  const rust::Slice<uint8_t> into(reinterpret_cast<uint8_t*>(buffer_.data()), buffer_.size());
  const size_t count = BridgeCall(source_->path, [&] { return source_->stream->read(into); });
  return std::string_view(buffer_).substr(0, count);
}

std::optional<std::string_view> TextStream::NextLine() {
  line_.clear();
  const auto finish = [&](std::string_view line) {
    if (++line_number_ == 1 && line.starts_with(kByteOrderMark)) {
      line.remove_prefix(kByteOrderMark.size());
    }
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
      throw Error(ErrorCode::kInvalidData,
                  fmt::format("{}:{}: a line longer than {} MiB", source_->path, line_number_ + 1,
                              kMaxLineBytes >> 20));
    }
    const bool complete = newline != std::string_view::npos;
    rest_.remove_prefix(complete ? newline + 1 : rest_.size());
    if (complete && line_.empty()) return finish(piece);  // no copy
    line_ += piece;
    if (complete) return finish(line_);
  }
}

}  // namespace nibble
