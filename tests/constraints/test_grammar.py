"""Grammars in the notation of llama.cpp, against a recogniser that tries everything; Lark as it is."""

from __future__ import annotations

import functools
import itertools
import random

import pytest
from tests.constraints.words import SPECIAL, compiled, ids, takes

from ramet.constraints import grammar
from ramet.constraints.gbnf import Alternatives, Expression, Name, Row, Times, parse_rules
from ramet.constraints.nodes import Chars, Text
from ramet.errors import InvalidRequest

JSON = r"""# a comment
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws (
    string ":" ws value ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" (
    [^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})
  )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9]{1,15})? ws
ws ::= ([ \t\n] ws)?
"""


def _accepts(source: str, text: str) -> bool:
    return takes(compiled(grammar.read(source)).start(), text)


def _recognised(rules: dict[str, Expression], text: str) -> bool:
    """All ends of all expressions at all places, as a least fixed point."""
    ends: dict[tuple[str, int], frozenset[int]] = {}

    def after(one: Expression, at: int) -> frozenset[int]:
        match one:
            case Text(word):
                return frozenset([at + len(word)] if text.startswith(word, at) else [])
            case Chars(ranges):
                found = at < len(text) and any(a <= ord(text[at]) <= b for a, b in ranges)
                return frozenset([at + 1] if found else [])
            case Name(name, _):
                return ends.get((name, at), frozenset())
            case Row(parts):
                places = frozenset([at])
                for part in parts:
                    places = frozenset(e for p in places for e in after(part, p))
                return places
            case Alternatives(options):
                return frozenset().union(*(after(option, at) for option in options))
            case Times(body, least, most):
                places = frozenset([at])
                reached: frozenset[int] = frozenset([at] if not least else [])
                for count in range(1, (len(text) + least + 1 if most is None else most) + 1):
                    places = frozenset(e for p in places for e in after(body, p))
                    reached |= places if count >= least else frozenset()
                return reached
        raise AssertionError(one)

    while True:
        new = {(n, at): after(one, at) for n, one in rules.items() for at in range(len(text) + 1)}
        if new == ends:
            return len(text) in ends["root", 0]
        ends = new


GRAMMARS = [
    'root ::= "a"* "ab"',
    'root ::= "abd" | "a" x\nx ::= "bd" x | "c"',
    'root ::= s\ns ::= [a-c]+ "ab" | "(" s ")"',
    'root ::= "a" root "b" | ""',
    'root ::= root "a" | "b"',
    'root ::= root root | "a" | "bc"',
    'root ::= x "c"\nx ::= ("a" | "ab" | "b" x){1,3}',
    'root ::= ("a"? "b"){2} | "(" root ")"',
    'root ::= "a" | "b" x\nx ::= "c" x',
    'root ::= y | "(" root ")" y\ny ::= ("c" y)?',
    'root ::= [^a(] root? | "aa" root "b" | .',
]


@pytest.mark.parametrize("source", GRAMMARS)
def test_exactly_the_texts_of_a_grammar(source: str) -> None:
    rules = parse_rules(source, "ebnf")
    constraint = compiled(grammar.read(source))
    for size in range(6):
        for letters in itertools.product("abc()"[: 3 if size > 4 else 5], repeat=size):
            text = "".join(letters)
            assert takes(constraint.start(), text, single=True) == _recognised(rules, text), text


@pytest.mark.parametrize("seed", range(40))
def test_drawn_grammars_allow_exactly_their_texts(seed: int) -> None:
    chance = random.Random(seed)

    def part(depth: int) -> str:
        if depth > 2 or chance.random() < 0.4:
            return chance.choice(('"a"', '"ab"', '"ba"', "[ab]", '"b"', "x", "y", "root"))
        kind = chance.randrange(3)
        if kind == 0:
            return f"({part(depth + 1)} {part(depth + 1)})"
        if kind == 1:
            return f"({part(depth + 1)} | {part(depth + 1)})"
        return f"({part(depth + 1)}){chance.choice(('?', '*', '+', '{1,2}'))}"

    source = "\n".join(
        f'{n} ::= {part(0)} {part(0)} | "{w}"' for n, w in (("root", "aa"), ("x", "b"), ("y", ""))
    )
    rules = parse_rules(source, "ebnf")
    constraint = compiled(grammar.read(source))
    for size in range(6):
        for letters in itertools.product("ab", repeat=size):
            text = "".join(letters)
            assert takes(constraint.start(), text, single=True) == _recognised(rules, text), (
                source,
                text,
            )


@functools.cache
def _json() -> str:
    return grammar.read(JSON)


def test_the_json_grammar_of_llama_cpp() -> None:
    constraint = compiled(_json())
    for text in (
        "{}",
        '{"a":1}',
        '{"a": {"b":-12.5e3, "c":"x\\n\\u00e9é"}, "d":[true,null ,"]"]}\n',
    ):
        assert takes(constraint.start(), text), text
    for text in ('{"a" 1}', '{"a":01}', "[]", '{"a":"\\x"}', '{"a":1,}'):
        assert not takes(constraint.start(), text), text
    assert r"T" in _json()
    assert r"(?:[" in _json()  # strings are matched in one piece


def test_escapes_and_sets() -> None:
    source = r'root ::= "a\n\t\"\\\x41é😀" [\]x-z"\\/^-] [^\n\]] .'
    assert _accepts(source, 'a\n\t"\\Aé😀]a日')
    assert _accepts(source, 'a\n\t"\\Aé😀-^x')
    assert not _accepts(source, 'a\n\t"\\Aé😀w^x')
    assert not _accepts(source, 'a\n\t"\\Aé😀x]x')
    assert not _accepts(source, 'a\n\t"\\Aé😀xx\n')


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('root ::= foo\n\nfoo ::= bar "x"', "line 3: there is no rule named bar"),
        ('root ::= "a" |\n @', "line 2: '@' is not understood"),
        ('root ::= ("a"\n', "line 1: a group is not closed"),
        ('root ::= "a")', "line 1: '\\)' stands where a rule should begin"),
        ('root ::= "a"\nroot ::= "b"', "line 2: the rule root is there twice"),
        ('x ::= "a"', "there is no rule named root"),
        ('\n\nroot ::= "a\\q"', r"line 3: the escape \\\\?q is not known"),
        ("root ::= [b-a]", "line 1: the range b-a is empty"),
        (r'root ::= "\ud800"', "is no character"),
        ('root ::= "a"{3,2}', "is empty, or counts beyond"),
        ('root ::= "a"{1000000}', "counts beyond 10000"),
        ('root ::= "a"****', "a repeat of a repeat"),
        ("root ::= root", "allows nothing"),
        ('root ::= "a" root', "allows nothing"),
        ("root ::= " + "(" * 20000 + '"a"' + ")" * 20000, "nested deeper than 64"),
        ("root ::= " + '"a"' * 21_500, "bytes|parts"),
        ("root ::= " + "a " * 21_500 + '\na ::= "x"', "parts"),
        ("\n".join(f'r{i} ::= "a"' for i in range(600)) + "\nroot ::= r1", "600 rules|601 rules"),
        ("root ::= " + "x" * 70_000, "are more than 65536"),
        ('start: "a" @@', r"1\(13\): lexer error"),
        ("start: x", "unknown name"),
        ('start: "a"\nb: %json {"type": "str"}', r"line 2: at \$\.type"),
        ('start: "a"\n\nb: %json {"type"}', "line 3: bad JSON"),
        ('start: %json {"$ref": "#/x", "x": {"not": {}}}', "line 1"),
        ('%llguidance {"no_forcing": false}\nstart: "a"', "line 1: options are set by us"),
        ("start: <[12]>", "line 1: .* names tokens by number"),
        ('start: "a"{1000000}', "line 1: a repeat counts beyond"),
        ("start: /a{1000000}/", "line 1: a repeat counts beyond"),
        ("start: " + "(" * 5000 + '"a"' + ")" * 5000, "inside each other"),
        ("start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(3000)) + '\nr3000: "a"', "inside"),
    ],
)  # fmt: skip
def test_bad_grammars_are_refused(source: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        compiled(grammar.read(source))
    assert caught.value.field == "ebnf"


def test_lark_is_passed_on_with_its_schemas_checked() -> None:
    source = 'start: "x" json TAIL // %json { in a comment\njson: %json {"type": "integer", "title": "t"}\nTAIL: /!{1,3}/'
    assert _accepts(source, "x12!!")
    assert not _accepts(source, "x12!!!!")
    assert not _accepts(source, "x" + "1" * 30 + "!")  # bounded like all integers
    assert _accepts('start: "%json {" "a"', "%json {a")


def test_special_tokens_by_their_text() -> None:
    matcher = compiled(grammar.read('start: "a" <|call|>')).start()
    assert matcher.accept(ord("a"))
    assert ids(matcher.mask()) == [SPECIAL]
