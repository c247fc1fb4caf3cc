#include "data/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <unordered_map>
#include <utility>

#include "base/interrupt.h"
#include "base/log.h"
#include "base/random.h"
#include "base/sha256.h"
#include "data/table.h"
#include "nibble/error.h"

namespace nibble {
namespace {

enum class Lack { kColumn, kNull, kEmpty, kRefused };

// What a row says, as the model shall read it, or why it says nothing.
struct RowText {
  std::string text;
  std::string columns;  // it comes from, such as "instruction+output"
  std::optional<Lack> lack;
  std::string reason;  // of the lack
};

RowText Nothing(Lack lack, std::string reason) {
  return {.text = {}, .columns = {}, .lack = lack, .reason = std::move(reason)};
}

// The columns a row may be read from. Source: docs/formats.md#calibration-rows.
Columns ColumnsOf(const CalibrationOptions& options) {
  const std::string& column = options.text_column;
  if (options.chat) {
    return {.choices = {{column.empty() ? "messages" : column}}, .lists = true, .hint = ""};
  }
  if (!column.empty()) return {.choices = {{column}}, .lists = false, .hint = ""};
  return {.choices = {{"instruction", "output"}, {"text"}},
          .lists = false,
          .hint = "name the column with `text_column`, or give `chat` for message lists"};
}

RowText WhyNothing(const Row& row, const Columns& columns) {
  for (const std::vector<std::string>& choice : columns.choices) {
    const bool complete = std::all_of(choice.begin(), choice.end(), [&](const auto& column) {
      return row.value.contains(column);
    });
    if (!complete) continue;
    const auto null = std::find_if(choice.begin(), choice.end(),
                                   [&](const auto& column) { return row.value[column].is_null(); });
    return Nothing(Lack::kNull, row.WhyAbsent(*null));
  }
  if (columns.choices.size() == 1) {
    return Nothing(Lack::kColumn, row.WhyAbsent(columns.choices[0][0]));
  }
  return Nothing(Lack::kColumn,
                 "neither \"instruction\" and \"output\" nor \"text\"; " + columns.hint);
}

RowText TextOf(const Row& row, const Columns& columns, const ChatTemplate* chat_template) {
  if (!row.choice) return WhyNothing(row, columns);
  const std::vector<std::string>& names = columns.choices[*row.choice];
  RowText result;
  if (columns.lists) {
    const Json& messages = row.value[names[0]];
    if (messages.empty()) return Nothing(Lack::kEmpty, "there are no messages");
    try {
      result.text = chat_template->Render(messages, false);
    } catch (const Error& error) {
      return Nothing(Lack::kRefused, error.what());
    }
  } else {
    bool empty = true;
    for (const std::string& name : names) {
      const std::string& part = row.value[name].get_ref<const std::string&>();
      if (&name != &names[0]) result.text += '\n';
      result.text += part;
      empty &= part.empty();
    }
    if (empty) result.text.clear();
  }
  if (result.text.empty()) return Nothing(Lack::kEmpty, "the text is empty");
  result.columns = fmt::format("{}", fmt::join(names, "+"));
  return result;
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

// Which rows of the table have a text.
struct Survey {
  std::vector<bool> has_text;  // of each row
  int64_t num_skipped = 0;
  std::array<int64_t, 4> lacks{};  // their number by Lack
  std::string first_lack;          // where and why
};

Survey SurveyRows(const Table& table, const Columns& columns, const ChatTemplate* chat_template) {
  Survey survey;
  table.ForEachRow([&](const Row& row) {
    ThrowIfInterrupted();
    const RowText text = TextOf(row, columns, chat_template);
    survey.has_text.push_back(!text.lack);
    if (!text.lack) return;
    if (survey.num_skipped++ == 0) survey.first_lack = row.where + ": " + text.reason;
    ++survey.lacks[static_cast<size_t>(*text.lack)];
  });
  return survey;
}

// The indices of the rows to take, in order: a row's place in the shuffle does not depend on which
// rows have a text.
std::vector<int64_t> ChooseRows(const CalibrationOptions& options, const Survey& survey,
                                const std::string& name) {
  const int64_t num_rows = static_cast<int64_t>(survey.has_text.size());
  if (num_rows < options.samples) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("{}: {} samples asked for, but the file has {} rows{}; lower `samples`", name,
                    options.samples, num_rows,
                    survey.num_skipped == 0 ? ""
                                            : fmt::format(", {} of them without a text ({})",
                                                          survey.num_skipped, survey.first_lack)));
  }
  if (num_rows - survey.num_skipped < options.samples) {
    throw Error(
        ErrorCode::kInvalidData,
        fmt::format("{}; {} of {} rows have a text, but {} samples are asked for: lower "
                    "`samples`, or choose other rows or columns",
                    survey.first_lack, num_rows - survey.num_skipped, num_rows, options.samples));
  }
  std::vector<int64_t> order(num_rows);
  std::iota(order.begin(), order.end(), int64_t{0});
  if (options.shuffle) order = NumpyPcg64(options.seed).Permutation(num_rows);
  std::erase_if(order, [&](int64_t row) { return !survey.has_text[static_cast<size_t>(row)]; });
  order.resize(options.samples);
  return order;
}

struct Sample {
  std::string text;
  std::string columns;
  std::string where;
};

// The texts of these rows, in this order. Reads the table again, so that only these are in memory.
std::vector<Sample> ReadSamples(const Table& table, const Columns& columns,
                                const std::vector<int64_t>& order,
                                const ChatTemplate* chat_template) {
  std::unordered_map<int64_t, size_t> place;  // row → index in `order`
  for (size_t i = 0; i < order.size(); ++i) place[order[i]] = i;
  std::vector<Sample> samples(order.size());
  int64_t row_index = 0;
  table.ForEachRow([&](Row row) {
    ThrowIfInterrupted();
    const auto found = place.find(row_index++);
    if (found == place.end()) return;
    RowText text = TextOf(row, columns, chat_template);
    samples[found->second] = {std::move(text.text), std::move(text.columns), std::move(row.where)};
  });
  const auto missing = [](const Sample& sample) { return sample.text.empty(); };
  if (std::any_of(samples.begin(), samples.end(), missing)) {
    throw Error(ErrorCode::kInvalidData, table.name() + ": changed while it was read");
  }
  return samples;
}

}  // namespace

CalibrationSet LoadCalibration(const CalibrationOptions& options, const Tokenizer& tokenizer,
                               const ChatTemplate* chat_template, int64_t vocab_size) {
  CheckOptions(options, chat_template);
  const Columns columns = ColumnsOf(options);
  const Table table(options.path, columns, Format::kJson);
  const Survey survey = SurveyRows(table, columns, chat_template);
  CalibrationSet set;
  set.rows = ChooseRows(options, survey, table.name());
  set.num_rows = static_cast<int64_t>(survey.has_text.size());
  set.num_skipped = survey.num_skipped;
  if (survey.num_skipped > 0) {
    const auto count = [&](Lack lack) { return survey.lacks[static_cast<size_t>(lack)]; };
    LogWarning("rows_skipped count={} of={} empty={} null={} no_column={} refused={} first=\"{}\"",
               survey.num_skipped, set.num_rows, count(Lack::kEmpty), count(Lack::kNull),
               count(Lack::kColumn), count(Lack::kRefused), survey.first_lack);
  }

  std::vector<int32_t> all_ids;
  int64_t num_two_bos = 0;
  for (const Sample& sample : ReadSamples(table, columns, set.rows, chat_template)) {
    ThrowIfInterrupted();
    // A chat template writes BOS itself.
    std::vector<int32_t> ids = tokenizer.Encode(sample.text, !options.chat);
    const auto beyond =
        std::find_if(ids.begin(), ids.end(), [&](int32_t id) { return id >= vocab_size; });
    if (beyond != ids.end()) {
      throw Error(ErrorCode::kInvalidData,
                  fmt::format("{}: the tokenizer gives id {}, but the model's vocabulary has {} "
                              "entries; the tokenizer belongs to another model",
                              sample.where, *beyond, vocab_size));
    }
    if (tokenizer.BeginsWithTwoBos(ids)) ++num_two_bos;
    const int64_t length = static_cast<int64_t>(ids.size());
    set.num_tokens_uncut += length;
    if (options.max_seq_len > 0 && length > options.max_seq_len) {
      ids.resize(options.max_seq_len);
      ++set.num_cut;
    }
    set.num_tokens += static_cast<int64_t>(ids.size());
    all_ids.insert(all_ids.end(), ids.begin(), ids.end());
    set.sequences.push_back(std::move(ids));
    ++set.columns[sample.columns];
  }
  WarnOfTwoBos(table.name(), num_two_bos, options.samples);
  set.ids_sha256 = Sha256(std::as_bytes(std::span(all_ids)));
  return set;
}

}  // namespace nibble
