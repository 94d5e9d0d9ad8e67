"""Writes models/tests/fixtures/jinja.json: templates, and their output in transformers.

    pip install transformers==5.23.0 jinja2==3.1.6
    python tests/scripts/make_jinja.py

The messages have numbers of every form. Each template uses filters, methods or operators in which other Jinja implementations may differ
from Python's.
"""

import json
from pathlib import Path

from transformers.utils.chat_template_utils import _compile_jinja_template

MESSAGES = """[
 {"role": "user", "content": "hi is", "meta": {"a": 1, "z": "é"}, "f": 1.0, "g": 1e-05, "h": 1e+16, "i": 0.1, "n": null},
 {"role": "assistant", "content": "has a </t> bit", "meta": {"k": null, "b": true}, "f": 2.5, "g": 1e+22, "h": 123456789.0,
  "i": 1e-07, "big": 123456789012345678901234567890, "huge": 1234567890123456789012345678901234567890123, "neg": -0.0,
  "special": [NaN, Infinity, -Infinity], "text": " a,b  c\\n\\u001cd\\r\\n", "wide": "\\u007f\\u2028é😀\\u0001"}
]"""

TURN = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}BODY{{ '<|im_end|>\n' }}{% endfor %}"
TURN += "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"

TURNS = {
    "percent-tuple": "{{ '[%s=%s]' % (m.role, m.content) }}",
    "percent-str": "{{ 'hi %s' % m.content }}",
    "float-print": "{{ m.f }} {{ m.g }} {{ m.h }} {{ m.i }}",
    "partition": "{{ m.content.split('i',1) }}{{ m.content.partition('i')|list }}",
    "special-tokens": "{{ unk_token }}{{ m.content }}",
    "escape": "{{ m.content|safe }}{{ m.content|e }}{{ '<b>'|escape }}",
    "wordcount": "{{ 'a b c'|wordcount }}{{ 3.7|round|int }}{{ 3.14159|round(2) }}{{ -3|abs }}{{ [1,2]|min }}"
    "{{ 'x'|center(5) }}|{{ 'a\nb'|indent(2) }}{{ 'hello'|truncate(3, true) }}",
}

WHOLE = {
    "tojson-numbers": "{{ messages|tojson }}",
    "tojson-options": "{{ messages[1]|tojson(indent=2) }}{{ messages[0]|tojson(sort_keys=true, separators=(',', ':')) }}"
    "{{ messages[1].wide|tojson }}{{ messages[1].wide|tojson(ensure_ascii=true) }}{{ {}|tojson(indent=1) }}",
    "tojson-places": "{{ messages[0]|tojson(true, 3) }}{{ messages[0]|tojson(indent='\t') }}{{ [1, [2]]|tojson(indent=0) }}",
    "tojson-keys": "{{ {2: 3, none: 4, 1.5: 5, true: 6}|tojson }}{{ (1, 'a')|tojson }}{{ 'x'|tojson|e }}",
    "containers": "{{ messages[1].special }}{{ messages[1].meta }}{{ [1.5, 1e22, none, 'it\\'s', (1,)] }}{{ {'a': {}} }}",
    "concat": "{{ messages[1].g ~ '|' ~ messages[1].special ~ (1 + 2) }}{{ 'a' ~ 2 * 3 + 4 ~ '' if false else 'b' ~ -1 }}{{ 1 ~ none ~ true }}",
    "big": "{{ messages[1].big }} {{ messages[1].huge }} {{ messages[1].big + 1 }} {{ [messages[1].huge] }}",
    "percent": "{{ '%d of %5.2f%% %s' % (3, 2.5, messages[0].g) }}{{ 7 % 3 }}{{ -7 % 3 }}{{ 7.5 % 2 }}{{ 'a%s' % 'b' * 2 }}"
    "{{ '%s' % messages[1].meta }}{{ '%(x)s' % {'x': 1} }}{{ '%s-%s'|format('a', 1.0e-7) }}",
    "strip": "{{ messages[1].text.strip() }}|{{ messages[1].text|trim }}|{{ messages[1].text.rstrip('\r\nd') }}|"
    "{{ 'xxaxx'.lstrip('x') }}|{{ 12|trim }}",
    "split": "{{ messages[1].text.split() }}{{ messages[1].text.split(none, 1) }}{{ messages[1].text.rsplit(',', 1) }}"
    "{{ messages[1].text.splitlines() }}{{ 'a-b-c'.split('-', maxsplit=1) }}{{ 'a--b'.split('-')[-1] }}",
    "methods": "{{ 'abcab'.removeprefix('ab') }}{{ 'abcab'.removesuffix('ab') }}{{ 'abcab'.find('b', 2) }}"
    "{{ 'abcab'.index('c') }}{{ 'a-b'.rpartition('-') }}{{ '7'.zfill(3) }}{{ 'aB'.swapcase() }}{{ 'ab'.ljust(4) }}|"
    "{{ 'é'.center(4, '*') }}{{ 'abc'.replace('b', 'x') }}{{ 'ABC'.lower() }}{{ 'a b'.title() }}{{ 'x'.startswith(('y', 'x')) }}",
    "filters": "{{ [3, 1.0e16]|join(', ') }}{{ messages[1].g|string }}{{ [{'a': 1}, {'a': 2}]|join('-', attribute='a') }}"
    "{{ 'a b c d e f g h'|truncate(9) }}{{ 'abcdefghijklmnop'|truncate(8, true, '..') }}{{ messages|map(attribute='role')|list }}"
    "{{ messages|selectattr('role', 'equalto', 'user')|list|length }}{{ '<'|forceescape }}{{ none|string }}{{ 1.0|string }}",
    "undefined": "{{ nothing }}{% if nothing is defined %}x{% endif %}{{ messages[0].nothing }}{{ mask_token }}"
    "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ cls_token is defined }}",
    "tests": "{{ none is iterable }}{{ 'a' is iterable }}{{ messages[0] is mapping }}{{ 1.0 is number }}{{ 1 is integer }}"
    "{{ 1.5 is float }}{{ messages is sequence }}{{ 'a' in 'abc' }}{{ 3 is divisibleby 3 }}{{ 'n' in messages[0] }}",
    "arithmetic": "{{ 7 // 2 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 1e3 }} {{ 10 / 5 }} {{ 0.1 + 0.2 }} {{ 1e16 + 1 }} {{ -7 // 2 }}",
    "loops": "{% for k, v in messages[0].meta.items() %}{{ k }}={{ v }};{% endfor %}{% for k, v in messages[1].meta|items %}"
    "{{ k }}={{ v }};{% endfor %}{% for k, v in messages[0].meta|dictsort %}{{ loop.index }}{{ k }}{% endfor %}"
    "{% for c in 'abc' if c != 'b' %}{{ loop.cycle('1', '2') }}{{ c }}{% else %}none{% endfor %}",
    "namespace": "{% set ns = namespace(n=0, s='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% set ns.s = ns.s ~ m.role ~ ns.n %}{% endfor %}{{ ns.s }}{% set x %}a{{ 1 ~ 2 }}{% endset %}{{ x }}",
    "macro": "{% macro f(a, b=2) %}{{ a ~ b }}{% endmacro %}{{ f('x') }}{{ f('y', b='%' ~ 3) }}{{ messages[::-1][0].role }}"
    "{{ messages[1:]|length }}{% raw %}{{ a ~ b }}{% endraw %}{# {{ a ~ b }} #}",
}


def main() -> None:
    messages = json.loads(MESSAGES)
    special = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    templates = {name: TURN.replace("BODY", body) for name, body in TURNS.items()} | WHOLE
    cases = []
    for name, template in templates.items():
        rendered = _compile_jinja_template(template).render(messages=messages, tools=None, add_generation_prompt=False, **special)
        cases.append({"name": name, "template": template, "rendered": rendered})
    text = json.dumps({"messages": MESSAGES, "cases": cases}, indent=1, ensure_ascii=False)
    (Path(__file__).parents[2] / "models/tests/fixtures/jinja.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
