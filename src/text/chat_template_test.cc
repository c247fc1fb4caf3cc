#include "text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "nibble/error.h"

namespace nibble {
namespace {

const Json kTurns = {{{"role", "user"}, {"content", "Hi"}},
                     {{"role", "assistant"}, {"content", "Hello"}},
                     {{"role", "user"}, {"content", "Bye"}}};

TEST(ChatTemplate, RendersTheDemoModelsTemplate) {
  const ChatTemplate chat =
      ChatTemplate::Load(std::filesystem::path(NIBBLE_SOURCE_DIR) / "demo/tinymix");
  EXPECT_EQ(chat.Render(kTurns, true), "<s> [INST] Hi [/INST] Hello</s> [INST] Bye [/INST]");
}

}  // namespace
}  // namespace nibble
