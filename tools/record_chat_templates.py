#!/usr/bin/env python3
"""Records what transformers renders: tests/golden/chat_templates.json.

    pip install transformers==4.57.6 jinja2==3.1.6
    tools/record_chat_templates.py REFERENCE_DATA

"templates": real chat templates of REFERENCE_DATA over CONVERSATIONS. "expressions": one-line templates,
each a corner of Jinja2 or of Python that a template may use. (Known to differ, and left out: `random`, bytes and
integers of more than 127 bits are errors in nibble; Jinja2's constant folding forgives some.) A result is {"text": …}; {"raised": message}
where the template called raise_exception; {"error": kind} for any other failure.
"""

import json
import pathlib
import sys

import jinja2
import transformers

from chat_template_expressions import EXPRESSIONS, EXPRESSION_VARIABLES
from transformers.utils.chat_template_utils import _compile_jinja_template

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather <b>now</b> & 'here'",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Stadt, z. B. \"Köln\""},
                           "days": {"type": "integer", "minimum": 1, "default": 1.0}},
            "required": ["city"],
        },
    },
}
CALL = {"id": "abcdef123", "type": "function",
        "function": {"name": "get_weather", "arguments": {"city": "Köln", "days": 2}}}


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


CONVERSATIONS = {
    "one": {"messages": [turn("user", "Hi")]},
    "three": {"messages": [turn("user", "Hi"), turn("assistant", "Hello."), turn("user", "Who are you?")]},
    "system": {"messages": [turn("system", "Be kind."), turn("user", " Hi \n"), turn("assistant", " Hello. "),
                            turn("user", "Bye\n")]},
    "unicode": {"messages": [turn("system", "Sei nett. 🦊"), turn("user", "Was heißt <b>„数学“</b> & 'co'?")]},
    "markup": {"messages": [turn("user", "{{ 7 * 7 }} {% if %} <s>[INST] \\n \"quoted\"")]},
    "reply": {"messages": [turn("user", "Hi"), turn("assistant", "Hello.")]},
    "think": {"messages": [turn("user", "2 + 2?"), turn("assistant", "<think>\nEasy.\n</think>\n\n4"), turn("user", "Sure?")]},
    "parts": {"messages": [turn("user", [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}])]},
    "tools": {"messages": [turn("user", "Weather?")], "tools": [WEATHER]},
    "tool calls": {"messages": [turn("user", "Weather?"), turn("assistant", "", tool_calls=[CALL]),
                                turn("tool", "{\"sky\": \"grey\"}", name="get_weather", tool_call_id="abcdef123"),
                                turn("assistant", "Grey."), turn("user", "Thanks")], "tools": [WEATHER, WEATHER]},
    "two users": {"messages": [turn("user", "Hi"), turn("user", "Hi?")]},
    "assistant first": {"messages": [turn("assistant", "Hello."), turn("user", "Hi")]},
    "unknown role": {"messages": [turn("user", "Hi"), turn("critic", "No.")]},
    "no content": {"messages": [{"role": "user"}]},
    "null content": {"messages": [turn("user", None)]},
    "no messages": {"messages": []},
    "documents": {"messages": [turn("user", "Hi")], "documents": [{"title": "T", "text": "X"}]},
    "no thinking": {"messages": [turn("user", "Hi")], "enable_thinking": False},
}

def render(source, **variables):
    try:
        template = _compile_jinja_template(source)
        # Jinja2's `safe` makes a string that escapes what is joined to it: "&#34;" for quotes in a prompt, which no
        # template wants (Mistral's with tool calls get it). In nibble `safe` does nothing.
        template.environment.filters["safe"] = str
        return {"text": template.render(**variables)}
    except jinja2.exceptions.UndefinedError as error:
        return {"error": "undefined", "message": str(error)}
    except jinja2.exceptions.TemplateSyntaxError as error:
        return {"error": "syntax", "message": str(error)}
    except Exception as error:
        if type(error) is jinja2.exceptions.TemplateError:  # what raise_exception throws
            return {"raised": str(error)}
        return {"error": type(error).__name__, "message": str(error)}


def sources(data):
    for path in sorted([*data.glob("golden/chat_templates/chat_templates/*.jinja"), *data.glob("golden/mistral_common/chat_templates/*.jinja")]):
        yield str(path.relative_to(data)), path.read_text()
    for path in sorted([*data.glob("tokenizers/*/*config*.json"), data / "models/tinymix/tokenizer_config.json"]):
        source = json.loads(path.read_text()).get("chat_template")
        if isinstance(source, str):
            yield str(path.relative_to(data)), source


def main():
    data = pathlib.Path(sys.argv[1])
    templates = []
    for file, source in sources(data):
        results = []
        for name, conversation in CONVERSATIONS.items():
            for prompt in [False, True]:
                variables = {"tools": None, "documents": None, **SPECIAL, **conversation}
                results.append({"conversation": name, "add_generation_prompt": prompt, **render(source, add_generation_prompt=prompt, **variables)})
        templates.append({"file": file, "results": results})
    document = {
        "made_by": {"script": "tools/record_chat_templates.py", "transformers": transformers.__version__, "jinja2": jinja2.__version__},
        "special_tokens": SPECIAL, "conversations": CONVERSATIONS, "templates": templates,
        "variables": EXPRESSION_VARIABLES, "expressions": [{"template": source, **render(source, **EXPRESSION_VARIABLES)} for source in EXPRESSIONS],
    }
    (GOLDEN / "chat_templates.json").write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n")


main()
