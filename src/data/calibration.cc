#include "data/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <unordered_map>

#include "base/interrupt.h"
#include "base/random.h"
#include "base/sha256.h"
#include "base/utf8.h"
#include "data/table.h"
#include "nibble/error.h"

namespace nibble {
namespace {

// The text of column `name`, which must be a string.
const std::string& Column(const Row& row, const std::string& name) {
  const auto cell = row.value.find(name);
  if (cell == row.value.end() || cell->is_null()) {
    std::string columns;
    for (const auto& [key, value] : row.value.items())
      columns += (columns.empty() ? "" : ", ") + key;
    throw Error(ErrorCode::kInvalidData,
                fmt::format("{}: no column \"{}\"; the row has: {}", row.where, name,
                            columns.empty() ? "none" : columns));
  }
  if (!cell->is_string()) {
    throw Error(ErrorCode::kInvalidData,
                fmt::format("{}: column \"{}\": expected a string, found {}", row.where, name,
                            Utf8Prefix(cell->dump(), 40)));
  }
  return cell->get_ref<const std::string&>();
}

// The text of a row, as the model reads it. Source: docs/formats.md#calibration-rows.
std::string TextOf(const Row& row, const CalibrationOptions& options,
                   const ChatTemplate* chat_template) {
  if (options.chat) {
    const std::string column = options.text_column.empty() ? "messages" : options.text_column;
    const auto messages = row.value.find(column);
    if (messages == row.value.end() || !messages->is_array() || messages->empty()) {
      throw Error(
          ErrorCode::kInvalidData,
          fmt::format("{}: column \"{}\": expected a list of messages with role and content",
                      row.where, column));
    }
    try {
      return chat_template->Render(*messages, false);
    } catch (const Error& error) {
      throw error.WithContext(row.where);
    }
  }
  if (!options.text_column.empty()) return Column(row, options.text_column);
  if (row.value.contains("instruction") && row.value.contains("output")) {
    const std::string& instruction = Column(row, "instruction");
    const std::string& output = Column(row, "output");
    return instruction.empty() && output.empty() ? "" : instruction + "\n" + output;
  }
  if (row.value.contains("text")) return Column(row, "text");
  throw Error(ErrorCode::kInvalidData,
              row.where +
                  ": neither \"instruction\" and \"output\" nor \"text\"; name the column with "
                  "`text_column`, or give `chat` for message lists");
}

void CheckOptions(const CalibrationOptions& options, const ChatTemplate* chat_template) {
  if (options.samples < 1) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("`samples`: expected at least 1, found {}", options.samples));
  }
  if (options.max_seq_len < 0) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("`max_seq_len`: expected at least 1, or 0 for no cut, found {}",
                            options.max_seq_len));
  }
  if (options.chat && chat_template == nullptr) {
    throw Error(ErrorCode::kInvalidArgument,
                "`chat`: the model has no chat template; use `text_column`");
  }
}

// The indices of the rows to take, in order. Reads the file once, to count and check its rows.
std::vector<int64_t> ChooseRows(const CalibrationOptions& options) {
  int64_t num_rows = 0;
  ReadTable(options.path, [&](const Row&) {
    ThrowIfInterrupted();
    ++num_rows;
  });
  if (num_rows < options.samples) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: {} samples asked for, but the file has {} rows; lower `samples`",
                            options.path.string(), options.samples, num_rows));
  }
  std::vector<int64_t> order(static_cast<size_t>(num_rows));
  std::iota(order.begin(), order.end(), int64_t{0});
  if (options.shuffle) order = NumpyPcg64(options.seed).Permutation(num_rows);
  order.resize(static_cast<size_t>(options.samples));
  return order;
}

struct Text {
  std::string text;
  std::string where;
};

// The texts of these rows, in this order. Reads the file again, so that only these are in memory.
std::vector<Text> ReadTexts(const CalibrationOptions& options, const std::vector<int64_t>& order,
                            const ChatTemplate* chat_template) {
  std::unordered_map<int64_t, size_t> place;  // row → index in `order`
  for (size_t i = 0; i < order.size(); ++i) place[order[i]] = i;
  std::vector<Text> texts(order.size());
  int64_t row_index = 0;
  ReadTable(options.path, [&](Row row) {
    ThrowIfInterrupted();
    const auto found = place.find(row_index++);
    if (found == place.end()) return;
    Text& text = texts[found->second];
    text = {TextOf(row, options, chat_template), row.where};
    if (text.text.empty()) throw Error(ErrorCode::kInvalidData, row.where + ": the text is empty");
  });
  const auto missing = [](const Text& text) { return text.text.empty(); };
  if (std::any_of(texts.begin(), texts.end(), missing)) {
    throw Error(ErrorCode::kInvalidData, options.path.string() + ": changed while it was read");
  }
  return texts;
}

}  // namespace

CalibrationSet LoadCalibration(const CalibrationOptions& options, const Tokenizer& tokenizer,
                               const ChatTemplate* chat_template, int64_t vocab_size) {
  CheckOptions(options, chat_template);
  const std::vector<int64_t> order = ChooseRows(options);
  const std::vector<Text> texts = ReadTexts(options, order, chat_template);

  CalibrationSet set;
  set.rows = order;
  std::vector<int32_t> all_ids;
  for (const Text& text : texts) {
    ThrowIfInterrupted();
    // A chat template writes BOS itself.
    std::vector<int32_t> ids = tokenizer.Encode(text.text, !options.chat);
    const auto beyond =
        std::find_if(ids.begin(), ids.end(), [&](int32_t id) { return id >= vocab_size; });
    if (beyond != ids.end()) {
      throw Error(ErrorCode::kInvalidData,
                  fmt::format("{}: the tokenizer gives id {}, but the model's vocabulary has {} "
                              "entries; the tokenizer belongs to another model",
                              text.where, *beyond, vocab_size));
    }
    const int64_t length = static_cast<int64_t>(ids.size());
    set.num_tokens_uncut += length;
    if (options.max_seq_len > 0 && length > options.max_seq_len) {
      ids.resize(static_cast<size_t>(options.max_seq_len));
      ++set.num_cut;
    }
    set.num_tokens += static_cast<int64_t>(ids.size());
    all_ids.insert(all_ids.end(), ids.begin(), ids.end());
    set.sequences.push_back(std::move(ids));
  }
  set.ids_sha256 = Sha256(std::as_bytes(std::span(all_ids)));
  return set;
}

}  // namespace nibble
