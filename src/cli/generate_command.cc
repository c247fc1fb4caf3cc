#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>

#include "base/log.h"
#include "cli/loaded_model.h"
#include "data/table.h"
#include "engine/generator.h"
#include "nibble/error.h"
#include "text/chat_template.h"

namespace nibble {
namespace {

struct GenerateOptions {
  std::string model;
  std::vector<std::string> prompts;
  std::string prompts_file;
  bool chat = false;
  std::string messages_file;
  std::string system;
  SamplingParams sampling;
  int64_t seed = 0;
  std::string kv_cache_dtype = "auto";
  DeviceOptions device;
  bool json = false;
};

// One prompt a line, or rows with a "prompt" column.
std::vector<std::string> ReadPrompts(const std::string& path) {
  const Columns columns = {.choices = {{"prompt"}, {"text"}}, .lists = false, .hint = ""};
  const Table table(path, columns, Format::kText);
  std::vector<std::string> prompts;
  table.ForEachRow([&](const Row& row) {
    if (!row.choice) {
      throw Error(ErrorCode::kInvalidData, row.where + ": " + row.WhyAbsent("prompt"));
    }
    prompts.push_back(row.value[columns.choices[*row.choice][0]].get<std::string>());
  });
  if (prompts.empty()) throw Error(ErrorCode::kInvalidData, table.name() + ": no prompts in it");
  return prompts;
}

// Text that is piped into the program is one prompt; the end of its last line is not part of it.
std::vector<std::string> PipedPrompt() {
  const int flags = ::fcntl(STDIN_FILENO, F_GETFL);
  const bool readable = flags != -1 && (flags & O_ACCMODE) != O_WRONLY;  // else it was closed
  if (!readable || ::isatty(STDIN_FILENO) == 1) return {};
  std::string text = ReadText("-");
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
  if (text.empty()) return {};
  return {std::move(text)};
}

// Prints answers in the order of the requests: the first unfinished one is streamed, later ones are
// buffered. Ends the run where they cannot be printed: FlushOutput throws.
class Streamer {
 public:
  explicit Streamer(std::vector<std::string> heads) : heads_(std::move(heads)) {
    texts_.resize(heads_.size());
    finished_.resize(heads_.size());
    PrintText(heads_.front());
    FlushOutput();
  }

  void Add(const GenerationEvent& event) {
    finished_[event.request] = event.finished;
    if (event.request != current_) {
      texts_[event.request] += event.delta;
      return;
    }
    PrintText(event.delta);
    while (current_ < heads_.size() && finished_[current_]) {
      PrintText("\n");
      if (++current_ < heads_.size()) PrintText(heads_[current_] + texts_[current_]);
    }
    FlushOutput();
  }

 private:
  std::vector<std::string> heads_;  // printed before each answer
  std::vector<std::string> texts_;  // buffered text of later answers
  std::vector<bool> finished_;
  size_t current_ = 0;
};

// Counts tokens and time of one Generate call.
class Stopwatch {
 public:
  void Count(const GenerationEvent& event) {
    if (event.token < 0) return;  // a failure
    if (tokens_++ == 0) first_ = std::chrono::steady_clock::now();
  }

  double seconds() const { return Since(start_, std::chrono::steady_clock::now()); }
  double first_token_seconds() const { return tokens_ == 0 ? 0 : Since(start_, first_); }
  int64_t tokens() const { return tokens_; }
  // Rate of the tokens after the first; prefill comes before that one.
  double tokens_per_second() const {
    const double rest = seconds() - first_token_seconds();
    return tokens_ > 1 && rest > 0 ? static_cast<double>(tokens_ - 1) / rest : 0;
  }

 private:
  using Time = std::chrono::steady_clock::time_point;
  static double Since(Time begin, Time end) {
    return std::chrono::duration<double>(end - begin).count();
  }

  Time start_ = std::chrono::steady_clock::now();
  Time first_ = start_;
  int64_t tokens_ = 0;
};

// Reads the file of --messages: a list of {"role", "content"} objects, or an object with
// "messages".
Json ReadMessages(const std::string& path) {
  const std::string where = InputName(path);
  Json document = ReadJson(path);
  if (document.is_object() && document.contains("messages")) document = document["messages"];
  if (!document.is_array() || document.empty()) {
    throw Error(ErrorCode::kInvalidData,
                where + ": expected a list of messages, each with a role and content");
  }
  for (const Json& message : document) {
    GetRequired<std::string>(message, "role", where);
  }
  return document;
}

class GenerateRun {
 public:
  explicit GenerateRun(const GenerateOptions& options)
      : options_(options), loaded_(options.model, options.device, kMaxBatchTokens) {
    generator_.max_batch_tokens = kMaxBatchTokens;
    generator_.kv_dtype = KvCacheType(options.kv_cache_dtype);
    generator_.end_ids = loaded_.EndIds();
  }

  int Prompts(const std::vector<std::string>& prompts) {
    std::vector<GenerationRequest> requests;
    std::vector<std::string> heads;
    int64_t num_two_bos = 0;
    for (const std::string& prompt : prompts) {
      requests.push_back({loaded_.Encode(prompt, true), options_.sampling});
      if (loaded_.tokenizer().BeginsWithTwoBos(requests.back().prompt)) ++num_two_bos;
      heads.push_back(prompts.size() == 1 ? std::string()
                                          : fmt::format("[{}] {}", heads.size(), prompt));
    }
    WarnOfTwoBos("prompts", num_two_bos, static_cast<int64_t>(prompts.size()));
    Stopwatch watch;
    const std::vector<Generation> results = RunRequests(requests, heads, watch);
    if (options_.json) PrintResults(prompts, requests, results, watch);
    Report(requests, watch);
    for (size_t i = 0; i < results.size(); ++i) ThrowIfFailed(results[i], i);
    return kExitSuccess;
  }

  // One answer to a conversation from a file.
  int Messages() {
    Json messages = ReadMessages(options_.messages_file);
    Answer(ChatTemplate::Load(options_.model), messages);
    if (options_.json) PrintJson({{"messages", messages}});
    return kExitSuccess;
  }

  // Turns on stdin, answers on stdout, until the end of input.
  int Chat() {
    const ChatTemplate chat_template = ChatTemplate::Load(options_.model);
    Json messages = Json::array();
    if (!options_.system.empty()) {
      messages.push_back({{"role", "system"}, {"content", options_.system}});
    }
    const bool terminal = ::isatty(STDIN_FILENO) == 1;
    std::string line;
    for (;;) {
      if (terminal) std::fputs("> ", stderr);
      if (!std::getline(std::cin, line)) break;
      if (line.empty()) continue;
      messages.push_back({{"role", "user"}, {"content", line}});
      Answer(chat_template, messages);
    }
    if (terminal) std::fputc('\n', stderr);
    if (options_.json) PrintJson({{"messages", messages}});
    return kExitSuccess;
  }

 private:
  static constexpr int64_t kMaxBatchTokens = 512;

  std::vector<Generation> RunRequests(const std::vector<GenerationRequest>& requests,
                                      const std::vector<std::string>& heads, Stopwatch& watch) {
    std::optional<Streamer> streamer;
    if (!options_.json) streamer.emplace(heads);
    return Generate(loaded_.model(), &loaded_.tokenizer(), requests, generator_,
                    [&](const GenerationEvent& event) {
                      watch.Count(event);
                      if (streamer) streamer->Add(event);
                    });
  }

  // Appends the assistant's message.
  void Answer(const ChatTemplate& chat_template, Json& messages) {
    // The template writes BOS itself.
    const std::vector<GenerationRequest> request = {
        {loaded_.Encode(chat_template.Render(messages, true), false), options_.sampling}};
    Stopwatch watch;
    const std::vector<Generation> result = RunRequests(request, {""}, watch);
    ThrowIfFailed(result.front(), 0);
    messages.push_back({{"role", "assistant"}, {"content", result.front().text}});
    Report(request, watch);
  }

  // What came of the others was printed before.
  static void ThrowIfFailed(const Generation& result, size_t index) {
    if (result.finish != FinishReason::kError) return;
    throw Error(ErrorCode::kInvalidData, fmt::format("prompt {}: {}", index, result.error));
  }

  static const char* Name(FinishReason finish) {
    switch (finish) {
      case FinishReason::kStop:
        return "stop";
      case FinishReason::kLength:
        return "length";
      case FinishReason::kError:
        return "error";
    }
    return "";
  }

  static void Report(const std::vector<GenerationRequest>& requests, const Stopwatch& watch) {
    size_t prompt_tokens = 0;
    for (const GenerationRequest& request : requests) prompt_tokens += request.prompt.size();
    LogInfo(
        "generated prompts={} prompt_tokens={} tokens={} seconds={:.3f} first_token_seconds={:.3f} "
        "tokens_per_second={:.1f}",
        requests.size(), prompt_tokens, watch.tokens(), watch.seconds(),
        watch.first_token_seconds(), watch.tokens_per_second());
  }

  static void PrintResults(const std::vector<std::string>& prompts,
                           const std::vector<GenerationRequest>& requests,
                           const std::vector<Generation>& results, const Stopwatch& watch) {
    Json generations = Json::array();
    for (size_t i = 0; i < prompts.size(); ++i) {
      generations.push_back({{"prompt", prompts[i]},
                             {"prompt_tokens", requests[i].prompt.size()},
                             {"text", results[i].text},
                             {"tokens", results[i].tokens},
                             {"log_probabilities", results[i].log_probabilities},
                             {"finish_reason", Name(results[i].finish)}});
      if (!results[i].error.empty()) generations.back()["error"] = results[i].error;
    }
    PrintJson({{"generations", generations},
               {"seconds", watch.seconds()},
               {"first_token_seconds", watch.first_token_seconds()},
               {"tokens_per_second", watch.tokens_per_second()}});
  }

  const GenerateOptions& options_;
  LoadedModel loaded_;
  GeneratorOptions generator_;
};

int RunGenerate(GenerateOptions options) {
  options.sampling.seed = options.seed;
  if (!options.messages_file.empty()) return GenerateRun(options).Messages();
  if (options.chat) return GenerateRun(options).Chat();
  std::vector<std::string> prompts = options.prompts;
  if (!options.prompts_file.empty()) prompts = ReadPrompts(options.prompts_file);
  if (prompts.empty()) prompts = PipedPrompt();
  if (prompts.empty()) {
    throw Error(ErrorCode::kInvalidArgument,
                "give --prompt TEXT, --prompts FILE, --messages FILE, --chat or a text on standard "
                "input");
  }
  return GenerateRun(options).Prompts(prompts);
}

}  // namespace

void AddGenerateCommand(CLI::App& app, RunCommand& run) {
  auto options = std::make_shared<GenerateOptions>();
  options->sampling.temperature = 0;
  options->sampling.max_tokens = 128;
  SamplingParams& sampling = options->sampling;
  CLI::App* command = AddSubcommand(app, "generate", "Continue prompts, or chat",
                                    "nibble generate demo/tinymix --prompt \"Once upon a time\" "
                                    "--max-tokens 64 --temperature 0.8 --seed 7");
  AddPath(*command, "model", options->model, "Checkpoint directory, dense or quantized")
      ->required();
  CLI::Option* prompt =
      AddTexts(*command, "--prompt", options->prompts, "Text to continue; may be given again");
  CLI::Option* file = AddPath(*command, "--prompts", options->prompts_file,
                              "File of prompts: one a line, or rows with \"prompt\" (.jsonl, "
                              ".json, .csv, .tsv, .parquet); -: standard input");
  CLI::Option* chat = command->add_flag("--chat", options->chat,
                                        "Take turns from standard input through the chat template");
  CLI::Option* messages = AddPath(*command, "--messages", options->messages_file,
                                  "JSON file, or - for standard input: a list of messages (role, "
                                  "content) to answer through the chat template");
  prompt->excludes(file)->excludes(chat)->excludes(messages);
  file->excludes(chat)->excludes(messages);
  chat->excludes(messages);
  AddText(*command, "--system", options->system, "System message of a chat")->needs(chat);
  AddNumber(*command, "--max-tokens", sampling.max_tokens, "Tokens to generate at most");
  AddNumber(*command, "--min-tokens", sampling.min_tokens, "Tokens before an end is allowed");
  AddNumber(*command, "--temperature", sampling.temperature, "0: always the most probable token");
  AddNumber(*command, "--top-p", sampling.top_p,
            "Keep the most probable tokens that make up this share");
  AddNumber(*command, "--top-k", sampling.top_k, "Keep the k most probable tokens (0: all)");
  AddNumber(*command, "--min-p", sampling.min_p,
            "Drop tokens below this share of the most probable one");
  AddNumber(*command, "--repetition-penalty", sampling.repetition_penalty,
            "Above 1: less of what prompt and output hold");
  AddNumber(*command, "--presence-penalty", sampling.presence_penalty,
            "Taken from logits of tokens in the output");
  AddNumber(*command, "--frequency-penalty", sampling.frequency_penalty,
            "The same, for each time they occur");
  AddTexts(*command, "--stop", sampling.stop,
           "Text or special token that ends the output; may be given again");
  AddNumbers(*command, "--stop-token-ids", sampling.stop_token_ids,
             "Token ids that end the output, with commas between them");
  command->add_flag("--ignore-eos", sampling.ignore_eos, "Go on after an end-of-sequence token");
  AddNumber(*command, "--seed", options->seed, "Of the random draws");
  AddKvCacheOption(*command, options->kv_cache_dtype);
  AddDeviceOptions(*command, options->device);
  AddActivationsOption(*command, options->device);
  AddJsonFlag(*command, options->json);
  command->callback([options, &run] { run = [options] { return RunGenerate(*options); }; });
}

}  // namespace nibble
