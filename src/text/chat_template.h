#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "base/json.h"

namespace nibble {

// A model's Jinja chat template: messages → prompt text, rendered as transformers does (its sandbox
// with trim_blocks and lstrip_blocks, raise_exception, strftime_now, tojson without HTML escapes),
// in bounded time and memory whatever the template says.
class ChatTemplate {
 public:
  // chat_template.jinja, chat_template.json or tokenizer_config.json's chat_template (the "default"
  // one of a list). Throws kNotFound if the model has none.
  static ChatTemplate Load(const std::filesystem::path& directory);
  // Throws kInvalidData for a syntax error in `source`.
  ChatTemplate(std::string source, std::string bos_token, std::string eos_token);
  ChatTemplate(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // messages: [{"role": …, "content": …}, …]. `extra` adds variables (tools, documents). Throws
  // kInvalidArgument with the template's own message (raise_exception), or with the line of what it
  // may not do: use a missing field, take too many steps, make too much text.
  std::string Render(const Json& messages, bool add_generation_prompt,
                     const Json& extra = Json::object()) const;

 private:
  struct State;
  explicit ChatTemplate(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace nibble
