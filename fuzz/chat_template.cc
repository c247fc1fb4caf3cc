// Chat templates: any bytes give valid text or an Error, in bounded time. The first zero byte, if
// any, ends the template; the conversation follows as JSON.
#include "text/chat_template.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/utf8.h"
#include "nibble/error.h"

namespace {

constexpr std::string_view kConversation =
    R"({"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"n": 1.5}}}]})";

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const size_t end = bytes.find('\0');
  const std::string source(bytes.substr(0, end));
  if (!nibble::IsValidUtf8(source)) return 0;
  try {
    const nibble::ChatTemplate chat(source, "<s>", "</s>");
    const std::string_view json =
        end == std::string_view::npos ? kConversation : bytes.substr(end + 1);
    const nibble::Json variables = nibble::ParseJson(json, "conversation");
    if (!variables.is_object()) return 0;
    const nibble::Json messages = variables.value("messages", nibble::Json::array());
    NIBBLE_CHECK(nibble::IsValidUtf8(chat.Render(messages, true, variables)));
  } catch (const nibble::Error&) {
  }
  return 0;
}
