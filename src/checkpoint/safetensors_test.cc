#include "checkpoint/safetensors.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "base/file.h"
#include "nibble/error.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string LengthBytes(uint64_t length) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>((length >> (8 * i)) & 0xff);
  return bytes;
}

// A file with this header and so many bytes of data.
std::string File(const std::string& json, size_t data_bytes) {
  return LengthBytes(json.size()) + json + std::string(data_bytes, 'd');
}

SafetensorsHeader Parse(const std::string& bytes) {
  // A copy of the exact size, so that the sanitizer detects a read past the end.
  const std::vector<std::byte> exact(
      reinterpret_cast<const std::byte*>(bytes.data()),
      reinterpret_cast<const std::byte*>(bytes.data() + bytes.size()));
  return ParseSafetensorsHeader(exact, static_cast<int64_t>(exact.size()), "x.safetensors");
}

TEST(ParseSafetensorsHeader, ReadsTheDocumentedExample) {
  const std::string json = R"({"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}} )";
  const std::string bytes = File(json, 4);
  EXPECT_EQ(bytes.substr(0, 8), std::string("\x38\0\0\0\0\0\0\0", 8));
  EXPECT_EQ(bytes.size(), 68u);
  const SafetensorsHeader header = Parse(bytes);
  ASSERT_EQ(header.entries.size(), 1u);
  EXPECT_EQ(header.entries[0].name, "a");
  EXPECT_EQ(header.entries[0].dtype, DType::kBF16);
  EXPECT_EQ(header.entries[0].shape, Shape{2});
  EXPECT_EQ(header.entries[0].begin, 0);
  EXPECT_EQ(header.entries[0].end, 4);
  EXPECT_EQ(header.data_offset, 64);
}

TEST(ParseSafetensorsHeader, AcceptsWhatTheFormatAllows) {
  EXPECT_TRUE(Parse(File("{}", 0)).entries.empty());
  const SafetensorsHeader header = Parse(File(
      R"({"b":{"data_offsets":[8,9],"shape":[],"dtype":"U8"},"__metadata__":{"format":"pt","é":""},)"
      R"("a":{"dtype":"I64","shape":[1,1,1],"data_offsets":[0,8]},)"
      R"("none":{"dtype":"F32","shape":[3,0],"data_offsets":[8,8]}}   )",
      9));
  ASSERT_EQ(header.entries.size(), 3u);
  EXPECT_EQ(header.entries[0].name, "a");  // in the order of the data
  EXPECT_EQ(header.entries[1].name, "none");
  EXPECT_EQ(header.entries[2].shape, Shape());
  EXPECT_THAT(header.metadata,
              ElementsAre(std::pair<const std::string, std::string>("format", "pt"),
                          std::pair<const std::string, std::string>("é", "")));
}

TEST(ParseSafetensorsHeader, NeedsOnlyTheHeaderInMemory) {
  const std::string json =
      R"({"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}})";
  const std::string head = LengthBytes(json.size()) + json;
  const auto size = static_cast<int64_t>(head.size()) + 4'000'000'000;
  EXPECT_EQ(ParseSafetensorsHeader(std::as_bytes(std::span(head)), size, "x").entries[0].end,
            4'000'000'000);
}

struct BadHeader {
  std::string bytes;
  const char* message;
};

TEST(ParseSafetensorsHeader, AnswersEveryLieWithOneClearError) {
  const auto tensor = [](const char* fields, size_t data_bytes) {
    return File(fmt::format("{{\"t.weight\":{{{}}}}}", fields), data_bytes);
  };
  const std::string good = R"("dtype":"BF16","shape":[2,3],"data_offsets":[0,12])";
  ASSERT_NO_THROW(Parse(tensor(good.c_str(), 12)));
  const BadHeader cases[] = {
      // Lengths.
      {"", "0 bytes are too few"},
      {"\x01\x02\x03", "3 bytes are too few"},
      {LengthBytes(2), "does not fit a file of 8"},
      {LengthBytes(100) + "{}", "header of 100 bytes does not fit a file of 10: it is truncated"},
      {LengthBytes(100'000'001) + "{}", "header of 100000001 bytes: at most 100000000"},
      {LengthBytes(~uint64_t{0}) + "{}", "header of 18446744073709551615 bytes"},
      {LengthBytes(uint64_t{1} << 63) + "{}", "header of 9223372036854775808 bytes"},
      {LengthBytes(0), "does not begin with '{'"},
      {File("[]", 0), "does not begin with '{'"},
      {File(" {}", 0), "does not begin with '{'"},
      // JSON.
      {File("{", 0), "not valid JSON near byte"},
      {File("{}{}", 0), "not valid JSON near byte"},
      {File("{\"a\xff\":{}}", 0), "not valid JSON near byte"},
      {File(std::string("{} \0", 4), 0), "not valid JSON near byte"},
      {File("{\"a\":1}", 0), "tensor \"a\": expected an object, found a number"},
      {File("{\"a\":[]}", 0), "tensor \"a\": expected an object, found an array"},
      {File("{\"a\":null}", 0), "tensor \"a\": expected an object, found null"},
      {File(R"({"__metadata__":{"a":1}})", 0),
       "__metadata__: \"a\": expected a string, found a number"},
      {File(R"({"__metadata__":{"a":{}}})", 0),
       "__metadata__: \"a\": expected a string, found an object"},
      {File(R"({"__metadata__":{"a":"1","a":"1"}})", 0), "__metadata__: duplicate key \"a\""},
      {File(R"({"__metadata__":{},"__metadata__":{}})", 0), "__metadata__ stands twice"},
      {File(R"({"__metadata__":"x"})", 0),
       "tensor \"__metadata__\": expected an object, found a string"},
      // Fields.
      {tensor(R"("shape":[2],"data_offsets":[0,4])", 4), "tensor \"t.weight\": dtype is missing"},
      {tensor(R"("dtype":"BF16","data_offsets":[0,4])", 4),
       "tensor \"t.weight\": shape is missing"},
      {tensor(R"("dtype":"BF16","shape":[2])", 4), "tensor \"t.weight\": data_offsets is missing"},
      {tensor(R"("dtype":"BF16","dtype":"BF16","shape":[2],"data_offsets":[0,4])", 4),
       "dtype stands twice"},
      {tensor(R"("dtype":"BF16","shape":[2],"shape":[2],"data_offsets":[0,4])", 4),
       "shape stands twice"},
      {tensor(R"("dtype":"BF16","shape":[2],"data_offsets":[0,4],"data_offsets":[0,4])", 4),
       "data_offsets stands twice"},
      {tensor(R"("dtype":"BF16","shape":[2],"data_offsets":[0,4],"order":[1])", 4),
       "unknown field \"order\""},
      {tensor(R"("dtype":16,"shape":[2],"data_offsets":[0,4])", 4),
       "dtype: expected a string, found a number"},
      {tensor(R"("dtype":"BF16","shape":2,"data_offsets":[0,4])", 4),
       "shape: expected an array of counts, found a number"},
      {tensor(R"("dtype":"BF16","shape":[-2],"data_offsets":[0,4])", 4),
       "found the negative number -2"},
      {tensor(R"("dtype":"BF16","shape":[2.0],"data_offsets":[0,4])", 4), "found the number 2.0"},
      {tensor(R"("dtype":"BF16","shape":["2"],"data_offsets":[0,4])", 4),
       "shape: expected an array of counts"},
      {tensor(R"("dtype":"BF16","shape":[[2]],"data_offsets":[0,4])", 4),
       "shape: expected an array of counts"},
      {tensor(R"("dtype":"BF16","shape":[{}],"data_offsets":[0,4])", 4),
       "shape: expected an array of counts"},
      {tensor(R"("dtype":"BF16","shape":[true],"data_offsets":[0,4])", 4),
       "shape: expected an array of counts"},
      {tensor(R"("dtype":"BF16","shape":[9223372036854775808],"data_offsets":[0,4])", 4),
       "beyond 63 bits"},
      {tensor(R"("dtype":"BF16","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,4])", 4),
       "more than 8 dimensions"},
      {tensor(R"("dtype":"BF16","shape":[2],"data_offsets":[4])", 4),
       "data_offsets: expected two numbers, found 1"},
      {tensor(R"("dtype":"BF16","shape":[2],"data_offsets":[0,4,8])", 4),
       "data_offsets: expected two numbers, found 3"},
      // Sizes.
      {tensor(R"("dtype":"BF16","shape":[4294967296,4294967296],"data_offsets":[0,4])", 4),
       "shape [4294967296, 4294967296] overflows"},
      {tensor(R"("dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0])", 0),
       "overflows"},
      {tensor(R"("dtype":"BF16","shape":[3],"data_offsets":[0,4])", 4),
       "BF16 [3] needs 6 bytes, data_offsets [0, 4] give 4"},
      {tensor(R"("dtype":"","shape":[2],"data_offsets":[0,4])", 4), "dtype is empty"},
      {tensor(R"("dtype":"F4","shape":[2],"data_offsets":[4,0])", 4), "data_offsets [4, 0]"},
      {tensor(R"("dtype":"F4","shape":[2],"data_offsets":[0,3])", 4), "the file goes on to 4"},
      {tensor(R"("dtype":"F4","shape":[2],"data_offsets":[0,5])", 4), "ends at byte 5"},
      {tensor(R"("dtype":"F4","shape":[4294967296,4294967296],"data_offsets":[0,4])", 4),
       "overflows"},
      {tensor(R"("dtype":"BF16","shape":[2],"data_offsets":[4,0])", 4),
       "BF16 [2] needs 4 bytes, data_offsets [4, 0] give -4"},
      {tensor(good.c_str(), 11),
       "tensor \"t.weight\" ends at byte 12 of the data, the file holds 11: it is truncated"},
      {tensor(good.c_str(), 13), "the tensors end at byte 12 of the data, the file goes on to 13"},
      {File("{}", 1), "the tensors end at byte 0 of the data, the file goes on to 1"},
      {tensor(R"("dtype":"U8","shape":[4],"data_offsets":[4,8])", 8),
       "tensor \"t.weight\" begins at byte 4 of the data, leaving a hole from byte 0"},
      {File(
           R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}})",
           7),
       "tensor \"b\" begins at byte 3 of the data, overlapping the one that ends at byte 4"},
      {File(
           R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[5,9]}})",
           9),
       "tensor \"b\" begins at byte 5 of the data, leaving a hole from byte 4"},
      {File(
           R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
           8),
       "tensor \"a\" stands twice in the header"},
      {File(R"({"a\u001b[2J":{"dtype":"U8","shape":[4]}})", 4),
       "tensor \"a\\x1b[2J\": data_offsets is missing"},
  };
  for (const BadHeader& bad : cases) {
    try {
      Parse(bad.bytes);
      ADD_FAILURE() << "accepted: " << bad.message;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidData) << error.what();
      EXPECT_THAT(error.what(), StartsWith("x.safetensors: "));
      EXPECT_THAT(error.what(), HasSubstr(bad.message));
    }
  }
}

// Types of other programs, of half a byte or sixteen: where they lie is all that is known.
TEST(ParseSafetensorsHeader, KeepsThePlaceOfForeignTypes) {
  const SafetensorsHeader header =
      Parse(File(R"({"a":{"dtype":"F8_E8M0","shape":[4],"data_offsets":[0,4]},)"
                 R"("b":{"dtype":"F4","shape":[2,3],"data_offsets":[4,7]},)"
                 R"("c":{"dtype":"C64","shape":[1],"data_offsets":[7,15]},)"
                 R"("d":{"dtype":"a type of tomorrow","shape":[],"data_offsets":[15,15]},)"
                 R"("e":{"dtype":"BF16","shape":[1],"data_offsets":[15,17]}})",
                 17));
  ASSERT_EQ(header.entries.size(), 5u);
  EXPECT_EQ(header.entries[0].foreign_type, "F8_E8M0");
  EXPECT_EQ(header.entries[1].type_name(), "F4");
  EXPECT_EQ(header.entries[1].shape, (Shape{2, 3}));
  EXPECT_EQ(header.entries[1].end, 7);
  EXPECT_EQ(header.entries[2].type_name(), "C64");
  EXPECT_EQ(header.entries[3].type_name(), "a type of tomorrow");
  EXPECT_EQ(header.entries[4].foreign_type, "");
  EXPECT_EQ(header.entries[4].type_name(), "BF16");
}

TEST(ParseSafetensorsHeader, ShortensLongNamesInMessages) {
  const std::string name(50'000, 'n');
  try {
    Parse(File("{\"" + name + "\":{}}", 0));
    FAIL();
  } catch (const Error& error) {
    EXPECT_LT(std::string(error.what()).size(), 400u);
  }
}

TEST(ParseSafetensorsHeader, TakesHundredsOfThousandsOfTensorsInStride) {
  std::string json = "{";
  for (int64_t i = 0; i < 300'000; ++i) {
    json += fmt::format(R"({}"{}":{{"dtype":"U8","shape":[1],"data_offsets":[{},{}]}})",
                        i > 0 ? "," : "", i * 7919 % 300'007, i, i + 1);
  }
  EXPECT_EQ(Parse(File(json + "}", 300'000)).entries.size(), 300'000u);
}

// Bytes flipped, cut, doubled and overwritten at random: a header or an Error, never anything else.
TEST(ParseSafetensorsHeader, SurvivesMutations) {
  std::vector<SafetensorsEntry> entries = {{"model.embed.weight", DType::kBF16, Shape{6, 4}, 0, 0},
                                           {"model.norm.weight", DType::kF32, Shape{4}, 0, 0},
                                           {"q.weight_packed", DType::kI32, Shape{2, 1}, 0, 0},
                                           {"q.weight_shape", DType::kI64, Shape{2}, 0, 0}};
  const std::string header = LayOutSafetensors(entries);
  const std::string valid = header + std::string(static_cast<size_t>(entries.back().end), 'd');
  ASSERT_EQ(Parse(valid).entries.size(), 4u);

  std::mt19937 random(20'000);
  const auto below = [&random](size_t n) {
    return std::uniform_int_distribution<size_t>(0, n - 1)(random);
  };
  const std::string alphabet = "{}[]\",:0123456789-.eE \\u\xff" + std::string(1, '\0');
  int accepted = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string bytes = valid;
    for (size_t edits = 1 + below(3); edits > 0 && !bytes.empty(); --edits) {
      const size_t at = below(std::min(bytes.size(), header.size()));
      switch (below(6)) {
        case 0:
          bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
          break;
        case 1:
          bytes[at] = alphabet[below(alphabet.size())];
          break;
        case 2:
          bytes.resize(at);
          break;
        case 3:
          bytes.insert(at, bytes.substr(at, below(40)));
          break;
        case 4:
          bytes.erase(at, below(40));
          break;
        default:  // a digit: shapes and offsets that are wrong by a little
          if (bytes[at] >= '0' && bytes[at] <= '9') bytes[at] = static_cast<char>('0' + below(10));
      }
    }
    try {
      const SafetensorsHeader parsed = Parse(bytes);
      ++accepted;
      int64_t covered = 0;
      for (const SafetensorsEntry& entry : parsed.entries) {
        ASSERT_EQ(entry.begin, covered);
        if (entry.foreign_type.empty()) {
          ASSERT_EQ(entry.end - entry.begin, entry.shape.num_elements() * DTypeSize(entry.dtype));
        }
        covered = entry.end;
      }
      ASSERT_EQ(parsed.data_offset + covered, static_cast<int64_t>(bytes.size()));
    } catch (const Error& error) {
      ASSERT_TRUE(error.code() == ErrorCode::kInvalidData ||
                  error.code() == ErrorCode::kUnsupported);
    }
  }
  EXPECT_GT(accepted, 100);  // a mutation may change just a name
  EXPECT_LT(accepted, 10'000);
}

TEST(LayOutSafetensors, PutsWideTypesFirstAndAlignsAll) {
  std::vector<SafetensorsEntry> entries = {{"b", DType::kU8, Shape{3}, 0, 0},
                                           {"z", DType::kBF16, Shape{5}, 0, 0},
                                           {"y", DType::kI64, Shape{1}, 0, 0},
                                           {"a", DType::kBF16, Shape{1}, 0, 0},
                                           {"s", DType::kF32, Shape(), 0, 0}};
  const std::string header = LayOutSafetensors(entries);
  EXPECT_EQ(header.size() % 8, 0u);
  std::vector<std::string> names;
  for (const SafetensorsEntry& entry : entries) {
    names.push_back(entry.name);
    EXPECT_EQ(entry.begin % DTypeSize(entry.dtype), 0);
  }
  EXPECT_THAT(names, ElementsAre("y", "s", "a", "z", "b"));
  EXPECT_THAT(
      header.substr(8),
      StartsWith(
          R"({"__metadata__":{"format":"pt"},"y":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
          R"("s":{"dtype":"F32","shape":[],"data_offsets":[8,12]},)"));
}

TEST(LayOutSafetensors, RefusesNamesThatCannotBe) {
  std::vector<SafetensorsEntry> twice = {{"a", DType::kU8, Shape{1}, 0, 0},
                                         {"a", DType::kF32, Shape{1}, 0, 0}};
  EXPECT_THROW(LayOutSafetensors(twice), Error);
  std::vector<SafetensorsEntry> reserved = {{"__metadata__", DType::kU8, Shape{1}, 0, 0}};
  EXPECT_THROW(LayOutSafetensors(reserved), Error);
}

TEST(WriteSafetensors, ReadsBackTheSameTensors) {
  const testing::TemporaryDirectory directory;
  const Tensor bytes = Tensor::FromVector<uint8_t>({1, 2, 3}, {3});
  const Tensor floats = Tensor::FromVector<float>({0.5f, -1.0f, 2.0f, 8.0f}, {2, 2});
  const Tensor empty(DType::kBF16, {0, 4});
  const std::string odd = "odd \"name\"\n\\é";
  WriteSafetensors(directory.path() / "x",
                   {{odd, bytes.view()}, {"f", floats.view()}, {"none", empty.view()}});

  const MappedFile file(directory.path() / "x");
  const SafetensorsHeader header =
      ParseSafetensorsHeader(file.bytes(), static_cast<int64_t>(file.bytes().size()), "x");
  EXPECT_EQ(header.metadata.at("format"), "pt");
  ASSERT_EQ(header.entries.size(), 3u);
  const auto view = [&](size_t i) {
    const SafetensorsEntry& entry = header.entries[i];
    return TensorView(file.bytes().data() + header.data_offset + entry.begin, entry.dtype,
                      entry.shape);
  };
  EXPECT_EQ(header.entries[0].name, "f");
  EXPECT_THAT(view(0).As<float>(), ElementsAre(0.5f, -1.0f, 2.0f, 8.0f));
  EXPECT_EQ(header.entries[1].name, "none");
  EXPECT_EQ(header.entries[2].name, odd);
  EXPECT_THAT(view(2).As<uint8_t>(), ElementsAre(1, 2, 3));
}

}  // namespace
}  // namespace nibble
