#include "text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>

#include "base/file.h"
#include "nibble/error.h"
#include "tests/support/paths.h"
#include "tests/support/reference_data.h"
#include "tests/support/temporary_directory.h"
#include "text/tokenizer.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

const fs::path kDemo = fs::path(kSourceDir) / "demo/tinymix";
const Json kTurns = {{{"role", "user"}, {"content", "Hi"}},
                     {{"role", "assistant"}, {"content", "Hello"}},
                     {{"role", "user"}, {"content", "Bye"}}};

std::string Render(const std::string& source, const Json& variables = Json::object()) {
  return ChatTemplate(source, "<s>", "</s>").Render(Json::array(), false, variables);
}

template <typename Call>
std::string MessageOf(ErrorCode code, Call call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  return "nothing thrown";
}

TEST(ChatTemplate, RendersTheDemoModelsTemplate) {
  const ChatTemplate chat = ChatTemplate::Load(kDemo);
  EXPECT_EQ(chat.Render(kTurns, true), "<s> [INST] Hi [/INST] Hello</s> [INST] Bye [/INST]");
}

TEST(ChatTemplate, FindsTheTemplateOfAModel) {
  const testing::TemporaryDirectory temporary;
  const fs::path& folder = temporary.path();
  EXPECT_THAT(MessageOf(ErrorCode::kNotFound, [&] { ChatTemplate::Load(folder); }),
              HasSubstr("no chat template"));
  WriteTextFile(folder / "tokenizer_config.json", R"({"bos_token": "<B>", "chat_template": [
      {"name": "default", "template": "plain{{ bos_token }}{{ eos_token }}"},
      {"name": "tool_use", "template": "with {{ tools | length }} tool"}]})");
  EXPECT_EQ(ChatTemplate::Load(folder).Render(kTurns, true), "plain<B>");
  EXPECT_EQ(ChatTemplate::Load(folder).Render(kTurns, true, {{"tools", {1}}}), "with 1 tool");
  WriteTextFile(folder / "chat_template.json", R"({"chat_template": "from json"})");
  EXPECT_EQ(ChatTemplate::Load(folder).Render(kTurns, true), "from json");
  WriteTextFile(folder / "chat_template.jinja", "from jinja{{ bos_token }}");
  EXPECT_EQ(ChatTemplate::Load(folder).Render(kTurns, true), "from jinja<B>");
  WriteTextFile(folder / "chat_template.jinja", "{% if %}");
  EXPECT_THAT(MessageOf(ErrorCode::kInvalidData, [&] { ChatTemplate::Load(folder); }),
              HasSubstr("chat_template.jinja: syntax error"));
}

TEST(ChatTemplate, KnowsTheTime) {
  const std::string year = Render("{{ strftime_now('%Y') }}");
  EXPECT_EQ(year.size(), 4u);
  EXPECT_GE(year, "2024");
  EXPECT_EQ(Render("{{ strftime_now('%d %b %Y') | length }}"), "11");
  EXPECT_THAT(MessageOf(ErrorCode::kInvalidArgument, [] { Render("{{ strftime_now('%Q') }}"); }),
              HasSubstr("strftime_now"));
}

TEST(ChatTemplate, AnErrorSaysWhatAndWhere) {
  EXPECT_EQ(MessageOf(ErrorCode::kInvalidArgument,
                      [] { Render("{{ raise_exception('Roles must alternate') }}"); }),
            "chat template: Roles must alternate");
  EXPECT_THAT(
      MessageOf(ErrorCode::kInvalidArgument, [] { Render("\n\n{{ messages.x.content }}"); }),
      HasSubstr("messages.x"));
  EXPECT_THAT(MessageOf(ErrorCode::kInvalidArgument, [] { Render("x", {{"a", "\xff"}}); }),
              HasSubstr("not valid UTF-8"));
}

TEST(ChatTemplate, BytesThatAreNotUtf8AreBadDataNotABug) {
  const testing::TemporaryDirectory temporary;
  WriteTextFile(temporary.path() / "chat_template.jinja", "\xff");
  EXPECT_THAT(MessageOf(ErrorCode::kInvalidData, [&] { ChatTemplate::Load(temporary.path()); }),
              HasSubstr("chat_template.jinja: not valid UTF-8"));
}

TEST(ChatTemplate, EndlessLoopsEnd) {
  const auto start = std::chrono::steady_clock::now();
  const std::string loop =
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
  EXPECT_THAT(MessageOf(ErrorCode::kInvalidArgument, [&] { Render(loop); }), HasSubstr("fuel"));
  const std::string recursion = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
  EXPECT_THAT(MessageOf(ErrorCode::kInvalidArgument, [&] { Render(recursion); }),
              HasSubstr("recursion"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

TEST(ChatTemplate, DeepValuesDoNotOverflowTheStack) {
  const std::string nest =
      "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor "
      "%}";
  EXPECT_THROW(Render(nest + "{{ ns.x }}"), Error);
  EXPECT_THROW(Render(nest + "{{ ns.x | tojson }}"), Error);
  EXPECT_EQ(Render(nest + "end"), "end");
  const std::string deeper =
      "{% set ns = namespace(x=[]) %}{% for i in range(300) %}{% for j in range(700) %}"
      "{% set ns.x = [ns.x] %}{% endfor %}{% endfor %}end";
  EXPECT_EQ(Render(deeper), "end");
  const auto repeated = [](const std::string& part, int count) {
    std::string text;
    while (count-- > 0) text += part;
    return text;
  };
  EXPECT_EQ(Render("{{ " + repeated("-", 100'000) + "1 }}"), "1");
  EXPECT_EQ(Render("{{ 0" + repeated("+1", 60'000) + " }}"), "60000");
  EXPECT_THROW(Render("{{ " + repeated("(", 100'000) + "1 }}"), Error);
  EXPECT_THAT(MessageOf(ErrorCode::kInvalidData, [&] { Render(repeated("x", 1 << 18)); }),
              HasSubstr("262144 bytes; the limit is 131072"));
}

// --- goldens recorded by tools/record_chat_templates.py ---

// The result of a rendering, in the form of the recorded ones.
Json Outcome(const std::string& source, const Json& messages, bool add_generation_prompt,
             const Json& variables) {
  try {
    return {
        {"text",
         ChatTemplate(source, "<s>", "</s>").Render(messages, add_generation_prompt, variables)}};
  } catch (const Error& error) {
    return {{"error", error.what()}};
  }
}

void ExpectAsRecorded(const Json& recorded, const Json& outcome) {
  if (recorded.contains("text")) {
    EXPECT_EQ(outcome, (Json{{"text", recorded["text"]}}));
  } else if (recorded.contains("raised")) {
    const std::string message = recorded["raised"].get<std::string>();
    EXPECT_EQ(outcome, (Json{{"error", "chat template: " + message}}));
  } else {
    EXPECT_TRUE(outcome.contains("error")) << outcome << " instead of " << recorded;
  }
}

Json ReadGolden() {
  return ReadJsonFile((fs::path(kSourceDir) / "tests/golden/chat_templates.json").string());
}

TEST(ChatTemplateGolden, ExpressionsEqualJinja) {
  const Json golden = ReadGolden();
  for (const Json& expression : golden["expressions"]) {
    const std::string source = expression["template"].get<std::string>();
    SCOPED_TRACE(source);
    ExpectAsRecorded(expression, Outcome(source, Json::array(), false, golden["variables"]));
  }
}

TEST(ChatTemplateGolden, RealTemplatesEqualTransformers) {
  NIBBLE_REQUIRE_REFERENCE("golden/chat_templates");
  const Json golden = ReadGolden();
  for (const Json& entry : golden["templates"]) {
    const fs::path file = nibble::testing::ReferenceData() / entry["file"].get<std::string>();
    const std::string source =
        file.extension() == ".jinja"
            ? ReadTextFile(file)
            : GetRequired<std::string>(ReadJsonFile(file.string()), "chat_template", file.string());
    for (const Json& result : entry["results"]) {
      SCOPED_TRACE(file.string() + ": " + result["conversation"].get<std::string>());
      Json variables = golden["special_tokens"];
      variables.update(golden["conversations"][result["conversation"].get<std::string>()]);
      ExpectAsRecorded(result, Outcome(source, variables["messages"],
                                       result["add_generation_prompt"].get<bool>(), variables));
    }
  }
}

// Mistral's own library on its sample conversations: text and ids, each by their template and
// model. (The other samples hold JSON inside strings, which the library rewrites and no template
// can.)
TEST(ChatTemplateGolden, SamplesEqualMistralCommon) {
  const fs::path data = nibble::testing::ReferenceData();
  NIBBLE_REQUIRE_REFERENCE("golden/mistral_common/samples");
  struct Version {
    std::string name;
    std::string model;
    std::vector<std::string> samples;
  };
  for (const Version& version :
       {Version{"v1", "tokenizer.model.v1", {"no_tools"}},
        Version{"v2", "mistral_instruct_tokenizer_240216.model.v2", {"no_tools", "several_calls"}},
        Version{"v3",
                "mistral_instruct_tokenizer_240323.model.v3",
                {"no_tools", "parallel_calls", "several_calls"}}}) {
    const testing::TemporaryDirectory temporary;
    const fs::path& folder = temporary.path();
    fs::create_symlink(data / "tokenizers/mistral" / version.model, folder / "tokenizer.model");
    WriteTextFile(folder / "tokenizer_config.json", R"({"legacy": false})");
    fs::create_symlink(
        data / "golden/mistral_common/chat_templates" / (version.name + "_spm.jinja"),
        folder / "chat_template.jinja");
    const Tokenizer tokenizer = Tokenizer::Load(folder);
    const ChatTemplate chat = ChatTemplate::Load(folder);
    for (const std::string& name : version.samples) {
      SCOPED_TRACE(version.name + " " + name);
      const fs::path sample = data / "golden/mistral_common/samples" / name;
      const Json request = ReadJsonFile((sample / "sample.json").string());
      const Json tokens = ReadJsonFile((sample / ("tokens_" + version.name + ".json")).string());
      const std::string text =
          chat.Render(request["messages"], false, {{"tools", request["tools"]}});
      EXPECT_EQ(tokenizer.Encode(text, false), tokens["tokens"].get<std::vector<int32_t>>());
    }
  }
}

}  // namespace
}  // namespace nibble
