"""Patterns to trees: what is taken means what `re` means, the rest is refused by name."""

from __future__ import annotations

import re
import time
import warnings
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ramet.constraints.limits import ConstraintLimits
from ramet.constraints.nfa import accepts, build
from ramet.constraints.nodes import EMPTY, Chars, Choice, Repeat, Sequence, Text
from ramet.constraints.scan import scan
from ramet.constraints.syntax import parse
from ramet.errors import InvalidRequest

# pattern -> texts; whether each one matches is for `re` to say
TABLE: dict[str, list[str]] = {
    "": ["", "a"],
    "abc": ["abc", "ab", "abcd", ""],
    "a|b": ["a", "b", "ab", ""],
    "a|": ["a", "", "b"],
    "|": ["", "|"],
    "(?:)": ["", "a"],
    "()*": ["", "a"],
    "(ab|abc)(d|cd)": ["abd", "abcd", "abccd", "abcdd"],
    "a*": ["", "a", "aaaa", "b"],
    "a*?": ["", "aaaa"],
    "a+?b": ["b", "ab", "aab"],
    "a??b": ["b", "ab", "aab"],
    "a{2}": ["a", "aa", "aaa"],
    "a{2,}": ["a", "aa", "aaaa"],
    "a{,2}": ["", "aa", "aaa"],
    "a{1,3}?": ["", "a", "aaa", "aaaa"],
    "a{0}": ["", "a"],
    "a{0}b": ["b", "ab"],
    "a{}": ["a{}", "a"],
    "a{x}": ["a{x}", "a"],
    "x{1,2,3}": ["x{1,2,3}", "x"],
    "(a?){3}": ["", "aaa", "aaaa"],
    "(a*)+": ["", "aaa", "b"],
    "((a{2}){3})?": ["", "a" * 6, "aa"],
    "(a{2,3}){2}": ["a" * n for n in range(3, 8)],
    "(a{3}){1,2}": ["a" * n for n in range(8)],
    "(a{2,}){0,2}": ["a" * n for n in range(6)],
    "(aa|aaa)*": ["", "a", "aa", "aaaaa"],
    "(a|b?){2,}": ["", "a", "bb", "abab", "c"],
    "[abc]+": ["cab", "", "d"],
    "[^abc]": ["a", "d", "\n", "é"],
    "[]a]+": ["]a", "[", ""],
    "[^]a]": ["]", "b"],
    "[a-]": ["-", "a", "b"],
    "[-a]": ["-", "a"],
    "[a\\-c]": ["-", "b", "c"],
    "[+--]": ["+", ",", "-", "."],
    "[[]": ["[", "a"],
    "[[a]": ["[", "a", "]"],
    "[a&&b]": ["&", "a", "b"],
    "[a||b]": ["|", "a", "&"],
    "[a~~b]": ["~", "b"],
    "[a-c--e]": ["b", "-", "d", "e"],
    "[a-c\\--e]": ["b", "-", "9", "e"],
    "[&&-z]": ["&", "'", "a", "z", "{"],
    "[^[&&]": ["[", "&", "x"],
    "[!--a]": ["!", "-", "a", "b", ","],
    "[[\\]||]+": ["[]|", "\\"],
    "[\\x41-\\x43]": ["A", "C", "D", "x"],
    "[.]": [".", "a"],
    "[$^]": ["$", "^", "a"],
    r"[\b]": ["\b", "b"],
    r"\.\*\\": [".*\\", "a*\\"],
    r"\n\t\r\f\v\a": ["\n\t\r\f\v\a", "nt"],
    r"\x41\u00e9\U0001f600": ["Aé😀", "A"],
    r"\101": ["A", "\\101"],
    r"\0": ["\0", "0"],
    r"\N{BULLET}": ["•", "N"],
    r"\d+": ["123", "١٢", "²", "a", ""],
    r"(?a)\d+": ["123", "١٢"],
    r"\w+": ["aé_9字", "a b", "-"],
    r"(?a)\w+": ["a_9", "é"],
    r"\s": [" ", "\u00a0", "\u2003", "\x1c", "a"],
    r"(?a)\s": [" ", "\u00a0", "\x1c"],
    r"[^\W\d_]+": ["aé", "a1", "_"],
    ".": ["a", "\n", "é", "😀", "ab", "\r"],
    "(?s).": ["a", "\n", "ab"],
    "(?s:.).": ["\na", "\n\n", "a\n"],
    "(?i)straße": ["STRAßE", "straẞe", "STRASSE"],
    "(?i)kelvin": ["\u212aELVIN", "KELVIN", "elvin"],
    "(?i)mis\u017f": ["MISS", "miſs", "mis"],
    "(?i)\u0131": ["i", "I", "ı", "İ"],
    "(?i)i": ["i", "I", "ı", "İ"],
    "(?i)σ": ["σ", "ς", "Σ"],
    "(?i)[k-m]+": ["KLM", "\u212a", "n"],
    "(?i)[^k]": ["K", "\u212a", "l"],
    "(?i)É|ö": ["é", "Ö", "e"],
    "a(?i:b)c": ["aBc", "abc", "ABc", "abC"],
    "(?i)a(?-i:b)c": ["AbC", "aBc", "abc"],
    "(?ai)k": ["k", "K", "\u212a"],
    "(?x) a b # c\n d": ["abd", "a b d", "abcd"],
    "(?x: a b ) c": ["ab c", "abc"],
    "(?x)a(?-x: b)": ["a b", "ab"],
    "(?x)[ #]\\ a\\#": ["# a#", " a#"],
    "(?x)a#(((\nb": ["ab", "a"],
    "(?x)a#\\\nb\nc": ["ac", "abc"],
    "a(?#x)b": ["ab", "a(?#x)b"],
    "a(?#\\))b": ["ab", "ab)"],
    "(?P<x>a)(?P<y>b)": ["ab", "a"],
    "(a)(b(c))": ["abc", "ab"],
    "(?u)é": ["é", "e"],
    # anchors that say nothing
    "^a$": ["a", "a\n", "^a$"],
    r"\Aa\Z": ["a", "aa"],
    "^^a$$": ["a", ""],
    "^": ["", "a"],
    "$": ["", "\n"],
    "$^": ["", "a"],
    "(^)a($)": ["a"],
    "(^a|b)c$": ["ac", "bc", "c"],
    "(^a|^b|(^c))d": ["ad", "cd", "d"],
    "a(b$|c$)": ["ab", "ac", "a"],
    "a(b|c$|d)$": ["ab", "ac", "ad"],
    "(?:^a)?b": ["ab", "b", "aab"],
    "a(?:b$)?": ["a", "ab", "ab\n"],
    "((^a))": ["a"],
    "^(?:(?:a|b)$)": ["a", "b", "ab"],
    "a$\\n": ["a\n", "a", "a\n\n"],
    "a$\\n?": ["a\n", "a", "a\n\n"],
    "a$(\\n)?$": ["a"],
    "(?m)^a$": ["a", "a\n"],
    "(?m)^a$\\n^b$": ["a\nb", "ab", "a\n"],
    "(?m)^a$\\n": ["a\n", "a"],
    "(?m)a\\n^$\\n^b": ["a\n\nb", "a\nb"],
    # atomic, but of one length
    "(?>a|b)c": ["ac", "bc", "abc"],
    "(?>ab)*c": ["abc", "ababc", "c"],
    "a{3}+b": ["aaab", "aab"],
    "(?:ab|cd){2}+e": ["abcde", "abe"],
    # numbers
    r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?": ["0", "-1.5e+3", "01", "1.", ".5", "1e5"],
    r"(\d{1,3}\.){3}\d{1,3}": ["127.0.0.1", "1.2.3", "1.2.3.4.5"],
    r"\d{4}-(0[1-9]|1[0-2])-([12]\d|0[1-9]|3[01])": ["2024-12-31", "2024-13-01"],
    r'"([^"\\]|\\.)*"': ['"a\\"b"', '"a"b"', '""', '"\n"', '"\\\n"'],
    r"[\w.+-]+@[\w-]+\.[\w.-]+": ["a.b+c@d-e.fr", "a@b", "@b.c"],
    "(yes|no|maybe)( please)?": ["yes", "no please", "maybeplease"],
    "😀{2,3}": ["😀😀", "😀", "😀" * 4],
    "[😀-😎é]+": ["😃é", "a"],
    "日本|日曜|本": ["日本", "日曜", "本", "日"],
    "[\\ud000-\\uf000]": ["\ud000", "\ue000", "\uf001"],
}
CASES = [(pattern, text) for pattern, texts in TABLE.items() for text in texts]

REFUSED = {
    "a(?=b)b": "look-ahead",
    "(?!a)b": "look-ahead",
    "(?!)": "look-ahead",
    "(?<=a)b": "look-behind",
    "(?<!a)b": "look-behind",
    r"(a)\1": "reference",
    "(?P<x>a)(?P=x)": "reference",
    "(a)?(?(1)b|c)": "condition",
    "(?:a*+)a": "possessive",
    "a++": "possessive",
    "(?:a|bc){2}+": "possessive",
    "(?>a*)b": "atomic",
    "(?>a|ab)c": "atomic",
    r"\ba": "word boundary",
    r"a\B": "word boundary",
    "a^b": "anchor ^",
    r"a\Ab": r"anchor \A",
    "a$b": "anchor $",
    r"a\Zb": r"anchor \Z",
    r"a\Z\n": r"anchor \Z",
    "a?^b": "anchor ^",
    "(^a)*": "anchor ^",
    "(a$){2}": "anchor $",
    "(a|b$)c": "anchor $",
    "(?m)a^b": "anchor ^",
    "a$\\n+": "anchor $",
    "(a$)\\n": "anchor $",
    "a\\n^b": "anchor ^",
    r"\ud83d\ude00": "surrogate",
    "\ud800": "surrogate at position 0",
    "a)": "unbalanced parenthesis at position 1",
    "(": "unterminated subpattern at position 0",
    "a**": "multiple repeat at position 2",
    "*": "nothing to repeat at position 0",
    "[b-a]": "bad character range b-a at position 1",
    "[[&&x": "unterminated character set",
    "[--\\]": "unterminated character set at position 0",
    "[[||a]b-(": "at position 8",
    "ab[": "unterminated character set at position 2",
    r"\q": r"bad escape \q at position 0",
    "a(?i)b": "global flags not at the start",
    "(?L)a": "flags",
    "(?P<a>x)(?P<a>y)": "redefinition",
    "a{3,2}": "min repeat greater than max repeat",
    "a{5000000000}": "repetition number is too large",
    "a{" + "9" * 5000 + "}": "not a regular expression",
}


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of `re` itself
@pytest.mark.parametrize(("pattern", "text"), CASES)
def test_texts_match_as_with_re(pattern: str, text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    assert accepts(build(parse(pattern)), data) == bool(re.fullmatch(pattern, text))


def test_the_table_has_both_answers_for_most_patterns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answers = [{bool(re.fullmatch(p, t)) for t in texts} for p, texts in TABLE.items()]
    assert len(CASES) > 300
    assert sum(len(found) == 2 for found in answers) > 100


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_is_not_supported_is_refused_by_name(pattern: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(pattern, field="here")
    assert REFUSED[pattern] in caught.value.problem
    assert caught.value.field == "here"
    assert caught.value.value == pattern


def test_the_tree_keeps_repeats_and_joins_text() -> None:
    assert parse("a(?:b)c") == Text("abc")
    assert parse("") == EMPTY
    assert parse("(a{1000}){1000}") == Repeat(Repeat(Text("a"), 1000, 1000), 1000, 1000)
    assert parse("(?:ab)*c|d") == Choice(
        (Sequence((Repeat(Text("ab"), 0, None), Text("c"))), Text("d"))
    )
    assert parse("[ab]") == Chars(((97, 98),))


def test_no_pattern_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for pattern in TABLE:
            parse(pattern)
        for pattern in ("[a--", "[[", "[[--\\", "[a&&\\]"):
            with pytest.raises(InvalidRequest, match="not a regular expression"):
                parse(pattern)


@pytest.mark.parametrize(
    ("pattern", "depth"),
    [
        ("(a)(b)", 1),
        ("((a)b)", 2),
        (r"\((a)", 1),
        ("[(](a)[)]", 1),
        ("[](](a)", 1),
        ("[^](](a)", 1),
        (r"[\](](a)", 1),
        ("(?#(()(a)", 1),
        ("(?x)#((\n(a)", 1),
        ("#((a))", 2),
        ("(?x:#(\n)((a))", 2),
        ("(?x)(?-x:#(a))", 2),
        ("(?i)(a)", 1),
        ("(?=(a))", 2),
        (")))(", 1),
    ],
)
def test_nesting_is_counted_as_the_parser_sees_it(pattern: str, depth: int) -> None:
    assert scan(pattern, 100).depth == depth


def test_limits_name_the_number() -> None:
    small = ConstraintLimits(source_bytes=10, depth=3)
    parse("(((a)))", small)
    with pytest.raises(InvalidRequest, match="more than 3 groups"):
        parse("((((a))))", small)
    parse("é" * 5, small)
    with pytest.raises(InvalidRequest, match="has 12 bytes, more than 10"):
        parse("é" * 6, small)


def test_the_remedy_for_plain_groups_helps() -> None:
    plain = "(?:" * 127 + "ab" * 32_000 + ")" * 127
    with pytest.raises(InvalidRequest, match="too many groups") as caught:
        parse(plain)
    assert caught.value.remedy == "write them as ( )"
    assert parse(plain.replace("(?:", "(")) == Text("ab" * 32_000)
    assert scan("a(?:b(c(?:de)))f", 9).plain == len("b(c(?:de)))") + len("de)")


def test_depth_as_allowed_is_taken() -> None:
    for opening in ("(", "(?:", "(?i:", "(a|"):
        parse(opening * 128 + "a" + ")" * 128)
        with pytest.raises(InvalidRequest, match="more than 128 groups"):
            parse(opening * 129 + "a" + ")" * 129)


HOSTILE = {
    "nested": "(" * 60_000,
    "nested in sets": "([)]" * 16_000,
    "nested in comments": "(?x)" + "(#)\n" * 16_000,
    "open sets": "[" * 65_000,
    "odd sets": "[--" * 20_000,
    "comments": "(?#" * 20_000,
    "flags": "(?" + "i" * 60_000,
    "backslashes": "\\" * 65_535,
    "options": "ab|" * 21_000,
    "prefixes": "a" * 32_000 + "|" + "a" * 32_000,
    "empty options": "(|)" * 21_000,
    "groups": "()" * 32_000,
    "letters of both cases": "(?i)" + "k" * 65_000,
    "sets": "[ab]" * 16_000,
    "large sets": "".join(f"[\\w{chr(0x2190 + i)}]" for i in range(4000)),
    "large folded sets": "(?i)" + "".join(f"[a-{chr(0x4E00 + i)}]" for i in range(9000)),
    "one large set": "(?i)["
    + "".join(f"{chr(0x3B1 + i)}-{chr(0x4E00 + i)}" for i in range(9000))
    + "]",
    "plain groups": "(?:" * 127 + "ab" * 32_000 + ")" * 127,
    "plain groups with prefixes": "(?:" * 120 + "a" * 32_000 + "|" + "a" * 32_000 + ")" * 120,
    "groups in groups": ("(" * 127 + ")" * 127) * 256,
    "anchors": "(?m)\n" + "^$" * 30_000 + "\n",
    "repeats": "a{1,2}" * 10_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_patterns_cost_little(name: str) -> None:
    pattern = HOSTILE[name]
    assert len(pattern.encode()) <= 1 << 16
    parse("(?i)[a-k]\\w")  # tables that are made once
    started = time.process_time()
    with suppress(InvalidRequest):
        parse(pattern)
    assert time.process_time() - started < 2  # some 0.05 to 0.4 s on an idle core


@given(st.text(alphabet="()[]{}|*+?^$\\.-ab1,:=!<>P#ximsu \n&~", max_size=14))
@settings(max_examples=600, deadline=None)
@example("(?x)#(")
@example("[[]]")
def test_any_text_is_taken_or_refused_and_means_what_re_says(pattern: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compiled = re.compile(pattern)
        except (re.error, OverflowError):
            compiled = None
    if compiled is None:
        with pytest.raises(InvalidRequest, match=r"not a regular expression|not supported"):
            parse(pattern)
        return
    try:
        nfa = build(parse(pattern))
    except InvalidRequest as error:
        refused = error.problem
    else:
        refused = ""
        for text in (
            "",
            "a",
            "b",
            "ab",
            "1",
            "-",
            "aa",
            "[",
            "&",
            "a\n",
            "x",
            "\n",
            "(",
            "#",
            pattern,
        ):
            assert accepts(nfa, text.encode()) == bool(compiled.fullmatch(text))
    assert not refused or "not supported" in refused or refused == "matches no text"
