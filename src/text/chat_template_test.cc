#include "text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <filesystem>
#include <utility>

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

std::string Repeated(const std::string& part, int count) {
  std::string text;
  while (count-- > 0) text += part;
  return text;
}

TEST(ChatTemplate, EndlessLoopsEnd) {
  const auto start = std::chrono::steady_clock::now();
  const std::string loop =
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
  EXPECT_THAT(MessageOf(ErrorCode::kInvalidArgument, [&] { Render(loop); }),
              HasSubstr("line 1: it takes more than 2000000 steps"));
  const std::string recursion = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
  EXPECT_THAT(MessageOf(ErrorCode::kInvalidArgument, [&] { Render(recursion); }),
              HasSubstr("recursion"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

#if defined(__has_feature)
#define NIBBLE_HAS_FEATURE(feature) __has_feature(feature)
#else
#define NIBBLE_HAS_FEATURE(feature) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || \
    NIBBLE_HAS_FEATURE(address_sanitizer)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

int64_t PeakResidentBytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return int64_t{1024} * usage.ru_maxrss;
}

// What would fill memory or take for ever ends in an error; each template is one way to try.
TEST(ChatTemplate, HostileTemplatesEndInAnError) {
  const std::string loop = "{% for i in range(99999) %}";
  const std::string doubled = "{% set ns = namespace(x='ab') %}{% for i in range(99) %}";
  const std::string nested =
      "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}"
      "{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
  const std::string nested_keys =
      "{% set ns = namespace(x=(1,)) %}{% for i in range(99) %}"
      "{% set ns.x = (ns.x, ns.x) %}{% endfor %}";
  const std::string large = "{% set x = 'x' * 10000000 %}" + loop;
  const std::string end = "{% endfor %}";
  const int64_t resident = PeakResidentBytes();
  for (const std::string& hostile : {
           // one value
           std::string("{{ 'a' * 10**10 }}"),
           std::string("{{ [0] * 10**10 }}"),
           std::string("{{ (0,) * 10**10 }}"),
           std::string("{{ 10**10**10 }}"),
           std::string("{{ range(10**10) }}"),
           std::string("{{ 'a'.center(10**10) }}"),
           std::string("{{ 'a'.ljust(10**10) }}"),
           std::string("{{ 'a'.zfill(10**10) }}"),
           std::string("{{ '\t'.expandtabs(10**10) }}"),
           std::string("{{ '%10000000000d' % 1 }}"),
           std::string("{{ '%*d' % (10**10, 1) }}"),
           std::string("{{ '%.10000000000f' % 1.5 }}"),
           std::string("{{ '%.10000000000d' % 1 }}"),
           std::string("{{ '{:10000000000}'.format(1) }}"),
           std::string("{{ '{:*^10000000000}'.format('a') }}"),
           std::string("{{ '{:.10000000000f}'.format(1.5) }}"),
           std::string("{{ '{:010000000000,}'.format(1) }}"),
           std::string("{{ 'a' | center(10**10) }}"),
           std::string("{{ 'a\nb' | indent(10**10) }}"),
           std::string("{{ [1] | batch(10**10, 'x') | list }}"),
           std::string("{{ [1] | slice(10**10) | list }}"),
           std::string("{{ [1] | tojson(indent=10**10) }}"),
           std::string("{{ [[[1]]] | tojson(indent='x' * 10**8) }}"),
           std::string("{{ ('a' * 10**6).replace('a', 'b' * 10**6) }}"),
           std::string("{{ 'x'.join(['b' * 10**6] * 10**6) }}"),
           std::string("{{ ('a' * 10**6).translate({97: 'b' * 10**6}) }}"),
           std::string("{{ ('%s' * 10**6) % (('x' * 10**6,) * 10**6) }}"),
           std::string("{{ ('{0}' * 10**6).format('x' * 10**6) }}"),
           std::string("{{ ('<' * 10**8) | e }}"),
           std::string("{{ ('a-b-' * 10**6) | wordwrap(3) }}"),
           std::string("{{ ('x' * 10**7) | wordwrap(1, wrapstring='y' * 1000) }}"),
           // grown step by step
           doubled + "{% set ns.x = ns.x ~ ns.x %}" + end,
           doubled + "{% set ns.x = ns.x + ns.x %}" + end,
           doubled + "{% set ns.x = ns.x.replace('a', 'aa') %}" + end,
           doubled + "{% set ns.x = (ns.x, ns.x) | join %}" + end,
           doubled + "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}" + end,
           "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}" + doubled + "{% set ns.x = f(ns.x) %}" +
               end,
           nested + "{{ ns.x }}",
           nested + "{{ ns.x | tojson }}",
           nested + "{{ ns.x | pprint }}",
           nested + "{% set y = ns.x %}" + nested + "{{ ns.x == y }}",
           nested + "{% set y = ns.x %}" + nested + "{{ ns.x < y }}",
           nested_keys + "{{ {ns.x: 1} }}",
           nested_keys + "{{ [ns.x] | unique | list }}",
           // printed or read again and again
           loop + Repeated("x", 100'000) + end,
           loop + "{{ 'x' * 100000 }}" + end,
           large + "{{ x.upper() }}" + end,
           large + "{{ 'y' in x }}" + end,
           large + "{{ x.find('y') }}" + end,
           large + "{{ x == x ~ '' }}" + end,
           large + "{{ x | length }}" + end,
           large + "{{ x[9999] }}" + end,
           "{% set x = range(99999) | list %}" + loop + "{{ 0.5 in x }}" + end,
           "{% set x = range(99999) | list %}" + loop + "{{ x | sort | first }}" + end,
           // recursion
           std::string(
               "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
               "{{ f(200) }}"),
           std::string("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}"),
           std::string("{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns }}"),
       }) {
    EXPECT_THROW(Render(hostile), Error) << hostile.substr(0, 100);
  }
  // Sanitizers keep what has been freed.
  if (!kSanitized) {
    EXPECT_LT(PeakResidentBytes() - resident, int64_t{1} << 30);
  }
}

TEST(ChatTemplate, LongConversationsAreWithinTheBudget) {
  Json messages = Json::array();
  for (int i = 0; i < 1000; ++i) {
    messages.push_back(
        {{"role", i % 2 == 0 ? "user" : "assistant"}, {"content", Repeated("word ", 60)}});
  }
  const ChatTemplate chat(
      "{% set ns = namespace(all='') %}{% for m in messages %}{% if '</think>' in m.content %}x{% "
      "endif %}"
      "{% set ns.all = ns.all + m.role + ': ' + m.content | trim + '\n' %}{% endfor %}{{ ns.all }}",
      "", "");
  EXPECT_EQ(chat.Render(messages, true).size(), 1000u * (299 + 3) + 500 * 4 + 500 * 9);
}

TEST(ChatTemplate, DeepValuesDoNotOverflowTheStack) {
  const std::string nest =
      "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor "
      "%}";
  EXPECT_THROW(Render(nest + "{{ ns.x }}"), Error);
  EXPECT_THROW(Render(nest + "{{ ns.x | tojson }}"), Error);
  EXPECT_THROW(Render(nest + "{{ ns.x == [ns.x] }}"), Error);
  EXPECT_EQ(Render(nest + "end"), "end");
  const std::string deeper =
      "{% set ns = namespace(x=[]) %}{% for i in range(300) %}{% for j in range(700) %}"
      "{% set ns.x = [ns.x] %}{% endfor %}{% endfor %}end";
  EXPECT_EQ(Render(deeper), "end");
  EXPECT_EQ(Render("{{ 0" + Repeated("+1", 60'000) + " }}"), "60000");
  EXPECT_EQ(Render("{{ 'a'" + Repeated("|upper", 20'000) + " }}"), "A");
  for (const auto& [open, close] : {std::pair{"(", ")"},
                                    {"[", "]"},
                                    {"-", ""},
                                    {"not ", ""},
                                    {"{'a':", "}"},
                                    {"x[", "]"},
                                    {"1 if 1 else ", ""}}) {
    const std::string nested = Repeated(open, 9000) + "1 " + Repeated(close, 9000);
    EXPECT_THAT(MessageOf(ErrorCode::kInvalidData, [&] { Render("{{ " + nested + " }}"); }),
                HasSubstr("nested deeper than 200 levels"));
  }
  EXPECT_THAT(MessageOf(ErrorCode::kInvalidData, [&] { Render(Repeated("{% if 1 %}", 9000)); }),
              HasSubstr("nested deeper"));
  EXPECT_THAT(MessageOf(ErrorCode::kInvalidData, [&] { Render(Repeated("x", 1 << 18)); }),
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
