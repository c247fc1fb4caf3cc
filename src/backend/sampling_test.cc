#include "backend/sampling.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "nibble/error.h"

namespace nibble {
namespace {

TEST(CheckSamplingParams, NamesTheFieldItRefuses) {
  const std::pair<SamplingParams, const char*> cases[] = {
      {{.temperature = -1}, "temperature"},
      {{.top_p = 0}, "top_p"},
      {{.top_p = 1.1}, "top_p"},
      {{.top_k = -2}, "top_k"},
      {{.min_p = 2}, "min_p"},
      {{.repetition_penalty = 0}, "repetition_penalty"},
      {{.presence_penalty = 3}, "presence_penalty"},
      {{.frequency_penalty = -3}, "frequency_penalty"},
      {{.max_tokens = 0}, "max_tokens"},
      {{.max_tokens = 4, .min_tokens = 5}, "min_tokens"},
      {{.stop = {""}}, "stop"},
      {{.stop_token_ids = {100}}, "stop_token_ids"},
  };
  for (const auto& [params, field] : cases) {
    try {
      CheckSamplingParams(params, 100);
      ADD_FAILURE() << field << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_TRUE(std::string(error.what()).starts_with("`" + std::string(field) + "`: "))
          << error.what();
    }
  }
}

}  // namespace
}  // namespace nibble
