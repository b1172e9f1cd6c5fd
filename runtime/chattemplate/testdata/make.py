# SPDX-License-Identifier: Apache-2.0
"""Writes cases.json: what Jinja2 renders, with the settings of transformers.

Run with Jinja2 3.1 or later: python3 make.py
"""
import json
import pathlib

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).parent


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_support"), [], [], body).set_lineno(lineno)

    def _support(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env


def case(name, template, variables):
    source = (HERE / template).read_text() if template.endswith(".jinja") else template
    out = {"name": name, "template": template, "vars": variables}
    try:
        out["want"] = environment().from_string(source).render(**variables)
    except Exception as e:  # Operators raise what Python raises.
        out["error"] = str(e)
    return out


def say(role, content, **more):
    return {"role": role, "content": content, **more}


SYSTEM, USER, ANSWER = say("system", "Be brief.\nAlways."), say("user", "Hi, \"you\" & <me> é🙂中"), say("assistant", "Hello.")
CHATS = {
    "one": [USER],
    "system": [SYSTEM, USER],
    "turns": [SYSTEM, USER, ANSWER, say("user", "<｜User｜> again?")],
    "empty": [say("user", "")],
    "two systems": [SYSTEM, say("system", "More."), USER],
    "late system": [USER, ANSWER, SYSTEM, USER],
    "thinks": [USER, say("assistant", "<think>\nhm\n</think>\n\nYes."), USER, say("assistant", "<think>\nso\n</think>\n\nNo.")],
    "reasoning": [USER, say("assistant", "Yes.", reasoning_content="\nhm\n")],
    "spaces": [say("user", "  a \n\n b\t")],
    "long": [say("user" if i % 2 == 0 else "assistant", f"turn {i}") for i in range(21)],
}
TOOLS = [{"type": "function", "function": {"name": "f", "description": "dé \"q\"", "parameters": {"type": "object", "properties": {"a": {"type": "number", "minimum": 0.5}}, "required": [], "x": None, "y": True}}}]
CALLS = [USER, say("assistant", None, tool_calls=[{"type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}, {"type": "function", "function": {"name": "g", "arguments": "{}"}}]),
         say("tool", "1"), say("tool", "2"), say("assistant", "Done.")]

MESSAGES = [SYSTEM, USER, ANSWER]
SMALL = [
    # White space.
    "a\n{% if true %}\n  b\n{% endif %}\nc\n",
    "  {% if true %}\n  b\n  {% endif %}  \nc\n\n",
    "a {%- if true -%} b {%- endif -%} c",
    "a\n    {%+ if true %}\nb{% endif +%}\nc",
    "a\n  {# note #}\n  {{ 1 }}\n  {#- note -#}\n b",
    "{# first #}  {% if true %}x{% endif %}\n  {% if true %}y{% endif %}",
    "x {{- ' y ' -}} z\n\n",
    "\r\na\r\n{% if true %}\r\nb{% endif %}",
    "{% raw %}{{ no }} {% if %}{% endraw %}!\n{% raw -%}\n  a  {%- endraw %}",
    "a{ b } {x {", "{{ '{{' }} {{ '%}' }} {{ {'a': {'b': 1}}['a']['b'] }}",
    # Literals and operators.
    "{{ 'a\\n\\t\\'\\\\\\x41\\u00e9' }}|{{ \"q'\\\"\" }}|{{ 'a' 'b' }}|{{ 1_000 }}|{{ 1.5 }}|{{ [1, 'a', none, true, 2.0] }}|{{ {'k': ['v\\'']} }}|{{ (1, 2)|list }}",
    "{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 1 + 2 * 3 - 4 }} {{ 'a' ~ 1 ~ none ~ 2.5 }} {{ 'ab' * 3 }} {{ 1 + 2 ~ 3 }} {{ -2|abs }} {{ 0.1 + 0.2 }}",
    "{{ 1 < 2 <= 2 }} {{ 1 == 1.0 }} {{ 'a' in 'cat' }} {{ 'x' not in ['y'] }} {{ not 'a' in 'b' }} {{ true and 0 or 'z' }} {{ 'a' < 'b' }} {{ 1 != 2 }} {{ true == 1 }} {{ 'k' in {'k': 1} }}",
    "{{ 'x' if false }}|{{ 'a' if 1 > 2 else 'b' if 0 else 'c' }}|{{ not false and not none }}",
    "{{ missing }}|{{ missing is defined }}|{{ not missing is defined }}|{{ messages[0].nope is undefined }}|{{ missing|default('d') }}|{{ ''|default('d') }}|{{ ''|default('d', true) }}",
    "{{ messages[0]['content'][0] }}{{ messages[-1].content[1:3] }}{{ 'héllo'[::-1] }}{{ 'abc'[:-1] }}{{ [1,2,3,4][::2] }}{{ [1,2,3][5:] }}{{ [1,2,3][-2:] }}{{ 'abcdef'[4:1:-2] }}",
    "{{ missing.x }}", "{{ messages['a'].b }}", "{{ 1 + 'a' }}", "{{ none.x }}", "{{ 1 // 0 }}", "{{ messages + 1 if false else 'ok' }}",
    # Scopes.
    "{% set x = 1 %}{% for i in [1,2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}{% if true %}{% set x = 9 %}{% endif %}{{ x }}",
    "{% set ns = namespace(n=0) %}{% for i in range(5) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set t %}x{{ a }}\n{% endset %}[{{ t }}]{% set u | upper %}abc{% endset %}{{ u }}{% filter upper | trim %} q{{ a }} {% endfilter %}",
    "{% macro m(a, b='B', c=none) %}<{{ a }}{{ b }}{{ c }}>{% endmacro %}{{ m(1) }}{{ m(1, c=3) }}{{ m(b=2, a=1) }}{{ m() }}{% set v = m('x') %}{{ v|length }}",
    # Loops.
    "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ m.role }}{{ loop.cycle('a', 'b') }}{{ loop.previtem.role if not loop.first }}{{ loop.nextitem.role if loop.nextitem is defined }};{% endfor %}",
    "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }},{% endfor %}{% for k in {'a': 1} %}{{ k }}{% endfor %}{% for x in [] %}no{% else %}none{% endfor %}",
    "{% for i in range(10) if i is odd %}{{ loop.index }}:{{ i }} {% endfor %}{% for i in range(2, 10, 3) %}{{ i }}{% endfor %}{% for i in range(5, 0, -2) %}{{ i }}{% endfor %}",
    "{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i > 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for a in [1,2] %}{% for b in [3,4] %}{{ loop.index }}{{ a }}{{ b }} {% endfor %}{{ loop.index }}{% endfor %}",
    "{% for c in 'héy' %}{{ c }}.{% endfor %}{% for x in missing %}a{% endfor %}{% generation %}g{% endgeneration %}",
    # Strings.
    "{{ '  a b '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'aab'.lstrip('a') }}|{{ 'baa'.rstrip('a') }}|{{ 'a,b,c'.split(',', 1) }}|{{ 'a,b,c'.rsplit(',', 1) }}|{{ ' a  b '.split() }}|{{ 'a b c'.split(none, 1) }}|{{ ''.split(',') }}|{{ ''.split() }}",
    "{{ 'hello World'.title() }} {{ 'hELLO'.capitalize() }} {{ 'a'.upper() }} {{ 'aXbX'.replace('X', '-', 1) }} {{ 'aXbX'.replace('X', '') }} {{ 'héllo'.find('l') }} {{ 'a'.find('z') }} {{ 'banana'.count('an') }} {{ ', '.join(['a', 'b']) }} {{ 'a\\nb\\n'.splitlines() }} {{ 'ab'.startswith('a') }} {{ 'ab'.endswith(('x', 'b')) }} {{ '12'.isdigit() }} {{ 'abc'.removeprefix('a') }}",
    # Filters.
    "{{ ' a '|trim }}{{ 'a'|upper }}{{ 'B'|lower }}{{ 'ab cd'|title }}{{ 'AB'|capitalize }}{{ [1,2]|length }}{{ 'é'|length }}{{ [1,2]|first }}{{ [1,2]|last }}{{ 'abc'|reverse }}{{ [3,1]|reverse|list }}{{ [1,2]|join('-') }}{{ [1,2]|sum }}{{ '42'|int + 1 }}{{ 'x'|int }}{{ '1.5'|float }}{{ 3.7|int }}{{ 5|string ~ 'a' }}{{ 'aXb'|replace('X', 'y') }}",
    "{{ messages|map(attribute='role')|join(',') }} {{ messages|selectattr('role', 'equalto', 'user')|list|length }} {{ messages|rejectattr('role', '==', 'user')|map(attribute='role')|list }} {{ [1,2,3]|select('odd')|list }} {{ [0,1,'']|reject|list }} {{ ['a','b']|map('upper')|join }} {{ ['A','a','b']|unique|list }} {% for k, v in {'b': 1, 'A': 2}|dictsort %}{{ k }}{{ v }}{% endfor %}{% for k, v in {'b': 1}|items %}{{ k }}{{ v }}{% endfor %}",
    "{{ 'a\\nb\\n\\nc'|indent }}|{{ 'a\\nb'|indent(2, true) }}|{{ 'a\\n\\nb'|indent(1, blank=true) }}",
    "{{ messages|tojson }}|{{ {'b': [1, 2.5, none, true], 'a': {}}|tojson(indent=2) }}|{{ {'b': 1, 'a': []}|tojson(sort_keys=true) }}|{{ 'é\\n\\u0001<&>\"/'|tojson }}|{{ [1, {'a': 2}]|tojson(separators=(',', ':')) }}|{{ 1000.0|tojson }}|{{ []|tojson(indent=4) }}",
    # Tests.
    "{{ 'a' is string }}{{ 1 is string }}{{ {} is mapping }}{{ [] is mapping }}{{ [] is iterable }}{{ 'a' is iterable }}{{ 1 is iterable }}{{ [] is sequence }}{{ none is none }}{{ 0 is none }}{{ 1 is number }}{{ 1 is integer }}{{ true is boolean }}{{ 1.0 is float }}{{ true is true }}{{ 1 is true }}{{ 4 is divisibleby 2 }}{{ 3 is even }}{{ 1 is not none }}{{ 'a' is in ['a'] }}{{ 2 is gt(1) }}{{ 'x' is eq 'x' }}",
    "{{ raise_exception('Roles must alternate ' ~ messages|length) }}",
    "{{ dict(a=1, b='x') }}{{ dict({'a': 1}, c=2)['c'] }}{{ {'a': 1}.get('a') }}{{ {'a': 1}.get('b') }}{{ {'a': 1}.get('b', 'd') }}{{ {'a': 1}.keys()|list }}{{ {'a': 1}.values()|list }}",
    "{{ 10000000.0 * 1000000000.0 }} {{ 0.00001 }} {{ 1 / 3 }} {{ 3.0 }}",
]

cases = []
for model, special in {"deepseek-v2": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"), "deepseek-v3": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"), "qwen3": ("", "<|im_end|>")}.items():
    for name, messages in CHATS.items():
        for prompt in (True, False):
            cases.append(case(f"{model}/{name}/{prompt}", f"{model}.jinja", {"messages": messages, "add_generation_prompt": prompt, "tools": None, "bos_token": special[0], "eos_token": special[1]}))
for model in ("deepseek-v3", "qwen3"):
    cases.append(case(f"{model}/calls", f"{model}.jinja", {"messages": CALLS, "tools": None, "bos_token": "<s>", "add_generation_prompt": True}))
    cases.append(case(f"{model}/called", f"{model}.jinja", {"messages": CALLS[:4], "tools": TOOLS, "bos_token": "<s>", "add_generation_prompt": True}))
cases.append(case("qwen3/no thinking", "qwen3.jinja", {"messages": [USER], "tools": TOOLS, "add_generation_prompt": True, "enable_thinking": False}))
cases += [case(f"small/{i}", t, {"messages": MESSAGES}) for i, t in enumerate(SMALL)]
(HERE / "cases.json").write_text(json.dumps(cases, ensure_ascii=False, indent=0) + "\n")
print(len(cases), "cases,", sum("error" in c for c in cases), "of them errors")
