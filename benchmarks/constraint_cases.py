r"""What constraints are measured on: regular expressions, documents that match them and some that do not.

From one number to whole objects as in "Efficiently Programming Large Language Models using SGLang" (Zheng
et al., arXiv 2312.07104, section 6: a character, a city), with field names of our own. Knows texts and
patterns; refuses to know engines. The JSON Schemas are `constraint_schemas`'.

Every engine reads its own dialect of regular expressions; only what all write alike is used, and \d, \w,
\s never meet a document in which their reading could matter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["CHARACTER", "CITY", "REGEXES", "Case", "character", "city"]


@dataclass(frozen=True, slots=True)
class Case:
    """`kind`: "regex" or "json_schema", whose text is `source`. `documents` satisfy it, the first one is
    what meets the constraint cold; `wrong` ones do not."""

    name: str
    kind: str
    source: str
    documents: tuple[str, ...]
    wrong: tuple[str, ...] = ()


_WORDS = r"[\w\d\s]{1,16}"
_STRING = r'"[^"\\\n]{1,24}"'
_NUMBER = r"-?\d{1,3}\.\d{1,4}"

CHARACTER = (
    r'\{\n  "name": "' + _WORDS + r'",\n'
    r'  "school": "(Mossgate|Ravenhall|Thornfield|Elmwater)",\n'
    r'  "ancestry": "(noble|common|unknown)",\n'
    r'  "occupation": "(student|teacher|guard|healer|gardener|librarian)",\n'
    r'  "wand": \{\n'
    r'    "wood": "(ash|beech|cedar|elm|hazel|maple|oak|willow)",\n'
    r'    "core": "' + _WORDS + r'",\n'
    r'    "length": \d{1,2}\.\d\n'
    r"  \},\n"
    r'  "alive": "(alive|deceased|unknown)",\n'
    r'  "companion": "' + _WORDS + r'",\n'
    r'  "fear": "' + _WORDS + r'",\n'
    r'  "born": \d{4},\n'
    r'  "spells": \["' + _WORDS + r'", "' + _WORDS + r'"\],\n'
    r'  "age": \d{1,3}\n\}'
)

CITY = (
    r'\{\n  "town": "' + _WORDS + r'",\n'
    r'  "country": "' + _WORDS + r'",\n'
    r'  "latitude": ' + _NUMBER + r",\n"
    r'  "inhabitants": \d{1,9},\n'
    r'  "sights": \["' + _WORDS + r'", "' + _WORDS + r'", "' + _WORDS + r'"\]\n\}'
)


def character(name: str, number: int = 0) -> str:
    """A text that matches CHARACTER."""
    schools = ("Mossgate", "Ravenhall", "Thornfield", "Elmwater")
    woods = ("ash", "beech", "cedar", "elm", "hazel", "maple", "oak", "willow")
    return (
        f'{{\n  "name": "{name}",\n  "school": "{schools[number % 4]}",\n  "ancestry": "unknown",\n'
        f'  "occupation": "librarian",\n  "wand": {{\n    "wood": "{woods[number % 8]}",\n'
        f'    "core": "grey feather",\n    "length": {9 + number % 5}.{number % 10}\n  }},\n'
        f'  "alive": "alive",\n  "companion": "old owl",\n  "fear": "deep water",\n'
        f'  "born": {1900 + number % 90},\n  "spells": ["silent door", "warm lamp"],\n'
        f'  "age": {20 + number % 70}\n}}'
    )


def city(name: str, number: int = 0) -> str:
    """A text that matches CITY."""
    return (
        f'{{\n  "town": "{name}",\n  "country": "Westmark",\n  "latitude": {number % 90}.{1000 + number},\n'
        f'  "inhabitants": {12_345 + 7919 * number},\n  "sights": ["old bridge", "salt market", "north gate"]\n}}'
    )


def _regex(name: str, source: str, good: list[str], wrong: list[str]) -> Case:
    """Raises `ValueError` where Python reads an example otherwise than said."""
    for text, fits in [(t, True) for t in good] + [(t, False) for t in wrong]:
        if bool(re.fullmatch(source, text)) is not fits:
            raise ValueError(f"{name}: {text!r} is a wrong example")
    return Case(name, "regex", source, tuple(good), tuple(wrong))


_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_COLORS = "crimson|scarlet|vermilion|amber|ochre|saffron|olive|emerald|teal|turquoise|azure|cobalt|indigo|violet|magenta|charcoal"

REGEXES: tuple[Case, ...] = (
    _regex("int", r"-?(0|[1-9][0-9]{0,9})", ["-1048576", "73"], ["01", "--1", "1.0"]),
    _regex("digits", r"\d+", ["31415926535897932384", "7"], ["", "3a"]),
    _regex(
        "float",
        r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?",
        ["-273.15", "6.022e+23"],
        ["1.", ".5", "1e"],
    ),
    _regex("bounded_float", r"-?[0-9]{1,3}\.[0-9]{1,4}", ["48.8566", "-179.5"], ["48", "1234.5"]),
    _regex(
        "date",
        r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])",
        ["2024-02-29", "1989-11-09"],
        ["2024-13-01", "24-01-01"],
    ),
    _regex(
        "datetime",
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})",
        ["2026-08-01T12:30:45Z", "2026-08-01T12:30:45.125+02:00"],
        ["2026-08-01 12:30:45Z", "2026-08-01T12:30:45"],
    ),
    _regex(
        "ip",
        rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}",
        ["192.168.10.254", "8.8.4.4"],
        ["256.1.1.1", "1.2.3"],
    ),
    _regex(
        "email",
        r"[a-z0-9._%+-]{1,32}@[a-z0-9-]{1,32}(\.[a-z]{2,10}){1,3}",
        ["ada.lovelace@analytical-engine.example.org", "bob@mail.example"],
        ["bob@mail", "@mail.example"],
    ),
    _regex(
        "uuid",
        r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        ["123e4567-e89b-12d3-a456-426614174000", "00000000-0000-0000-0000-00000000000f"],
        ["123e4567e89b12d3a456426614174000"],
    ),
    _regex(
        "url",
        r"https?://[a-z0-9.-]{1,40}(:[0-9]{1,5})?(/[a-zA-Z0-9._~-]{0,40}){0,6}(\?[a-z]+=[a-zA-Z0-9]+)?",
        ["https://docs.example.org:8443/guide/install.html?lang=en", "http://localhost/"],
        ["ftp://example.org", "https://"],
    ),
    _regex(
        "phone",
        r"(\+[0-9]{1,3} )?\(?[0-9]{2,4}\)?([ -][0-9]{2,4}){2,3}",
        ["+49 (030) 123 456 78", "555-867-5309"],
        ["+49", "call me"],
    ),
    _regex(
        "money",
        r"(USD|EUR|JPY|GBP) [1-9][0-9]{0,2}(,[0-9]{3}){0,4}\.[0-9]{2}",
        ["EUR 1,234,567.89", "USD 5.00"],
        ["EUR 1234.00", "CHF 5.00"],
    ),
    _regex("hex_color", r"#([0-9A-Fa-f]{3}|[0-9A-Fa-f]{6})", ["#1e90FF", "#abc"], ["#12345", "1e90FF"]),
    _regex(
        "quoted",
        r'"([^"\\\x00-\x1f]|\\["\\/bfnrt])*"',
        ['"She said \\"no\\" and left.\\n"', '"naïve café, 東京"'],
        ['"open', '"a\\x"'],
    ),
    _regex(
        "words_16", _WORDS, ["old stone bridge", "Ana"], ["", "a-b", "seventeen letters"]
    ),
    _regex("short_string", _STRING, ['"a quiet little harbour"', '"x"'], ['""', '"two\nlines"']),
    _regex("yes_no", r"(yes|no|maybe)", ["maybe", "yes"], ["ye", "YES"]),
    _regex("colors", rf"({_COLORS})", ["turquoise", "vermilion"], ["blue", "turq"]),
    _regex(
        "weekday",
        r"(Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day(, (Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day){0,6}",
        ["Wednesday, Saturday, Sunday", "Friday"],
        ["Wed", "Friday,"],
    ),
    _regex("any_200", r".{0,200}", ["It was a bright cold day in April. " * 5, "Hi"], ["a\nb", "x" * 201]),
    _regex(
        "no_comma", r"[^,\n]{1,80}, [^,\n]{1,80}", ["a long and winding road, the sea", "a, b"], ["a", "a,b"]
    ),
    _regex(
        "steps",
        r"(Step [1-9]: [A-Za-z ]{4,60}\.\n){1,8}Answer: -?[0-9]{1,6}",
        [
            "Step 1: Add the two numbers.\nStep 2: Take half of the sum.\nAnswer: 42",
            "Step 1: Count them all.\nAnswer: 7",
        ],
        ["Answer: 42", "Step 1: Hm.\nAnswer: 1"],
    ),
    _regex(
        "key_values",
        r'\{("[a-z_]{1,20}": ("[^"\\\n]{0,40}"|-?[0-9]{1,9}|true|false|null)(, "[a-z_]{1,20}": ("[^"\\\n]{0,40}"|-?[0-9]{1,9}|true|false|null)){0,12})?\}',
        ['{"title": "The Sea", "pages": 312, "in_print": true, "sequel": null}', "{}"],
        ['{"title": }', '{"a": 1,}'],
    ),
    _regex(
        "optional_chain", r"(a?){24}a{24}b", ["a" * 30 + "b", "a" * 24 + "b"], ["a" * 23 + "b"]
    ),
    _regex(
        "character", CHARACTER, [character("Ilse Corvin", 3), character("Tam", 17)],
        [character("Ilse Corvin", 3)[:-1], character("A name that is far too long", 1)],
    ),
    _regex(
        "city", CITY, [city("Harrow Falls", 3), city("Brask", 11)],
        [city("Harrow-Falls", 3), city("Brask", 11) + "\n"],
    ),
)  # fmt: skip
