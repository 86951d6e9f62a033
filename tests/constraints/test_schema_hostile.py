"""Sources that cost others' engines minutes, gigabytes or the process: in a process of its own, with its
memory bounded, each ends in a constraint or in a refusal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_PROGRAM = """
import json, resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from ramet.constraints import grammar, guidance, schema, tags
from ramet.constraints.limits import DEFAULT
from ramet.errors import InvalidRequest
from tests.constraints.words import VOCABULARY, ids
for kind, source in json.load(sys.stdin):
    start, last = time.process_time(), ""
    try:
        if kind == "json_schema":
            read = schema.read(source).grammar
        else:
            read = (grammar if kind == "ebnf" else tags).read(source)
        matcher = guidance.compile(read, VOCABULARY, DEFAULT, kind, source).start()
        for _ in range(30):
            matcher.prepare()
            allowed = ids(matcher.mask())
            if not allowed:
                break
            matcher.forced()
            matcher.accept(allowed[len(allowed) // 2])
    except InvalidRequest as error:
        assert error.field == kind
        last = error.problem
    # of this program: ru_maxrss would begin with what its parent had
    status = open("/proc/self/status").read().split()
    peak = int(status[status.index("VmHWM:") + 1]) >> 10
    print(json.dumps([time.process_time() - start, peak, last]), flush=True)
"""


def _nested(head: str, count: int, inside: str = "{}", tail: str = "}") -> str:
    return head * count + inside + tail * count


def _chain(count: int, link: Any) -> str:
    definitions = {f"d{i}": link(f"#/$defs/d{i + 1}") for i in range(count)}
    return json.dumps(
        {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{count}": {"type": "null"}}}
    )


def _mesh(count: int) -> str:
    def one(i: int) -> Any:
        return {f"p{j}": {"$ref": f"#/$defs/d{(i * 7 + j) % count}"} for j in range(20)}

    definitions = {f"d{i}": {"type": "object", "properties": one(i)} for i in range(count)}
    return json.dumps({"$ref": "#/$defs/d0", "$defs": definitions})


def _all_of_any(count: int) -> str:
    def one(i: int) -> Any:
        return [{"properties": {f"a{i}": {"const": j}}, "required": [f"a{i}"]} for j in range(3)]

    return json.dumps({"allOf": [{"anyOf": one(i)} for i in range(count)]})


def _string(**keywords: Any) -> str:
    return json.dumps({"type": "string", **keywords})


_POWERS = "\n".join(f"R{i}: R{i + 1} R{i + 1}" for i in range(40))
_TEN = 10**9
SOURCES: dict[str, tuple[str, str]] = {
    "60000 nested arrays": ("json_schema", _nested('{"items":', 60_000)),
    "118 nested arrays": ("json_schema", _nested('{"type":"array","items":', 118)),
    "59 nested anyOf": ("json_schema", _nested('{"anyOf":[', 59, "{}", "]}")),
    "58 nested oneOf": ("json_schema", _nested('{"oneOf":[{"type":"null"},', 58, "{}", "]}")),
    "59 nested allOf": ("json_schema", _nested('{"allOf":[', 59, "{}", "]}")),
    "chain of 180": ("json_schema", _chain(180, lambda r: {"type": "array", "items": {"$ref": r}})),
    "chain of 5000": ("json_schema", _chain(5000, lambda r: {"items": {"$ref": r}})),
    "plain chain of 5000": ("json_schema", _chain(5000, lambda r: {"$ref": r})),
    "doubling chain": ("json_schema", _chain(60, lambda r: {"prefixItems": [{"$ref": r}] * 2, "type": "array", "items": False})),
    "mesh of 150": ("json_schema", _mesh(150)),
    "mesh of 900": ("json_schema", _mesh(900)),
    "allOf of anyOf": ("json_schema", _all_of_any(20)),
    "large enum": ("json_schema", json.dumps({"enum": [f"value-{i}-xxxxxxxxxxx" for i in range(10_000)]})),
    "2000 optional properties": ("json_schema", json.dumps({"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(2000)}, "additionalProperties": False})),
    "maxItems": ("json_schema", json.dumps({"type": "array", "maxItems": _TEN, "items": {"type": "null"}})),
    "minItems": ("json_schema", json.dumps({"type": "array", "minItems": _TEN})),
    "nested minItems": ("json_schema", json.dumps({"type": "array", "minItems": 9999, "items": {"type": "array", "minItems": 9999, "items": {"type": "array", "minItems": 9999}}})),
    "maxLength": ("json_schema", _string(maxLength=_TEN)),
    "minLength": ("json_schema", _string(minLength=_TEN)),
    "minLength 10000": ("json_schema", _string(minLength=10_000)),
    "(a*)*b": ("json_schema", _string(pattern="(a*)*b")),
    "(x+x+)+y": ("json_schema", _string(pattern="^(x+x+)+y$")),
    "a{1000000}": ("json_schema", _string(pattern="a{1000000}")),
    "exponential pattern": ("json_schema", _string(pattern="^(?:a|b)*a(?:a|b){25}$")),
    ".*x.{200}": ("json_schema", _string(pattern=".*x.{200}")),
    "nested groups in a pattern": ("json_schema", _string(pattern="(" * 60_000 + "a" + ")" * 60_000)),
    "long alternation": ("json_schema", _string(pattern="|".join(f"w{i}x" for i in range(30_000)))),
    "patterns joined": ("json_schema", json.dumps({"allOf": [{"type": "string", "pattern": f"[a-z]{{1,{n}}}.*{n}"} for n in range(3, 13)]})),
    "multiples joined": ("json_schema", json.dumps({"allOf": [{"type": "integer", "multipleOf": 9973}, {"multipleOf": 9967}]})),
    "multipleOf": ("json_schema", json.dumps({"type": "integer", "multipleOf": 9973})),
    "huge bounds": ("json_schema", json.dumps({"type": "integer", "minimum": -(10**4000), "maximum": 10**4000})),
    "60000 groups": ("ebnf", "root ::= " + "(" * 30_000 + '"a"' + ")" * 30_000),
    "counts": ("ebnf", 'root ::= (("a" | "b" root){9999}){9999}'),
    "long chain of rules": ("ebnf", "\n".join(f"r{i} ::= r{i + 1}" for i in range(3000)) + '\nr3000 ::= "a"\nroot ::= r0'),
    "doubling rules": ("ebnf", "\n".join(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(60)) + '\nr60 ::= "a"\nroot ::= r0'),
    "doubling terminals": ("ebnf", f'start: R0\n{_POWERS}\nR40: "a"'),
    "60000 groups in Lark": ("ebnf", "start: " + "(" * 30_000 + '"a"' + ")" * 30_000),
    "groups in a pattern of Lark": ("ebnf", "start: /" + "(" * 30_000 + "a" + ")" * 30_000 + "/"),
    "chain of rules in Lark": ("ebnf", "start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(3000)) + '\nr3000: "a"'),
    "3000 alternatives in Lark": ("ebnf", "start: " + " | ".join(f'"k{i}" /[a-z]{{{i % 9}}}/' for i in range(3000))),
    "nullable parts in Lark": ("ebnf", "start: " + '("a"? "b"? "c"?)* ' * 200),
    "schemas in Lark": ("ebnf", "start: %json " + _chain(2000, lambda r: {"items": {"$ref": r}})),
    "120 structures": ("structural_tag", json.dumps({"structures": [{"begin": f"<f{i}>", "schema": {"type": "object"}} for i in range(120)], "triggers": [f"<f{i}>" for i in range(120)]})),
}  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
@pytest.mark.timeout(100)
def test_hostile_sources_end_in_time_and_leave_the_process_alive() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        input=json.dumps(list(SOURCES.values())),
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root / 'src'}:{root}"},
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    names = list(SOURCES)
    assert done.returncode == 0, (names[len(lines)], done.returncode, done.stderr[-2000:])
    for name, (seconds, megabytes, problem) in zip(names, lines, strict=True):
        assert seconds < 10, (name, seconds, problem)  # it hangs, or it takes about one
        assert megabytes < 700, (name, megabytes, problem)
    refused = {name for name, (_, _, problem) in zip(names, lines, strict=True) if problem}
    assert {
        "60000 nested arrays",
        "minItems",
        "allOf of anyOf",
        "doubling terminals",
        "doubling rules",
    } <= refused
    assert {
        "118 nested arrays",
        "large enum",
        "maxItems",
        "(a*)*b",
        "120 structures",
    } & refused == set()
