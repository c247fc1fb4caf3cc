#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <memory>
#include <optional>

#include "base/file.h"
#include "base/progress.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "cli/command.h"
#include "model/tensors.h"

namespace nibble {
namespace {

struct InspectOptions {
  std::string path;
  bool tensors = false;
  bool json = false;
};

Json ShapeJson(const Shape& shape) {
  Json dims = Json::array();
  for (const int64_t dim : shape.dims()) dims.push_back(dim);
  return dims;
}

// What a tensor is for; the sizes of a checkpoint are told in these words.
std::string KindOf(const ModelConfig& config, const std::string& name) {
  const std::optional<Part> part = PartOf(config, name);
  if (!part) return "other";
  switch (*part) {
    case Part::kEmbedding:
      return "embedding";
    case Part::kHead:
      return "head";
    case Part::kInputNorm:
    case Part::kQNorm:
    case Part::kKNorm:
    case Part::kMlpNorm:
    case Part::kFinalNorm:
      return "norms";
    case Part::kQ:
    case Part::kK:
    case Part::kV:
    case Part::kQBias:
    case Part::kKBias:
    case Part::kVBias:
    case Part::kSinks:
    case Part::kOut:
    case Part::kOutBias:
      return "attention";
    case Part::kRouter:
    case Part::kCorrection:
      return "routers";
    case Part::kGate:
    case Part::kUp:
    case Part::kDown:
    case Part::kSharedGate:
    case Part::kSharedUp:
    case Part::kSharedDown:
    case Part::kSharedScale:
      return "experts";
  }
  return "other";
}

// The float type that config.json states, or of the first tensor that has one.
std::string DenseType(const Checkpoint& checkpoint) {
  if (const auto& stated = checkpoint.config().dtype) return std::string(DTypeName(*stated));
  for (const std::string& name : checkpoint.names()) {
    if (IsFloat(checkpoint.Get(name).dtype())) return checkpoint.Info(name).dtype;
  }
  return "dense";
}

void PrintTensors(const Json& tensors) {
  TextTable table({"tensor", "type", "shape", "bytes"});
  for (const Json& tensor : tensors) {
    table.AddRow({tensor["name"].get<std::string>(), tensor["dtype"].get<std::string>(),
                  tensor["shape"].dump(), std::to_string(tensor["bytes"].get<int64_t>())});
  }
  PrintText(table.ToString());
}

int InspectFile(const InspectOptions& options) {
  const MappedFile file(options.path);
  const SafetensorsHeader header =
      ParseSafetensorsHeader(file.bytes(), static_cast<int64_t>(file.bytes().size()), options.path);
  Json tensors = Json::array();
  for (const SafetensorsEntry& entry : header.entries) {
    tensors.push_back({{"name", entry.name},
                       {"dtype", entry.type_name()},
                       {"shape", ShapeJson(entry.shape)},
                       {"bytes", entry.end - entry.begin}});
  }
  if (options.json) {
    PrintJson({{"file", options.path},
               {"bytes", file.bytes().size()},
               {"metadata", header.metadata},
               {"tensors", tensors}});
  } else {
    PrintTensors(tensors);
    Print("{} tensors, {}\n", header.entries.size(),
          FormatBytes(static_cast<int64_t>(file.bytes().size())));
  }
  return kExitSuccess;
}

int InspectModel(const InspectOptions& options) {
  const Checkpoint checkpoint(options.path);
  const ModelConfig& config = checkpoint.config();
  const Family& family = FindFamily(config);
  struct Size {
    int64_t tensors = 0;
    int64_t bytes = 0;
  };
  std::map<std::string, Size> sizes;
  Json tensors = Json::array();
  for (const std::string& name : checkpoint.names()) {
    const TensorInfo& info = checkpoint.Info(name);
    Size& size = sizes[KindOf(config, name)];
    ++size.tensors;
    size.bytes += info.size_bytes;
    tensors.push_back({{"name", name},
                       {"dtype", info.dtype},
                       {"shape", ShapeJson(info.shape)},
                       {"bytes", info.size_bytes}});
  }
  const auto& quant = checkpoint.quant_config();
  const std::string scheme =
      !quant ? DenseType(checkpoint)
             : fmt::format("W{}A16 {} group {}{}", quant->bits,
                           quant->symmetric ? "symmetric" : "asymmetric",
                           quant->group_size < 0 ? "channel" : std::to_string(quant->group_size),
                           quant->act_order == ActOrder::kGroup ? ", act-order group" : "");
  if (options.json) {
    Json by_kind = Json::object();
    for (const auto& [kind, size] : sizes)
      by_kind[kind] = {{"tensors", size.tensors}, {"bytes", size.bytes}};
    Json document = {{"directory", options.path},
                     {"architecture", std::string(family.title) + "ForCausalLM"},
                     {"layers", config.num_layers},
                     {"hidden_size", config.hidden_size},
                     {"intermediate_size", config.intermediate_size},
                     {"heads", config.num_heads},
                     {"kv_heads", config.num_kv_heads},
                     {"head_dim", config.head_dim},
                     {"experts", config.num_experts},
                     {"experts_per_token", config.num_experts_per_token},
                     {"vocab_size", config.vocab_size},
                     {"parameters", config.num_parameters()},
                     {"scheme", scheme},
                     {"shards", checkpoint.num_shards()},
                     {"tensors", checkpoint.names().size()},
                     {"bytes", checkpoint.total_bytes()},
                     {"kinds", by_kind}};
    if (options.tensors) document["tensor_list"] = tensors;
    PrintJson(document);
    return kExitSuccess;
  }
  Print("{}: {}, {} layers of width {}, {} experts of {} ({} a token), {}/{} heads of {}\n",
        options.path, family.title, config.num_layers, config.hidden_size, config.num_experts,
        config.intermediate_size, config.num_experts_per_token, config.num_heads,
        config.num_kv_heads, config.head_dim);
  Print("{} parameters, vocabulary {}, {}; {} tensors in {} shards\n\n", config.num_parameters(),
        config.vocab_size, scheme, checkpoint.names().size(), checkpoint.num_shards());
  TextTable table({"kind", "tensors", "bytes", "size"});
  for (const auto& [kind, size] : sizes) {
    table.AddRow(
        {kind, std::to_string(size.tensors), std::to_string(size.bytes), FormatBytes(size.bytes)});
  }
  table.AddRow({"all", std::to_string(checkpoint.names().size()),
                std::to_string(checkpoint.total_bytes()), FormatBytes(checkpoint.total_bytes())});
  PrintText(table.ToString());
  if (options.tensors) {
    PrintText("\n");
    PrintTensors(tensors);
  }
  return kExitSuccess;
}

}  // namespace

void AddInspectCommand(CLI::App& app, RunCommand& run) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* command = AddSubcommand(app, "inspect", "Describe a checkpoint or a safetensors file",
                                    "nibble inspect mixtral-w4a16 --tensors");
  AddPath(*command, "path", options->path, "Checkpoint directory or .safetensors file")
      ->required()
      ->check(CLI::ExistingPath);
  command->add_flag("--tensors", options->tensors, "List every tensor of a checkpoint");
  AddJsonFlag(*command, options->json);
  command->callback([options, &run] {
    run = [options] {
      return std::filesystem::is_directory(options->path) ? InspectModel(*options)
                                                          : InspectFile(*options);
    };
  });
}

}  // namespace nibble
