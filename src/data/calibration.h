#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace nibble {

struct CalibrationOptions {
  std::filesystem::path path;  // a file or a pipe, "-": standard input
  int64_t samples = 512;
  uint64_t seed = 42;
  bool shuffle = true;
  int64_t max_seq_len = 0;  // tokens kept of a row, BOS included; 0: no cut
  // Empty: Platypus rows (instruction + "\n" + output) where a row has those columns, else "text".
  std::string text_column = "";
  bool chat = false;  // rows hold "messages" (or `text_column`), rendered by the chat template
};

struct CalibrationSet {
  std::vector<std::vector<int32_t>> sequences;  // BOS first where the tokenizer adds it
  std::vector<int64_t> rows;                    // row index in the file of each sequence
  // How many of them were read from "text", "instruction+output", "messages" or another column.
  std::map<std::string, int64_t> columns;
  int64_t num_rows = 0;     // in the file
  int64_t num_skipped = 0;  // of these: without a text
  int64_t num_tokens = 0;
  int64_t num_tokens_uncut = 0;
  int64_t num_cut = 0;
  std::string ids_sha256;  // of all ids as little-endian int32
};

// Reads, shuffles as numpy.random.default_rng(seed).permutation does, keeps the first `samples`
// rows that have a text, joins and tokenizes. A row has none if its columns are missing, null or
// empty, or if the chat template refuses its messages: one warning counts them, whether they are
// drawn or not. Throws Error naming file and line for malformed rows, anywhere in the file;
// kInvalidArgument (with both numbers) where the file has fewer rows than samples, kInvalidData
// where fewer have a text.
CalibrationSet LoadCalibration(const CalibrationOptions& options, const Tokenizer& tokenizer,
                               const ChatTemplate* chat_template, int64_t vocab_size);

}  // namespace nibble
