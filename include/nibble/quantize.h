#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "nibble/error.h"

// Quantize a Mixtral checkpoint to a compressed-tensors checkpoint of 4- or 8-bit weights, layer by
// layer: memory holds a part of one layer, its Hessians and the calibration activations, never the
// model.
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
  // Linears left alone: names, or re: patterns that match from the start. Must cover the head and
  // the routers, which nibble never quantizes.
  std::vector<std::string> ignore = {"lm_head", "re:.*block_sparse_moe\\.gate$"};
};

// Reads llm-compressor's recipe YAML; "-" is standard input. Throws kInvalidData, kUnsupported
// naming what nibble does not do.
RecipeOptions ReadRecipe(const std::filesystem::path& file);

struct QuantizeOptions {
  std::filesystem::path input;
  std::filesystem::path output;  // absent or empty, unless `resume`
  RecipeOptions recipe;

  // Calibration rows: a file or a pipe, "-" for standard input; docs/cli.md has the formats. May be
  // empty for rtn.
  std::filesystem::path calibration;
  int64_t samples = 512;
  int64_t max_seq_len = 0;  // tokens kept of a row; 0: all
  uint64_t seed = 42;
  std::string text_column;
  bool chat = false;

  bool calibrate_all_experts = false;  // every expert's statistics see every token
  bool top_up_experts = false;         // starved experts also see their likeliest unrouted tokens

  int64_t memory_bytes = 0;  // budget of resident memory; 0: most of what is available
  int threads = 0;           // 0: all CPUs this process may use
  std::string backend = "cpu";
  int64_t max_shard_bytes = 5'000'000'000;
  bool resume = false;
  bool strict = false;  // a pattern of the recipe that matches nothing is an error, not a warning
};

// One quantized Linear. Errors are relative to the output's energy, tr(D H D^T) / tr(W H W^T),
// measured over at most 64 evenly spaced rows; -1 where there is no Hessian to measure with.
struct LinearReport {
  std::string module;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t tokens = 0;  // inputs in its Hessian
  std::string method;  // the method finally used: gptq or rtn
  double relative_error = -1;
  double relative_error_rtn = -1;  // of rounding to nearest, for comparison
  double weight_error = 0;         // |D|^2 / |W|^2
  double loss = 0;                 // sum of the sweep's squared errors / 2, H = 2 X^T X
  double dampening = 0;            // the damping finally used
  int retries = 0;                 // times the factorisation failed before that
  int64_t dead_columns = 0;
  double seconds = 0;

  // The method is gptq, but this Linear could only be rounded to nearest.
  bool fell_back = false;
  double ratio_to_rtn() const {
    return relative_error_rtn > 0 ? relative_error / relative_error_rtn : 1;
  }
};

// How far the quantized model has drifted from the original after a layer, on the probe: the first
// calibration tokens, at most 1024. Logits are those of the final norm and head after this layer.
struct Divergence {
  int64_t positions = 0;        // where logits were compared, at most 256
  double kl = 0;                // mean KL(original || quantized), nats
  double top1_agreement = 0;    // share of positions with the same most probable token
  double activation_error = 0;  // |difference|^2 / |original|^2 of the residual stream
};

struct LayerReport {
  int64_t layer = 0;
  bool resumed = false;  // quantized by an earlier run
  std::vector<LinearReport> linears;
  std::vector<int64_t> expert_tokens;        // routed to each expert
  std::vector<int64_t> expert_extra_tokens;  // added by top_up or calibrate_all_experts; else 0
  std::vector<int64_t> starved_experts;      // below max(4 groups, 0.5 % of the tokens)
  Divergence divergence;
  double seconds = 0;
};

// Where the time went. `bound_seconds` is the floating-point work at the measured rate of all
// threads; 0 for phases without it.
struct PhaseReport {
  std::string name;
  double seconds = 0;
  double cpu_seconds = 0;
  double gflop = 0;
  double bound_seconds = 0;
};

struct WrittenFile {
  std::string name;
  int64_t bytes = 0;
  std::string sha256;
};

// The resources that a run needs, computed before the start.
struct QuantizePlan {
  struct Item {
    std::string name;
    int64_t bytes = 0;
  };
  std::vector<Item> memory;  // resident at the peak
  int64_t memory_bytes = 0;  // their sum
  int64_t budget_bytes = 0;
  int64_t experts_at_once = 0;       // whose Hessians are held together
  bool activations_in_file = false;  // beside the output, while it runs
  int64_t output_bytes = 0;
  int64_t scratch_disk_bytes = 0;
  int64_t free_disk_bytes = 0;
  int64_t num_shards = 0;
  int64_t calibration_tokens = 0;
  int64_t calibration_rows = 0;          // in the file
  int64_t calibration_rows_skipped = 0;  // of these: without a text
  // How many samples were read from "text", "instruction+output", "messages" or another column.
  std::map<std::string, int64_t> calibration_columns;
  std::vector<std::string> unmatched_patterns;  // of the recipe's ignore
  double gflop_per_second = 0;                  // measured, all threads
  std::vector<PhaseReport> phases;
  double seconds = 0;  // expected in all
  // What there is too little of, memory or disk: a sentence each, with the numbers and what to do.
  std::vector<std::string> lacking;
};

struct QuantizeReport {
  QuantizePlan plan;
  std::vector<LayerReport> layers;
  std::vector<PhaseReport> phases;
  std::vector<WrittenFile> files;
  std::string calibration_ids_sha256;
  int64_t calibration_sequences = 0;
  int64_t calibration_tokens = 0;
  int64_t tokens_cut = 0;
  int64_t num_fallbacks = 0;  // Linears that GPTQ could only round to nearest
  int64_t num_starved = 0;    // experts
  // Perplexity of the probe: by the original, by the quantized model while quantizing, and as read
  // back from disk. 0 without calibration.
  double original_perplexity = 0;
  double quantized_perplexity = 0;
  double read_back_perplexity = 0;
  double seconds = 0;
  double cpu_seconds = 0;
  int64_t peak_resident_bytes = 0;

  // No Linear was rounded to nearest for lack of tokens or of a usable Hessian.
  bool clean() const;
};

// The resources that Quantize would need. Reads the calibration rows, benchmarks the machine
// briefly, writes nothing. Throws as Quantize does for errors that are detectable before the start:
// bad options, an unsuitable input, too little memory or disk.
QuantizePlan PlanQuantization(const QuantizeOptions& options);

// Throws kResourceExhausted naming everything that is lacking, as Quantize does before it starts.
void RequireResources(const QuantizePlan& plan);

// Quantizes, then reads the output back and checks it. Throws Error; after an interruption or a
// kill, the same options with `resume` continue at the layer that was interrupted, and give the
// same bytes.
QuantizeReport Quantize(const QuantizeOptions& options);

}  // namespace nibble
