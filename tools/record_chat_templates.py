#!/usr/bin/env python3
"""Records what transformers renders: tests/golden/chat_templates.json.

    pip install transformers==4.57.6 jinja2==3.1.6
    tools/record_chat_templates.py REFERENCE_DATA

"templates": real chat templates of REFERENCE_DATA over CONVERSATIONS. "expressions": one-line templates,
each a corner of Jinja2 or of Python that chat templates use. (Known to differ, and left out: a loop over None, an
error in Jinja2, is empty in nibble; filters truncate and wordcount are missing.) A result is {"text": …}; {"raised": message}
where the template called raise_exception; {"error": kind} for any other failure.
"""

import json
import pathlib
import sys

import jinja2
import transformers
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

# Templates see: text, number (3), half (0.5), flag, nothing, list, map, nested.
EXPRESSION_VARIABLES = {
    "text": " Hi, World! ", "number": 3, "half": 0.5, "flag": True, "nothing": None, "list": [3, 1, 2],
    "map": {"b": 1, "a": [True, None, 2.5, "x'y", 'x"y']}, "words": ["b", "a", "c"],
    "people": [{"name": "Ann", "age": 31}, {"name": "Bob", "age": 7}],
}
EXPRESSIONS = [
    # printing
    "{{ flag }} {{ nothing }} {{ number }} {{ half }} {{ missing }}", "{{ list }} {{ map }}", "{{ [1.0, 1e20, 1e-7, 0.1] }}",
    "{{ 'it\\'s' }} {{ [\"it's\", 'q\"', 'both\\'\"', 'new\\nline', 'tab\\t', 'é', '\\\\'] }}", "{{ 10 / 4 }} {{ 10 // 4 }} {{ 7 % 3 }} {{ 2 ** 10 }}",
    "{{ 4 / 2 }} {{ -7 // 2 }} {{ -7 % 3 }}", "{{ 'a' ~ 1 ~ none ~ true ~ 0.5 }}", "{{ 'ab' * 3 }}{{ [1] * 2 }}", "{{ [1] + [2, 3] }}",
    "{{ {} }}{{ [] }}{{ '' }}", "{{ true and 'x' or 'y' }} {{ '' or 'z' }} {{ not '' }}", "{{ 1 < 2 < 3 }}", "{{ 1 == 1.0 }} {{ '1' == 1 }} {{ none == false }}",
    # json
    "{{ map | tojson }}", "{{ map | tojson(indent=2) }}", "{{ map | tojson(indent=4) }}{{ [] | tojson(indent=2) }}{{ {} | tojson(indent=2) }}",
    "{{ text | tojson }} {{ '<a href=\"x\">&\\'</a>' | tojson }}", "{{ 'é数🦊\\u0001\\u007f\\n\\t\\r\\\\' | tojson }}", "{{ 'é数🦊\\u007f' | tojson(ensure_ascii=true) }}",
    "{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}", "{{ [1, 2] | tojson(separators=(',', ':')) }}", "{{ {2: 'x', none: 'y', true: 'z', 0.5: 0} | tojson }}",
    "{{ [1e16, 1e15, 123456789012345680.0, 1e-4, 1e-5, 1.5e-7, 5e-324, 0.1, 100.0, -0.0] | tojson }}", "{{ missing | tojson }}", "{{ nothing | tojson }} {{ flag | tojson }}",
    # filters
    "[{{ text | trim }}]", "{{ list | length }} {{ text | count }} {{ map | length }}", "{{ list | join(', ') }} {{ words | join }}", "{{ text | upper }}{{ text | lower }}{{ text | title }}{{ text | capitalize }}",
    "{{ text | replace('o', '0') }}", "{{ missing | default('d') }} {{ '' | default('d') }} {{ '' | default('d', true) }} {{ missing | d('e') }}", "{{ list | first }} {{ list | last }}",
    "{{ list | sort }} {{ words | sort(reverse=true) | join }}", "{{ list | max }} {{ list | min }} {{ list | sum }}", "{{ people | map(attribute='name') | join(' ') }}", "{{ words | map('upper') | list }}",
    "{{ people | selectattr('age', 'gt', 10) | map(attribute='name') | list }}", "{{ people | rejectattr('name', 'equalto', 'Ann') | list | length }}", "{{ list | select('odd') | list }}{{ list | reject('odd') | list }}",
    "{% for k, v in map | items %}{{ k }}={{ v }};{% endfor %}", "{% for k, v in map | dictsort %}{{ k }};{% endfor %}", "{{ 'a\\nb' | indent(2) }}|{{ 'a\\nb' | indent(2, true) }}", "{{ 3.7 | int }} {{ '12' | int }} {{ 'x' | int(5) }} {{ '2.5' | float }}", "{{ 'x' | int }} {{ 'x' | float }} {{ '2.9' | int }} {{ -2.9 | int }} {{ flag | int }} {{ none | int(7) }} {{ ' 5 ' | int }} {{ 9007199254740993 | int }}",
    "{{ 3.14159 | round(2) }} {{ 2.5 | round }}", "{{ 'abc' | list }} {{ 'abc' | reverse }} {{ [1,1,2] | unique | list }}", "{{ number | string + '!' }} {{ map | string }}", "{{ -3 | abs }}",
    "{{ 'x<y' | escape }} {{ 'x<y' | safe }}", "{{ people | groupby('age') | length }}", "{{ [1,2,3,4,5] | batch(2) | list }}", "{{ '%s is %d' | format('x', 3) }}",
    # methods
    "[{{ text.strip() }}] [{{ text.lstrip() }}] [{{ text.rstrip() }}] [{{ 'xxaxx'.strip('x') }}]", "{{ 'a,b,c'.split(',') }} {{ 'a b  c'.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'x</t>y'.split('</t>')[-1] }}",
    "{{ text.startswith(' Hi') }} {{ 'abc'.startswith(('x', 'a')) }} {{ 'abc'.endswith('c') }}", "{{ 'abc'.upper() }} {{ 'aBC'.lower() }} {{ 'ab cd'.title() }} {{ 'ab'.capitalize() }}", "{{ 'a-b'.replace('-', '+') }} {{ 'aaa'.replace('a', 'b', 2) }}",
    "{{ 'abcabc'.find('c') }} {{ 'abcabc'.rfind('c') }} {{ 'abc'.find('x') }} {{ 'banana'.count('a') }}", "{{ ', '.join(words) }}", "{{ 'a\\nb'.splitlines() }}", "{{ 'ab1'.isalnum() }} {{ '12'.isdigit() }} {{ 'ab'.isalpha() }} {{ ' '.isspace() }} {{ 'A'.isupper() }}",
    "{{ '{} and {}'.format(1, 'x') }} {{ '{a}'.format(a=2) }}", "{{ map.keys() | list }} {{ map.get('b') }} {{ map.get('zz') }} {{ map.get('zz', 9) }}", "{% for k, v in map.items() %}{{ k }}:{{ v }} {% endfor %}", "{{ map.values() | list | length }}",
    "{{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.py'.removesuffix('.py') }} {{ 'x'.removeprefix('y') }}", "{{ 'a=b=c'.partition('=')[2] }} {{ 'abc'.partition('=')[0] }}", "{{ 'a,b,c'.rsplit(',', 1) }}",
    # indexing
    "{{ list[0] }} {{ list[-1] }} {{ list[1:] }} {{ list[:-1] }} {{ list[::-1] }} {{ list[::2] }}", "{{ text[1:3] }} {{ 'abc'[-1] }} {{ 'abcdef'[::-1] }} {{ 'abc'[5:] }}", "{{ map['a'][3] }} {{ map.b }} {{ map.missing }}", "{{ people[0].name }} {{ people[1]['age'] }}",
    "{{ list[7] }}", "{{ missing.attribute }}", "{{ missing['key'] }}", "{{ map.missing.deeper }}", "{{ nothing.attribute }}",
    # tests
    "{{ missing is defined }} {{ nothing is none }} {{ text is string }} {{ number is number }} {{ map is mapping }}", "{{ list is sequence }} {{ text is sequence }} {{ map is sequence }} {{ list is iterable }} {{ text is iterable }} {{ number is iterable }}",
    "{{ flag is true }} {{ flag is boolean }} {{ 1 is true }} {{ false is false }}", "{{ 3 is odd }} {{ 3 is even }} {{ 6 is divisibleby 3 }} {{ half is float }} {{ number is integer }}", "{{ 'a' in 'abc' }} {{ 2 in list }} {{ 'b' in map }} {{ 'z' not in map }}",
    "{{ 'A' is upper }} {{ 'a' is lower }} {{ 'x' is eq 'x' }} {{ number is gt 2 }} {{ list is not none }}", "{{ missing is undefined }} {{ missing is none }} {{ missing is not defined }}", "{{ raise_exception is callable }}",
    # statements
    "{% for i in list %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }} {% endfor %}", "{% for i in [] %}x{% else %}empty{% endfor %}", "{% for i in list if i > 1 %}{{ i }}{{ loop.index }} {% endfor %}",
    "{% for i in list %}{{ loop.previtem is defined }}{{ loop.nextitem }} {% endfor %}", "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "{{ range(3) | list }} {{ range(1, 10, 4) | list }}",
    "{% set x = 1 %}{% for i in list %}{% set x = x + i %}{% endfor %}{{ x }}", "{% set ns = namespace(x=1) %}{% for i in list %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set block %}in {{ number }}{% endset %}[{{ block }}]",
    "{% macro f(a, b='B') %}({{ a }}{{ b }}){% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(b=3, a=4) }}", "{% macro f() %}{{ caller() }}!{% endmacro %}{% call f() %}hi{% endcall %}", "{{ 'yes' if flag else 'no' }}{{ 'only' if not flag }}", "{% if list and not nothing %}y{% elif flag %}e{% else %}n{% endif %}",
    "{% with z = 5 %}{{ z }}{% endwith %}{{ z }}", "{% filter upper %}abc{% endfilter %}", "{% raw %}{{ x }}{% endraw %}", "{# comment #}x", "{% generation %}gen {{ number }}{% endgeneration %}!", "a{%- generation -%} b {%- endgeneration -%} c",
    "{% for m in people recursive %}{{ m.name }}{% endfor %}", "{% for k in map %}{{ k }}{% endfor %}", "{% for c in 'abc' %}{{ c }}.{% endfor %}", "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}", "{% set j = joiner('|') %}{% for i in list %}{{ j() }}{{ i }}{% endfor %}", "{{ dict(a=1, b=2) }}",
    # white space
    "  {% if flag %}\n  x\n  {% endif %}\ny\n", "a\n\n{% if flag %}\n\nb\n{% endif %}\n\nc", "{%- if flag %}\n x\n{%- endif %}\n", "x  {{- ' y' -}}  z", "  {# c #}\n  d", "\t{% set q = 1 %}\n{{ q }}\n\n", "{% if flag +%}\nx{% endif %}", "trailing\n", "trailing\n\n",
    "line\r\n{% if flag %}\r\nx{% endif %}\r\n",
    # errors
    "{{ raise_exception('my message') }}", "{{ raise_exception('a ' + text) }}", "{{ 'a' + 1 }}", "{{ 'a' + nothing }}", "{{ 'a' + missing }}", "{{ missing() }}", "{{ text | nosuchfilter }}", "{{ text is nosuchtest }}", "{{ 1 / 0 }}", "{% for x in missing %}x{% endfor %}y",
    "{{ list.nosuchmethod() }}", "{{ list.append(4) }}", "{{ }}", "{% if %}", "{% endif %}", "{{ 'open", "{% for %}", "{{ 1 +", "{% nosuchtag %}",
]


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
