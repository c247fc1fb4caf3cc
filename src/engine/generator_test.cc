#include "engine/generator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "backend/host/sampler.h"
#include "backend/make_backend.h"
#include "base/file.h"
#include "base/json.h"
#include "model/scoring.h"
#include "nibble/error.h"
#include "tests/support/paths.h"
#include "tests/support/random_mixtral.h"
#include "tests/support/reference_data.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;
using testing::RandomMixtral;
using testing::RandomTokens;
using testing::TemporaryDirectory;

constexpr int64_t kVocab = 101;

// A random model on one backend.
class RandomModel {
 public:
  explicit RandomModel(const std::string& backend = "reference", int threads = 1,
                       int64_t max_tokens = 96, const RandomMixtral& random = {})
      : backend_(MakeBackend(backend, {.threads = threads, .instruction_set = {}})) {
    const TemporaryDirectory directory;
    testing::WriteRandomMixtral(random, directory.path());
    const Checkpoint checkpoint(directory.path());
    model_ = std::make_unique<Model>(checkpoint, *backend_, max_tokens);
  }
  Model& operator*() { return *model_; }

 private:
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Model> model_;
};

// Requests of many lengths, greedy and drawn, some with penalties.
std::vector<GenerationRequest> MixedRequests() {
  std::vector<GenerationRequest> requests;
  for (int64_t i = 0; i < 9; ++i) {
    GenerationRequest request;
    request.prompt = RandomTokens(1 + 13 * (i % 4), kVocab, static_cast<uint64_t>(i));
    request.params.temperature = i % 3 == 0 ? 0.0 : 0.9;
    request.params.top_p = i % 2 == 0 ? 0.9 : 1.0;
    request.params.repetition_penalty = i == 4 ? 1.3 : 1.0;
    request.params.max_tokens = 5 + 4 * i;
    if (i % 2 == 0) request.params.seed = 1000 + i;
    requests.push_back(request);
  }
  return requests;
}

std::vector<std::vector<int32_t>> TokensOf(Model& model,
                                           const std::vector<GenerationRequest>& requests,
                                           const GeneratorOptions& options = {}) {
  std::vector<std::vector<int32_t>> tokens;
  for (const Generation& generation : Generate(model, nullptr, requests, options)) {
    EXPECT_EQ(generation.log_probabilities.size(), generation.tokens.size());
    tokens.push_back(generation.tokens);
  }
  return tokens;
}

// The definition of generation: one token at a time, running the whole sequence again for each.
std::vector<int32_t> GenerateSlowly(Model& model, const GenerationRequest& request) {
  Sampler sampler;
  std::vector<int32_t> tokens = request.prompt;
  std::vector<int32_t> output;
  while (static_cast<int64_t>(output.size()) < request.params.max_tokens) {
    std::vector<float> last;
    SequenceLogits(model, tokens, [&](int64_t, std::span<const float> run) {
      last.assign(run.end() - kVocab, run.end());
    });
    const uint64_t seed = static_cast<uint64_t>(request.params.seed.value());
    output.push_back(
        sampler.Sample({&request.params, request.prompt, output, {}, seed}, last).token);
    tokens.push_back(output.back());
  }
  return output;
}

TEST(Generator, EqualsRunningTheWholeSequenceForEachToken) {
  RandomModel model;
  std::vector<GenerationRequest> requests = MixedRequests();
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].params.seed = static_cast<int64_t>(10 + i);
  }
  const auto tokens = TokensOf(*model, requests);
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(tokens[i], GenerateSlowly(*model, requests[i])) << "request " << i;
  }
}

class GeneratorOn : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Generator, GeneratorOn, ::testing::Values("reference", "cpu"));

TEST_P(GeneratorOn, TokensDoNotDependOnHowStepsAreCut) {
  RandomModel model(GetParam());
  const auto requests = MixedRequests();
  const auto expected = TokensOf(*model, requests);
  for (const int64_t max_batch_tokens : {1, 7, 40}) {
    EXPECT_EQ(TokensOf(*model, requests, {.max_batch_tokens = max_batch_tokens}), expected);
  }
  for (const int64_t max_sequences : {1, 3}) {
    EXPECT_EQ(TokensOf(*model, requests, {.max_sequences = max_sequences}), expected);
  }
  for (const int64_t block_size : {1, 5, 64}) {
    EXPECT_EQ(TokensOf(*model, requests, {.block_size = block_size}), expected);
  }
  // The largest request takes six blocks, so such small pools preempt frequently.
  for (const int64_t num_blocks : {6, 8, 11}) {
    EXPECT_EQ(TokensOf(*model, requests, {.block_size = 16, .num_blocks = num_blocks}), expected);
  }
  EXPECT_EQ(TokensOf(*model, requests, {.max_batch_tokens = 9, .block_size = 3, .num_blocks = 30}),
            expected);
}

TEST_P(GeneratorOn, TokensDoNotDependOnBatchMates) {
  RandomModel model(GetParam());
  auto requests = MixedRequests();
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].params.seed = static_cast<int64_t>(i);  // not by index: each is run as number 0 too
  }
  const auto together = TokensOf(*model, requests);
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(TokensOf(*model, {requests[i]}).front(), together[i]) << "request " << i;
  }
}

TEST(Generator, TokensDoNotDependOnThreads) {
  const auto requests = MixedRequests();
  RandomModel one("cpu", 1);
  const auto expected = TokensOf(*one, requests);
  for (const int threads : {2, 5}) {
    RandomModel many("cpu", threads);
    EXPECT_EQ(TokensOf(*many, requests), expected);
  }
}

TEST(Generator, SeedsMakeDrawsRepeatableAndDifferent) {
  RandomModel model;
  GenerationRequest request{.prompt = {1, 2, 3}, .params = {.max_tokens = 12}};
  const std::vector<GenerationRequest> twice = {request, request};
  const auto a = TokensOf(*model, twice, {.seed = 5});
  EXPECT_NE(a[0], a[1]);  // same prompt, another index
  EXPECT_EQ(TokensOf(*model, twice, {.seed = 5}), a);
  EXPECT_NE(TokensOf(*model, twice, {.seed = 6}), a);
  request.params.seed = 9;
  const auto b = TokensOf(*model, {request, request}, {.seed = 5});
  EXPECT_EQ(b[0], b[1]);
}

TEST(Generator, ReportsTheLogProbabilityOfTheModelItself) {
  RandomModel model;
  GenerationRequest request{.prompt = {1, 2, 3}, .params = {.temperature = 0.7, .max_tokens = 10}};
  request.params.presence_penalty = 1.5;
  const std::vector<GenerationRequest> requests = {request};
  const Generation generation = Generate(*model, nullptr, requests, {}).front();
  std::vector<int32_t> whole = request.prompt;
  whole.insert(whole.end(), generation.tokens.begin(), generation.tokens.end());
  const std::vector<ScoredSequence> sequences = {{whole}};
  const auto scores = ScoreSequences(*model, sequences).front();
  for (size_t i = 0; i < generation.tokens.size(); ++i) {
    EXPECT_NEAR(generation.log_probabilities[i], scores[2 + i].log_probability, 1e-9);
  }
}

TEST(Generator, ARequestThatBreaksFailsAlone) {
  for (const char* backend : {"reference", "cpu"}) {
    RandomModel model(backend, 1, 96, testing::BrokenForTokenSeven());
    std::vector<GenerationRequest> requests;
    for (const std::vector<int32_t>& prompt :
         {std::vector<int32_t>{1, 20}, {1, 7, 30}, {33, 12}, std::vector<int32_t>{7}}) {
      // Token 7 stays in prompts: the good requests must not draw it.
      requests.push_back({prompt, {.temperature = 0, .max_tokens = 5}});
    }
    const std::vector<GenerationRequest> good = {requests[0], requests[2]};
    const auto alone = TokensOf(*model, good);
    std::vector<size_t> failed;
    const auto all = Generate(*model, nullptr, requests, {}, [&](const GenerationEvent& event) {
      if (event.token < 0) failed.push_back(event.request);
      EXPECT_TRUE(event.token >= 0 || event.finished);
    });
    EXPECT_EQ(failed, (std::vector<size_t>{1, 3}));
    EXPECT_EQ(all[0].tokens, alone[0]);
    EXPECT_EQ(all[2].tokens, alone[1]);
    for (const size_t i : failed) {
      EXPECT_EQ(all[i].finish, FinishReason::kError);
      EXPECT_THAT(all[i].error, HasSubstr("model.layers.1:"));
      EXPECT_TRUE(all[i].tokens.empty());
    }
  }
}

TEST(Generator, EndIdsStopUnlessIgnoredAndStopIdsAlways) {
  RandomModel model;
  GenerationRequest request{.prompt = {1, 2, 3}, .params = {.temperature = 0, .max_tokens = 12}};
  const auto free = TokensOf(*model, {request}).front();
  const int32_t third = free[2];
  const auto first = std::find(free.begin(), free.end(), third) - free.begin();
  const std::vector<int32_t> cut(free.begin(), free.begin() + first + 1);

  const std::vector<GenerationRequest> requests = {request};
  const Generation stopped = Generate(*model, nullptr, requests, {.end_ids = {third}}).front();
  EXPECT_EQ(stopped.tokens, cut);
  EXPECT_EQ(stopped.finish, FinishReason::kStop);

  request.params.ignore_eos = true;
  EXPECT_EQ(TokensOf(*model, {request}, {.end_ids = {third}}).front(), free);
  request.params.stop_token_ids = {third};
  EXPECT_EQ(TokensOf(*model, {request}, {.end_ids = {third}}).front(), cut);

  request.params.min_tokens = 8;
  const auto late = TokensOf(*model, {request}).front();
  EXPECT_GE(late.size(), 8u);
  EXPECT_EQ(std::count(late.begin(), late.begin() + 8, third), 0);
}

TEST(Generator, StopsAtTheLastPosition) {
  RandomModel model("reference", 1, 96, RandomMixtral{.max_positions = 20});
  GenerationRequest request{.prompt = RandomTokens(15, kVocab, 1),
                            .params = {.temperature = 0, .max_tokens = 100}};
  const std::vector<GenerationRequest> requests = {request};
  const Generation generation = Generate(*model, nullptr, requests, {}).front();
  EXPECT_EQ(generation.tokens.size(), 5u);
  EXPECT_EQ(generation.finish, FinishReason::kLength);
}

TEST(Generator, RefusesWhatCannotRun) {
  RandomModel model;
  const auto error_of = [&](const GenerationRequest& request,
                            const GeneratorOptions& options = {}) {
    try {
      const std::vector<GenerationRequest> requests = {{.prompt = {1}, .params = {}}, request};
      Generate(*model, nullptr, requests, options);
    } catch (const Error& error) {
      return std::string(ErrorCodeName(error.code())) + ": " + error.what();
    }
    return std::string("none");
  };
  EXPECT_THAT(error_of({}), HasSubstr("prompt 1: it has no tokens"));
  EXPECT_THAT(error_of({.prompt = {1, 101}, .params = {}}), HasSubstr("token id 101"));
  EXPECT_THAT(error_of({.prompt = {-1}, .params = {}}), HasSubstr("token id -1"));
  EXPECT_THAT(error_of({.prompt = RandomTokens(512, kVocab, 1), .params = {}}),
              HasSubstr("prompt 1: 512 tokens"));
  EXPECT_THAT(error_of({.prompt = {1}, .params = {.top_p = 0}}), HasSubstr("top_p"));
  EXPECT_THAT(error_of({.prompt = {1}, .params = {.stop = {"x"}}}), HasSubstr("tokenizer"));
  EXPECT_THAT(
      error_of({.prompt = {1}, .params = {.max_tokens = 100}}, {.block_size = 16, .num_blocks = 6}),
      HasSubstr("one request alone may need 7 blocks"));
  EXPECT_EQ(
      error_of({.prompt = {1}, .params = {.max_tokens = 97}}, {.block_size = 16, .num_blocks = 7}),
      "none");
}

TEST(Generator, EventsTellEachTokenOnceAndTheLastOneAsSuch) {
  RandomModel model;
  const auto requests = MixedRequests();
  std::vector<std::vector<int32_t>> told(requests.size());
  std::vector<bool> finished(requests.size(), false);
  const auto generations = Generate(*model, nullptr, requests, {.block_size = 16, .num_blocks = 6},
                                    [&](const GenerationEvent& event) {
                                      EXPECT_FALSE(finished[event.request]);
                                      told[event.request].push_back(event.token);
                                      finished[event.request] = event.finished;
                                    });
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(told[i], generations[i].tokens);
    EXPECT_TRUE(finished[i]);
  }
}

TEST(Generator, NoRequestsGiveNothing) {
  RandomModel model;
  EXPECT_TRUE(Generate(*model, nullptr, {}, {}).empty());
}

// The demonstration model with another of its tokens made special.
TEST(Generator, AStopStringThatIsASpecialTokenStopsAtItsId) {
  const auto demo = std::filesystem::path(kSourceDir) / "demo/tinymix";
  const TemporaryDirectory directory;
  const auto backend = MakeBackend("cpu");
  Model model(Checkpoint(demo), *backend, 64);
  const Tokenizer plain = Tokenizer::Load(demo);
  const std::vector<GenerationRequest> requests = {
      {.prompt = plain.Encode("Once upon a time", true),
       .params = {.temperature = 0, .max_tokens = 12}}};
  const Generation free = Generate(model, &plain, requests, {}).front();
  const int32_t comma = plain.TokenToId(",").value();
  const auto at = std::find(free.tokens.begin(), free.tokens.end(), comma);
  ASSERT_NE(at, free.tokens.end());

  std::filesystem::copy_file(demo / "tokenizer.json", directory.path() / "tokenizer.json");
  WriteTextFile(directory.path() / "tokenizer_config.json",
                R"({"additional_special_tokens": [",", "<unk>"]})");
  const Tokenizer special = Tokenizer::Load(directory.path());
  std::vector<GenerationRequest> stopping = requests;
  stopping[0].params.stop = {"no such text", ","};
  const Generation stopped = Generate(model, &special, stopping, {}).front();
  EXPECT_EQ(stopped.tokens, std::vector<int32_t>(free.tokens.begin(), at + 1));
  EXPECT_EQ(stopped.finish, FinishReason::kStop);
  EXPECT_EQ(stopped.text, free.text.substr(0, free.text.find(',')));
}

// With a real tokenizer: text.
class TinymixGenerator : public ::testing::Test {
 protected:
  void SetUp() override {
    NIBBLE_REQUIRE_REFERENCE("models/tinymix/config.json");
    NIBBLE_REQUIRE_REFERENCE("golden/tinymix/greedy_64.json");
    const auto directory = testing::ReferenceData() / "models/tinymix";
    backend_ = MakeBackend("cpu");
    model_ = std::make_unique<Model>(Checkpoint(directory), *backend_, 256);
    tokenizer_ = std::make_unique<Tokenizer>(Tokenizer::Load(directory));
    golden_ = ReadJsonFile((testing::ReferenceData() / "golden/tinymix/greedy_64.json").string());
    for (const Json& prompt :
         ReadJsonFile((testing::ReferenceData() / "golden/tinymix/prompts.json").string())) {
      GenerationRequest request;
      request.prompt = prompt["ids"].get<std::vector<int32_t>>();
      request.params.temperature = 0;
      request.params.max_tokens = 64;
      request.params.ignore_eos = true;
      requests_.push_back(request);
    }
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  Json golden_;
  std::vector<GenerationRequest> requests_;
};

TEST_F(TinymixGenerator, GreedyTextsEqualTheRecordedOnesUpToAnExcusedStep) {
  const auto generations = Generate(*model_, tokenizer_.get(), requests_, {});
  ASSERT_EQ(generations.size(), golden_.size());
  size_t equal = 0;
  for (size_t i = 0; i < generations.size(); ++i) {
    const auto expected = golden_[i]["generated_ids"].get<std::vector<int32_t>>();
    const auto at = std::mismatch(expected.begin(), expected.end(), generations[i].tokens.begin());
    if (at.first == expected.end()) {
      // The recorded texts spell out special tokens, which generated text leaves out.
      std::string text = golden_[i]["text"].get<std::string>();
      for (const std::string special : {"</s>", "<s>"}) {
        for (size_t found; (found = text.find(special)) != std::string::npos;) {
          text.erase(found, special.size());
        }
      }
      EXPECT_EQ(generations[i].text, text);
      ++equal;
    } else {
      const size_t step = static_cast<size_t>(at.first - expected.begin());
      EXPECT_LT(golden_[i]["margin"][step].get<double>(), 2e-2) << "prompt " << i;
    }
  }
  EXPECT_GE(equal, 8u);
}

TEST_F(TinymixGenerator, DeltasMakeUpTheTextAndEndBeforeAStopString) {
  const std::string whole =
      Generate(*model_, tokenizer_.get(), std::span(requests_).first(1), {}).front().text;
  const size_t space = whole.find(' ', whole.size() / 2);
  ASSERT_NE(space, std::string::npos);
  const std::string stop = whole.substr(space, 4);  // across a word boundary
  requests_[0].params.stop = {"no such text", stop};
  std::vector<std::string> deltas(2);
  const auto generations =
      Generate(*model_, tokenizer_.get(), std::span(requests_).first(2), {},
               [&](const GenerationEvent& event) { deltas[event.request] += event.delta; });
  EXPECT_EQ(generations[0].text, whole.substr(0, whole.find(stop)));
  EXPECT_EQ(generations[0].finish, FinishReason::kStop);
  EXPECT_LT(generations[0].tokens.size(), 64u);
  EXPECT_EQ(deltas[0], generations[0].text);
  EXPECT_EQ(deltas[1], generations[1].text);
  EXPECT_EQ(generations[1].finish, FinishReason::kLength);
}

}  // namespace
}  // namespace nibble
