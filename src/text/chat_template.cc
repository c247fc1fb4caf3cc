#include "text/chat_template.h"

#include <optional>
#include <utility>

#include "base/file.h"
#include "nibble_bridge.h"
#include "text/bridge_call.h"
#include "text/tokenizer_config.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

rust::Str Str(const std::string& text) { return {text.data(), text.size()}; }

rust::Box<bridge::Template> Compile(const std::string& source, const std::string& where) {
  return BridgeCall(where, [&] { return bridge::compile_template(Str(source)); });
}

// The source called `name` of tokenizer_config.json's chat_template: a string (the "default" one)
// or a list of {name, template}.
std::optional<std::string> Named(const Json& chat_template, const std::string& name,
                                 const std::string& where) {
  if (chat_template.is_string()) {
    return name == "default" ? std::optional(chat_template.get<std::string>()) : std::nullopt;
  }
  if (!chat_template.is_array()) return std::nullopt;
  for (const Json& entry : chat_template) {
    if (GetRequired<std::string>(entry, "name", where) != name) continue;
    return GetRequired<std::string>(entry, "template", where);
  }
  return std::nullopt;
}

std::string Dump(const Json& variables) {
  try {
    return variables.dump();
  } catch (const Json::exception&) {
    throw Error(ErrorCode::kInvalidArgument, "chat template: a message is not valid UTF-8");
  }
}

}  // namespace

struct ChatTemplate::State {
  rust::Box<bridge::Template> chat;
  std::optional<rust::Box<bridge::Template>> chat_with_tools;  // if a separate one exists
  Json special_tokens;                                         // "bos_token" → "<s>", …
};

ChatTemplate::ChatTemplate(std::string source, std::string bos_token, std::string eos_token)
    : state_(new State{
          Compile(source, "chat template"), std::nullopt,
          Json{{"bos_token", std::move(bos_token)}, {"eos_token", std::move(eos_token)}}}) {}

ChatTemplate::ChatTemplate(std::unique_ptr<State> state) : state_(std::move(state)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

ChatTemplate ChatTemplate::Load(const fs::path& directory) {
  const TokenizerConfig config = ReadTokenizerConfig(directory);
  fs::path file = directory / "chat_template.jinja";
  std::optional<std::string> source;
  std::optional<std::string> with_tools;
  if (fs::exists(file)) {
    source = ReadTextFile(file);
  } else if (file = directory / "chat_template.json"; fs::exists(file)) {
    source = GetRequired<std::string>(ReadJsonFile(file.string()), "chat_template", file.string());
  } else {
    file = directory / "tokenizer_config.json";
    source = Named(config.chat_template, "default", file.string());
    with_tools = Named(config.chat_template, "tool_use", file.string());
  }
  if (!source) {
    throw Error(ErrorCode::kNotFound, directory.string() +
                                          ": the model has no chat template (chat_template.jinja, "
                                          "chat_template.json or tokenizer_config.json)");
  }
  const std::string where = file.string();
  std::unique_ptr<State> state(
      new State{Compile(*source, where), std::nullopt, config.special_tokens});
  if (with_tools) state->chat_with_tools = Compile(*with_tools, where + ": tool_use");
  return ChatTemplate(std::move(state));
}

std::string ChatTemplate::Render(const Json& messages, bool add_generation_prompt,
                                 const Json& extra) const {
  // As in transformers: absent variables are None, and the caller's variables take precedence.
  Json variables = {{"messages", messages},
                    {"tools", nullptr},
                    {"documents", nullptr},
                    {"add_generation_prompt", add_generation_prompt}};
  variables.update(state_->special_tokens);
  variables.update(extra);
  const bool has_tools = !variables["tools"].is_null() && state_->chat_with_tools;
  const bridge::Template& chosen = has_tools ? **state_->chat_with_tools : *state_->chat;
  const std::string json = Dump(variables);
  return std::string(BridgeCall("chat template", [&] {
    return chosen.render({reinterpret_cast<const uint8_t*>(json.data()), json.size()});
  }));
}

}  // namespace nibble
