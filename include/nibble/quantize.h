#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "nibble/error.h"

// Quantize a Mixtral checkpoint to a compressed-tensors checkpoint of 4- or 8-bit weights, layer by
// layer: memory holds one layer, its Hessians and the calibration activations, never the model.
namespace nibble {

// How weights become integers. Values are the words of the command line.
struct RecipeOptions {
  std::string method = "gptq";        // gptq, rtn (round to nearest)
  int bits = 4;                       // 4, 8
  std::string group_size = "128";     // 32, 64, 128, channel
  bool asymmetric = false;            // store zero points
  std::string act_order = "none";     // none, static (= weight), group
  std::string observer = "minmax";    // minmax, mse, imatrix_mse
  double dampening = 0.1;             // in (0, 10]
  int64_t block_size = 128;           // columns between two bulk updates
  std::string dead_columns = "keep";  // keep, zero
  std::vector<std::string> ignore = {"lm_head", "re:.*block_sparse_moe\\.gate$"};
};

struct QuantizeOptions {
  std::filesystem::path input;
  std::filesystem::path output;  // absent or empty, unless `resume`
  RecipeOptions recipe;

  // Calibration rows: see data/calibration.h for the formats. May be empty for rtn.
  std::filesystem::path calibration;
  int64_t samples = 512;
  int64_t max_seq_len = 0;  // tokens kept of a row; 0: all
  uint64_t seed = 42;
  bool shuffle = true;
  std::string text_column;
  bool chat = false;

  bool calibrate_all_experts = false;  // every expert's statistics see every token
  bool top_up_experts = false;         // starved experts also see their likeliest unrouted tokens

  int64_t memory_bytes = 0;  // budget of resident memory; 0: most of what is available
  int threads = 0;           // 0: all CPUs this process may use
  std::string backend = "cpu";
  int64_t max_shard_bytes = 5'000'000'000;
  bool resume = false;
  bool dry_run = false;  // plan and report only
};

// One quantized Linear. Errors are relative to the output's energy, tr(D H D^T) / tr(W H W^T),
// measured over at most 128 evenly spaced rows; -1 where there is no Hessian to measure with.
struct LinearReport {
  std::string module;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t tokens = 0;  // calibration rows its Hessian saw
  std::string method;  // what was done in the end: gptq or rtn
  double relative_error = -1;
  double relative_error_rtn = -1;  // of rounding to nearest, for comparison
  double weight_error = 0;         // |D|^2 / |W|^2
  double loss = 0;                 // sum of the sweep's squared errors / 2, H = 2 X^T X
  double dampening = 0;            // what was used in the end
  int retries = 0;                 // times the factorisation failed before that
  int64_t dead_columns = 0;
  double seconds = 0;

  double ratio_to_rtn() const { return relative_error / relative_error_rtn; }
};

}  // namespace nibble
