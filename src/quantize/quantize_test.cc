#include "nibble/quantize.h"

#include <gtest/gtest.h>

#include <cmath>

#include "backend/make_backend.h"
#include "checkpoint/checkpoint.h"
#include "model/scoring.h"
#include "model/weights.h"
#include "quantize/gptq/grid.h"
#include "quantize/recipe.h"
#include "tests/support/reference_data.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using nibble::testing::ReferenceData;
using nibble::testing::TemporaryDirectory;

constexpr char kModel[] = "models/tinymix";
constexpr char kRows[] = "calibration/platypus_like.jsonl";
constexpr char kGolden[] = "golden/tinymix/llmcompressor_w4a16_v041";

struct Agreement {
  int64_t codes = 0;
  int64_t equal = 0;
  int64_t off_by_more = 0;
  int64_t different_scales = 0;
};

Agreement Compare(const Checkpoint& ours, const Checkpoint& theirs) {
  Agreement agreement;
  for (int64_t layer = 0; layer < ours.config().num_layers; ++layer) {
    for (const TensorSpec& spec : LayerLinears(ours.config(), layer)) {
      const PackedView a = std::get<PackedView>(FindWeight(ours, spec));
      const PackedView b = std::get<PackedView>(FindWeight(theirs, spec));
      const auto x = UnpackCodes(a.packed, spec.rows, spec.cols, 4);
      const auto y = UnpackCodes(b.packed, spec.rows, spec.cols, 4);
      for (size_t i = 0; i < x.size(); ++i) {
        agreement.codes += 1;
        agreement.equal += x[i] == y[i];
        agreement.off_by_more += std::abs(x[i] - y[i]) > 1;
      }
      const auto s = a.scales.As<BFloat16>(), t = b.scales.As<BFloat16>();
      for (size_t i = 0; i < s.size(); ++i)
        agreement.different_scales += s[i].bits() != t[i].bits();
    }
  }
  return agreement;
}

// The recorded run of llm-compressor 0.4.1 on the same 256 rows.
TEST(Quantize, AgreesWithLlmCompressorOnTheDemonstrationModel) {
  NIBBLE_REQUIRE_REFERENCE(kGolden);
  const TemporaryDirectory directory;
  QuantizeOptions options;
  options.input = ReferenceData() / kModel;
  options.output = directory.path() / "out";
  options.calibration = ReferenceData() / kRows;
  options.samples = 256;
  options.max_seq_len = 512;
  const QuantizeReport report = Quantize(options);
  EXPECT_EQ(report.calibration_ids_sha256,
            "acdfe8b803213761e4fbd72bc5d8c58599bbfdb8e6e2696225df826e1d5c6a5e");
  EXPECT_EQ(report.calibration_tokens, 55634);
  EXPECT_EQ(report.num_fallbacks, 0);
  EXPECT_EQ(report.num_starved, 0);
  for (const LayerReport& layer : report.layers) {
    for (const LinearReport& linear : layer.linears)
      EXPECT_LT(linear.ratio_to_rtn(), 0.9) << linear.module;
  }

  const Checkpoint ours(options.output), theirs(ReferenceData() / kGolden);
  const Agreement agreement = Compare(ours, theirs);
  EXPECT_EQ(agreement.codes, 10'223'616);
  EXPECT_EQ(agreement.different_scales, 0);
  EXPECT_GE(agreement.equal, agreement.codes * 92 / 100);
  EXPECT_LE(agreement.off_by_more, agreement.codes / 10'000);  // almost all differ by one
  for (const std::string& name : ours.names()) {
    if (name.ends_with("weight_packed") || name.ends_with("weight_scale")) continue;
    const auto a = ours.Get(name).bytes(), b = theirs.Get(name).bytes();
    EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end())) << name;
  }
}

TEST(Quantize, RoundingIsThatOfEveryWeightByItself) {
  NIBBLE_REQUIRE_REFERENCE(kModel);
  const TemporaryDirectory directory;
  QuantizeOptions options;
  options.input = ReferenceData() / kModel;
  options.output = directory.path() / "out";
  options.recipe.method = "rtn";
  Quantize(options);
  const Checkpoint source(options.input), ours(options.output);
  const Recipe recipe;
  for (int64_t layer = 0; layer < 4; ++layer) {
    for (const TensorSpec& spec : LayerLinears(source.config(), layer)) {
      const std::vector<float> w = ToFloat(std::get<TensorView>(FindWeight(source, spec)));
      const PackedView packed = ours.GetPacked(spec.module, spec.rows, spec.cols);
      const auto codes = UnpackCodes(packed.packed, spec.rows, spec.cols, 4);
      for (size_t first = 0; first < w.size(); first += 128) {
        float largest = 0;
        for (size_t i = first; i < first + 128; ++i) largest = std::max(largest, std::abs(w[i]));
        const BFloat16 scale(largest / 7.5f);
        ASSERT_EQ(packed.scales.As<BFloat16>()[first / 128].bits(), scale.bits());
        for (size_t i = first; i < first + 128; ++i) {
          const float position = w[i] / static_cast<float>(scale);
          ASSERT_EQ(codes[i], std::nearbyint(std::min(std::max(position, -8.0f), 7.0f)));
        }
      }
    }
  }
}

TEST(PlanQuantization, WritesNothing) {
  NIBBLE_REQUIRE_REFERENCE(kModel);
  const TemporaryDirectory directory;
  QuantizeOptions options;
  options.input = ReferenceData() / kModel;
  options.output = directory.path() / "out";
  options.calibration = ReferenceData() / kRows;
  options.samples = 8;
  const QuantizePlan plan = PlanQuantization(options);
  EXPECT_GT(plan.seconds, 0);
  EXPECT_GT(plan.gflop_per_second, 0);
  EXPECT_EQ(plan.num_shards, 1);
  EXPECT_EQ(plan.output_bytes, 9'530'672);
  EXPECT_FALSE(fs::exists(options.output));
}

}  // namespace
}  // namespace nibble
