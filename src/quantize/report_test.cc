#include "quantize/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

namespace nibble {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

QuantizeReport Example() {
  QuantizeReport report;
  LayerReport& layer = report.layers.emplace_back();
  layer.layer = 0;
  layer.expert_tokens = {10, 0};
  layer.expert_extra_tokens = {0, 7};
  layer.starved_experts = {1};
  layer.divergence = {256, 0.001, 0.9, 0.01};
  LinearReport linear;
  linear.module = "model.layers.0.self_attn.q_proj";
  linear.method = "gptq";
  linear.tokens = 100;
  linear.relative_error = 0.01;
  linear.relative_error_rtn = 0.04;
  linear.dampening = 0.2;
  linear.retries = 1;
  layer.linears.push_back(linear);
  linear.module = "model.layers.0.block_sparse_moe.experts.1.w1";
  linear.method = "rtn";
  linear.tokens = 0;
  linear.retries = 0;
  linear.relative_error = linear.relative_error_rtn = -1;
  linear.fell_back = true;
  layer.linears.push_back(linear);
  report.num_fallbacks = 1;
  report.num_starved = 1;
  report.phases = {{"solve", 2, 3.5, 100, 1}};
  report.files = {{"model.safetensors", 123, "abc"}};
  report.calibration_tokens = 100;
  report.plan.calibration_columns = {{"instruction+output", 3}, {"text", 1}};
  report.plan.calibration_rows = 6;
  report.plan.calibration_rows_skipped = 2;
  report.original_perplexity = 8;
  report.read_back_perplexity = 8.4;
  return report;
}

TEST(Report, TheTableNamesEveryWorryAndEndsInTheCountOfFallbacks) {
  EXPECT_THAT(
      ReportTable(Example()),
      AllOf(HasSubstr("layer 0 expert 1 was routed 0 tokens, shown 7 more"),
            HasSubstr("fallback: model.layers.0.block_sparse_moe.experts.1.w1"),
            HasSubstr("damped: model.layers.0.self_attn.q_proj needed 0.2"),
            HasSubstr("0.250 of its error"), HasSubstr("+5.00 %"),
            HasSubstr("bound     1.00 s    50 %"),
            HasSubstr("calibrated with 3 rows of instruction+output, 1 of text; 2 of 6 rows had no "
                      "text\n"),
            EndsWith("2 linears written, read back and equal; 1 starved experts; 1 fallbacks\n")));
}

TEST(Report, LinesCarryTheSameAsJson) {
  const QuantizeReport report = Example();
  std::istringstream lines(ReportLines(report, {{"method", "gptq"}}));
  std::vector<Json> events;
  std::string line;
  while (std::getline(lines, line)) events.push_back(Json::parse(line));
  ASSERT_GE(events.size(), 6u);
  EXPECT_EQ(events[0]["event"], "run");
  EXPECT_EQ(events[0]["method"], "gptq");
  EXPECT_EQ(events[1]["ratio_to_rtn"], 0.25);
  EXPECT_EQ(events[3]["starved_experts"].dump(), "[1]");
  EXPECT_EQ(events[4]["sha256"], "abc");
  EXPECT_EQ(events[5]["fallbacks"], 1);
  EXPECT_EQ(events[5]["calibration_columns"], Json({{"instruction+output", 3}, {"text", 1}}));
  EXPECT_EQ(ToJson(report)["layers"][0]["linears"][1]["fell_back"], true);
}

TEST(Report, AFileMayHaveAnyName) {
  QuantizeReport report = Example();
  report.files = {{"LICENSE\xff", 5, "abc"}};
  EXPECT_THAT(ReportLines(report, Json::object()), HasSubstr("\"LICENSE\xEF\xBF\xBD\""));
}

TEST(Report, ALayerSurvivesTheLedger) {
  const LayerReport layer = Example().layers[0];
  const LayerReport back = LayerReportFromJson(ToJson(layer), "here");
  EXPECT_EQ(ToJson(back)["linears"], ToJson(layer)["linears"]);
  EXPECT_EQ(back.expert_extra_tokens, layer.expert_extra_tokens);
  EXPECT_THROW(LayerReportFromJson(Json::parse(R"({"layer": "x"})"), "here"), Error);
}

TEST(Report, ThePlanSaysWhatIsNeeded) {
  QuantizePlan plan;
  plan.memory = {{"Hessians", 5'000'000'000}};
  plan.memory_bytes = 5'000'000'000;
  plan.budget_bytes = 8'000'000'000;
  plan.output_bytes = 73'000'000'000;
  plan.num_shards = 15;
  plan.phases = {{"solve", 0, 0, 1000, 90}};
  plan.seconds = 90;
  EXPECT_THAT(PlanTable(plan),
              AllOf(HasSubstr("5.0 GB  of a budget of 8.0 GB"), HasSubstr("15 files"),
                    Not(HasSubstr("activations, while it runs")), Not(HasSubstr("rows"))));
  plan.calibration_columns = {{"text", 512}};
  plan.unmatched_patterns = {"re:x"};
  EXPECT_THAT(PlanTable(plan), HasSubstr("calibration\n  512 rows of text\n"));
  EXPECT_EQ(ToJson(plan)["calibration_columns"]["text"], 512);
  EXPECT_EQ(ToJson(plan)["unmatched_patterns"][0], "re:x");
  plan.scratch_disk_bytes = 1'000'000;
  EXPECT_THAT(PlanTable(plan), HasSubstr("activations, while it runs"));
  EXPECT_EQ(ToJson(plan)["lacking"].dump(), "[]");
  plan.lacking = {"one", "two"};
  EXPECT_EQ(ToJson(plan)["lacking"].dump(), R"(["one","two"])");
}

}  // namespace
}  // namespace nibble
