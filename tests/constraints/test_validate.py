"""The judge of finished texts."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest

from ramet.constraints import validate
from ramet.errors import InvalidRequest, Unsupported


def test_each_kind_has_its_reasons() -> None:
    assert validate.check("regex", "a+", "aa") is None
    assert validate.check("regex", "a+", "aab") == "the regular expression does not match it"
    spec = json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}})
    assert validate.check("json_schema", spec, '{"a": 1}') is None
    assert "at $['a']:" in str(validate.check("json_schema", spec, '{"a": "x"}'))
    assert "not JSON" in str(validate.check("json_schema", spec, '{"a": 1'))
    assert "NaN" in str(validate.check("json_schema", "{}", "NaN"))
    assert validate.check("ebnf", 'root ::= "a"+', "aa") is None
    assert validate.check("ebnf", 'root ::= "a"+ "!"', "aa") == "it is not finished"
    assert validate.check("ebnf", 'root ::= "a"+', "ab") == "byte 1 may not come there: 'ab'"


def test_formats_and_older_spellings_count() -> None:
    date = json.dumps({"type": "string", "format": "date"})
    assert validate.check("json_schema", date, '"2024-02-30"') is not None
    old = json.dumps({"type": "number", "minimum": 3, "exclusiveMinimum": True})
    assert validate.check("json_schema", old, "3") is not None
    assert validate.check("json_schema", old, "3.5") is None


def test_what_cannot_be_judged_is_said() -> None:
    with pytest.raises(InvalidRequest, match="kind"):
        validate.check("xml", "", "")
    with pytest.raises(InvalidRequest, match=r"at \$\.not"):
        validate.check("json_schema", '{"not": {}}', "1")


def test_without_the_validator_there_is_no_judgement(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = importlib.import_module

    def missing(name: str, *rest: Any) -> Any:
        if name == "jsonschema_rs":
            raise ImportError(name)
        return whole(name, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(Unsupported, match="jsonschema-rs is not installed"):
        validate.check("json_schema", "{}", "1")
