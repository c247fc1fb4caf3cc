#include "data/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

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

// What a row says, as the model shall read it. Source: docs/formats.md#calibration-rows.
std::string TextOf(const Row& row, const CalibrationOptions& options,
                   const ChatTemplate* chat_template) {
  if (!row.value.is_object()) {
    throw Error(ErrorCode::kInvalidData, row.where + ": expected an object with named columns");
  }
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
                  "--text-column, or give --chat for message lists");
}

}  // namespace

CalibrationSet LoadCalibration(const CalibrationOptions& options, const Tokenizer& tokenizer,
                               const ChatTemplate* chat_template, int64_t vocab_size) {
  if (options.samples < 1) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--samples: expected at least 1, found {}", options.samples));
  }
  if (options.chat && chat_template == nullptr) {
    throw Error(ErrorCode::kInvalidArgument,
                "--chat: the model has no chat template; use --text-column");
  }
  std::vector<Row> rows;
  ReadTable(options.path, [&](Row row) { rows.push_back(std::move(row)); });
  const int64_t num_rows = static_cast<int64_t>(rows.size());
  if (num_rows < options.samples) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: {} samples asked for, but the file has {} rows; lower --samples",
                            options.path.string(), options.samples, num_rows));
  }
  std::vector<int64_t> order(rows.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  if (options.shuffle) order = NumpyPcg64(options.seed).Permutation(num_rows);
  order.resize(static_cast<size_t>(options.samples));

  CalibrationSet set;
  std::vector<int32_t> all_ids;
  for (const int64_t index : order) {
    const Row& row = rows[static_cast<size_t>(index)];
    const std::string text = TextOf(row, options, chat_template);
    if (text.empty()) throw Error(ErrorCode::kInvalidData, row.where + ": the text is empty");
    std::vector<int32_t> ids;
    try {
      // A chat template writes BOS itself.
      ids = tokenizer.Encode(text, !options.chat);
    } catch (const Error& error) {
      throw error.WithContext(row.where);
    }
    const auto beyond =
        std::find_if(ids.begin(), ids.end(), [&](int32_t id) { return id >= vocab_size; });
    if (beyond != ids.end()) {
      throw Error(ErrorCode::kInvalidData,
                  fmt::format("{}: the tokenizer gives id {}, but the model's vocabulary has {} "
                              "entries; the tokenizer "
                              "belongs to another model",
                              row.where, *beyond, vocab_size));
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
    set.rows.push_back(index);
  }
  set.ids_sha256 = Sha256(std::as_bytes(std::span(all_ids)));
  return set;
}

}  // namespace nibble
