"""The benchmark of constraints: its texts satisfy what they should, its judgements and figures are right."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.__main__ import main as benchmarks_main
from benchmarks.constraint_cases import CHARACTER, CITY, REGEXES, Case, _regex, character, city
from benchmarks.constraint_schemas import SCHEMAS, of_request
from benchmarks.peers import constraint_engines, constraint_serve

from benchmarks import (
    constraint_decoding,
    constraint_figures,
    constraint_judge,
    constraint_masks,
    constraint_report,
    constraint_results,
    constraint_vocabularies,
    constraints,
)
from ramet import pocket
from ramet.engine.tokenizer import Tokenizer

# -- constraints and texts -----------------------------------------------------------------------


def test_every_constraint_has_texts_that_it_tells_apart() -> None:
    assert len(REGEXES) >= 25
    assert len(SCHEMAS) == 25
    assert len({case.name for case in (*REGEXES, *SCHEMAS)}) == len(REGEXES) + len(SCHEMAS)
    for case in (*REGEXES, *SCHEMAS):
        assert len(case.documents) >= 2, case.name
        assert all(constraint_judge.satisfies(case, text) for text in case.documents), case.name
        assert case.wrong, case.name
        assert not any(constraint_judge.satisfies(case, text) for text in case.wrong), case.name


def test_a_wrong_example_is_an_error() -> None:
    with pytest.raises(ValueError, match="'7b' is a wrong example"):
        _regex("digits", r"\d+", ["7b"], [])


def test_objects_match_for_any_number() -> None:
    for number in range(200):
        assert re.fullmatch(CHARACTER, character("Ann", number))
        assert re.fullmatch(CITY, city("Brask", number))


def test_every_request_has_a_schema_of_its_own() -> None:
    schemas = [of_request(number) for number in range(60)]
    assert len(set(schemas)) == 60
    assert json.loads(schemas[41])["properties"]["request_41"] == {"const": 41}


# -- vocabularies --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "size", "text"),
    [
        (constraint_vocabularies.byte_level, 1200, '{"nam": [12345, "日本 é"]}\n\tif (x)'),
        (constraint_vocabularies.byte_fallback, 1500, '{"nam": [12345, "日本 é"]}\n\tif (x)'),
    ],
)
def test_trained_vocabularies_spell_any_text(make: Any, size: int, text: str) -> None:
    spec = make(size, lines=300)
    tokenizer = Tokenizer(json.dumps(spec), {"eos_token": spec["added_tokens"][-1]["content"]})
    assert tokenizer.vocab_size == size
    ids = tokenizer.encode_continuation(text)
    assert b"".join(map(tokenizer.token_bytes.of, ids)) == text.encode()
    assert len(ids) < len(text.encode())


def test_training_is_the_same_every_time() -> None:
    assert constraint_vocabularies.byte_level(700, lines=100) == constraint_vocabularies.byte_level(
        700, lines=100
    )


def test_too_little_text_is_an_error() -> None:
    with pytest.raises(ValueError, match="the text is too small"):
        constraint_vocabularies.byte_level(50_000, lines=20)


# -- a made-up engine ----------------------------------------------------------------------------

TEXTS = [b"", b"a", b"b", b"ab", b"c", b"bb"]
A, B, AB, C, BB = range(1, 6)


class Made:
    """Allows prefixes of the words that its source lists; the rest of the only one is forced. `strict`: not
    the token `ab`; `loose`: every word may also end with c."""

    def __init__(self, words: Sequence[str], strict: bool, loose: bool) -> None:
        more = [word + "c" for word in words] if loose else []
        self.words, self.strict = [*words, *more], strict

    def start(self) -> Made:
        self.text = ""
        return self

    def _fits(self, token: int) -> bool:
        if not TEXTS[token] or (self.strict and token == AB):
            return False
        return any(word.startswith(self.text + TEXTS[token].decode()) for word in self.words)

    def mask(self) -> Any:
        bits = sum(1 << token for token in range(len(TEXTS)) if self._fits(token))
        return np.array([bits], np.uint32)

    def accept(self, token: int) -> bool:
        fits = self._fits(token)
        self.text += TEXTS[token].decode() if fits else ""
        return fits

    def may_end(self) -> bool:
        return self.text in self.words

    def forced(self) -> str:
        rest = [word[len(self.text) :] for word in self.words if word.startswith(self.text)]
        return rest[0] if len(rest) == 1 else ""


class MadeEngine:
    def __init__(self, strict: bool = False, loose: bool = False) -> None:
        self.strict, self.loose = strict, loose

    def compile(self, kind: str, source: str) -> Made:
        if kind != "regex":
            raise constraint_engines.Unsupported(f"no {kind}")
        return Made(source.split("|"), self.strict, self.loose)

    def about(self) -> str:
        return "made 1"


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> constraint_serve.Session:
    monkeypatch.setitem(constraint_engines.ENGINES, "made", lambda _: MadeEngine())
    constraint_vocabularies.save_tokens(TEXTS, [0], tmp_path / "tokens.json")
    made = constraint_serve.Session("made")
    loaded = made.load(str(tmp_path / "tokens.json"), str(tmp_path))
    assert loaded["about"] == "made 1"
    return made


def ask(session: constraint_serve.Session, **changes: Any) -> dict[str, Any]:
    asked = {"kind": "regex", "source": "abb|abc", "documents": [], "wrong": [], "masks": None}
    return session.case(**{**asked, **changes})


def test_a_walk_follows_the_text_to_its_end(
    session: constraint_serve.Session, tmp_path: Path
) -> None:
    masks = tmp_path / "masks.npy"
    found = ask(session, documents=[[A, BB], [AB, C]], wrong=[[AB], [A, B, B]], masks=str(masks))
    assert [(walk["refused"], walk["ends"]) for walk in found["walks"]] == [(None, True)] * 2
    assert [len(walk["mask"]) for walk in found["walks"]] == [2, 2]
    assert found["accepted"] == [1]
    assert np.load(masks).tolist() == [
        [1 << A | 1 << AB],
        [1 << B | 1 << BB],
        [1 << A | 1 << AB],
        [1 << B | 1 << C],
    ]


def test_a_refused_token_ends_a_walk(session: constraint_serve.Session) -> None:
    walk = ask(session, documents=[[A, C, B]])["walks"][0]
    assert (walk["refused"], walk["ends"], len(walk["mask"])) == (1, False, 2)


def test_a_text_that_may_not_end_is_told(session: constraint_serve.Session) -> None:
    walk = ask(session, documents=[[AB]])["walks"][0]
    assert (walk["refused"], walk["ends"]) == (None, False)


def test_forced_tokens_are_those_within_forced_text(session: constraint_serve.Session) -> None:
    # One word only: all of its text is forced at once.
    assert ask(session, source="abbb", documents=[[A, B, BB]])["walks"][0]["forced"] == 3
    # After ab nothing more is forced; after abb the rest is.
    found = ask(session, source="abba|abc", documents=[[AB, B, A]])["walks"][0]
    assert (found["forced"], found["against"]) == (1, 0)


def test_a_refused_constraint_is_an_answer(session: constraint_serve.Session) -> None:
    assert ask(session, kind="json_schema")["error"] == "no json_schema"


def test_completions_and_acceptance(session: constraint_serve.Session) -> None:
    ask(session, source="abb|ac")
    assert session.complete([[A, C], [AB], [C]]) == {"texts": ["ac", "abb", None]}
    assert session.accepts([[A, C], [A], [A, BB]]) == {"accepted": [True, False, True]}


# -- who is right --------------------------------------------------------------------------------


class MadeAsked:
    """Two engines in this process."""

    def __init__(self, engines: dict[str, Made]) -> None:
        self._engines = engines

    def complete(self, engine: str, prefixes: list[list[int]]) -> list[str | None]:
        made = self._engines[engine]
        found: list[str | None] = []
        for ids in prefixes:
            text = b"".join(TEXTS[i] for i in ids).decode()
            found.append(min((w for w in made.words if w.startswith(text)), default=None))
        return found

    def accepts(self, engine: str, texts: list[str]) -> list[bool]:
        return [text in self._engines[engine].words for text in texts]


def judged(one: Made, other: Made, ids: list[int]) -> list[dict[str, Any]]:
    case = Case("made", "regex", "abb", ("abb",))
    masks = {}
    for name, made in (("one", one), ("other", other)):
        place, steps = made.start(), []
        for token in ids:
            steps.append(place.mask())
            place.accept(token)
        masks[name] = [np.array(steps)]
    outside = constraint_judge.spaces_outside(TEXTS)
    asked = MadeAsked({"one": one, "other": other})
    return constraint_judge.disputes(case, [ids], TEXTS, outside, masks, 9, asked)


def test_engines_that_agree_have_no_dispute() -> None:
    assert judged(Made(["abb"], False, False), Made(["abb"], False, False), [A, BB]) == []


def test_another_division_of_a_text_is_legal_and_nothing_is_lost() -> None:
    (dispute,) = judged(Made(["abb"], False, False), Made(["abb"], True, False), [A, BB])
    assert (dispute["allowed"], dispute["masked"], dispute["count"]) == (["one"], ["other"], 1)
    (verdict,) = dispute["judged"]
    assert (verdict["token"], verdict["legal"], verdict["lost"]) == ("ab", True, [])


def test_a_lost_text_and_too_much_allowed_are_told_apart() -> None:
    right, narrow = Made(["abb"], False, False), Made(["c"], False, False)
    found = judged(right, narrow, [A])
    legal = [v for d in found if d["allowed"] == ["one"] for v in d["judged"]]
    assert {v["token"] for v in legal} == {"a", "ab"}
    assert all(v["legal"] and v["lost"] == ["other"] and not v["loose"] for v in legal)
    (wrong,) = [v for d in found if d["allowed"] == ["other"] for v in d["judged"]]
    assert (wrong["token"], wrong["legal"], wrong["loose"]) == ("c", None, ["other"])


@pytest.mark.parametrize(
    ("text", "state", "expected"),
    [
        (b'{"a b"', 0, (0, False)),
        (b'{ "a', 0, (1, True)),
        (b'a\\" b', 1, (1, False)),
        (b'" ', 2, (1, False)),
        (b'", ', 1, (0, True)),
        (b"\\", 1, (2, False)),
    ],
)
def test_white_space_counts_outside_of_strings_only(
    text: bytes, state: int, expected: tuple[int, bool]
) -> None:
    assert constraint_judge.after(text, state) == expected


# -- figures -------------------------------------------------------------------------------------


def row(**results: Any) -> dict[str, Any]:
    return {
        "vocabulary": "v",
        "kind": "regex",
        "case": "c",
        "tokens": [2, 1],
        "results": results,
    }


def result(scale: float = 1.0, refused: int | None = None) -> dict[str, Any]:
    walk = {"refused": refused, "ends": refused is None, "forced": 1, "divided": 0, "against": 0}
    walk |= {"late": 0}
    return {
        "compile": 0.001 * scale,
        "accepted": [],
        "walks": [
            {**walk, "mask": [10 * scale, 30 * scale], "accept": [1.0, 1.0]},
            {**walk, "mask": [4 * scale], "accept": [1.0]},
        ],
    }


def test_figures_are_of_all_steps_and_ratios_of_common_constraints() -> None:
    rows = [row(ramet=result(), other=result(3)), row(ramet=result(), other={"error": "no"})]
    ramet, other = constraint_figures.summaries(rows)
    assert (ramet["passed"], ramet["cases"], ramet["refused"]) == (2, 2, 0)
    assert (other["passed"], other["cases"], other["refused"]) == (1, 2, 1)
    assert ramet["cold_us"] == {"p50": 10.0, "p99": 30.0, "max": 30.0}
    assert ramet["warm_us"]["max"] == 4.0
    assert other["first_ms"]["p50"] == pytest.approx(3.03)
    assert ramet["forced"] == pytest.approx(2 / 3)
    assert ramet["cold_ratio"] == 1.0
    assert other["cold_ratio"] == pytest.approx((3000 + 61) / (1000 + 21))
    assert other["warm_ratio"] == pytest.approx(13 / 5)


def test_a_rejected_document_is_no_pass_and_no_ratio() -> None:
    rows = [row(ramet=result(), other=result(1, refused=1))]
    other = constraint_figures.summaries(rows)[1]
    assert (other["passed"], other["rejected"], other["cold_ratio"]) == (0, 2, None)


def test_verdicts_add_up_by_engine() -> None:
    judged = [
        {"legal": True, "loose": [], "lost": ["two"]},
        {"legal": True, "loose": [], "lost": []},
        {"legal": None, "loose": ["one"], "lost": []},
    ]
    dispute = {"allowed": ["one"], "masked": ["two"], "white_space": False, "count": 40}
    blank = {**dispute, "white_space": True, "count": 7, "judged": []}
    rows = [{**row(), "disputes": [{**dispute, "judged": judged}, blank]}]
    one, two = constraint_figures.verdicts(rows)
    assert (one["engine"], one["masked"], one["loose"], one["loose_cases"]) == ("one", 0, 1, ["c"])
    counted = {name: two[name] for name in ("masked", "spaces", "judged", "legal", "lost")}
    assert counted == {"masked": 40, "spaces": 7, "judged": 3, "legal": 2, "lost": 1}
    assert two["cases"] == ["c"]


# -- whole runs ----------------------------------------------------------------------------------


def needs_pocket() -> None:
    try:
        pocket.model_path()
    except FileNotFoundError as error:
        pytest.skip(f"the embedded model is not there: {error}")


def test_ramet_beside_an_engine_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_pocket()
    monkeypatch.setenv("RAMET_PEERS", str(tmp_path / "none"))
    cases = [case for case in REGEXES if case.name in ("date", "quoted")]
    vocabulary = constraint_masks.Vocabulary("pocket", tmp_path)
    about, *rows = constraint_masks.measure(
        vocabulary, cases, ("ramet", "xgrammar"), limit=30, judged=2
    )
    assert about["about"]["ramet"]["about"].startswith("ramet ")
    assert "vllm.sh makes the environment" in about["about"]["xgrammar"]["missing"]
    (figures,) = constraint_figures.summaries(rows)
    assert (figures["passed"], figures["cases"]) == (2, 2)
    assert figures["forced"] > 0
    assert all(row["disputes"] == [] for row in rows)
    lines = constraint_report.mask_lines([figures])
    assert "2/2" in lines[1]
    constraint_results.write({"masks": [figures], "cases": rows}, tmp_path / "out.json")
    kept = json.loads((tmp_path / "out.json").read_text())
    assert kept["masks"][0]["passed"] == 2
    assert kept["cases"][0]["results"]["ramet"]["walks"][0]["mask_us"] > 0


def test_a_file_grows_by_vocabularies_and_models(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    one = {"vocabulary": "a", "kind": "regex"}
    first = {"machine": "m", "masks": [one], "cases": [row(ramet=result())]}
    first |= {"decoding": [{"model": "x", "workload": w, "rate": 1} for w in ("city", "character")]}
    constraint_results.write(first, path)
    later = {"machine": "m", "masks": [{**one, "vocabulary": "b"}], "engines": {"b": {}}}
    later |= {"decoding": [{"model": "x", "workload": "city", "rate": 2}]}
    found = constraint_results.merged(path, later)
    assert [r["vocabulary"] for r in found["masks"]] == ["a", "b"]
    rates = [(r["workload"], r["rate"]) for r in found["decoding"]]
    assert rates == [("character", 1), ("city", 2)]
    constraint_results.write(found, path)
    assert json.loads(path.read_text())["cases"] == constraint_results.merged(path, later)["cases"]
    with pytest.raises(ValueError, match="was measured on m"):
        constraint_results.merged(path, {"machine": "another"})


def test_decoding_compares_forced_asked_and_free(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_pocket()
    monkeypatch.setattr(constraint_decoding, "BATCHES", (4,))
    (found,) = constraint_decoding.measure(
        "pocket", ["character"], scale=0.02, rounds=1, options={}
    )
    jump, asked, free = (found["modes"][mode] for mode in ("jump", "ask", "free"))
    assert found["objects"] == 4
    assert jump["whole"] == asked["whole"] == 1.0
    assert jump["forced"] > 0.2
    assert free["forced"] == 0
    assert jump["passes_per_object"] < asked["passes_per_object"]
    assert free["of_free"] == 1.0
    lines = constraint_report.decoding_lines([found])
    assert [line.split()[3] for line in lines[1:] if "DISTURBED" not in line] == [
        "jump",
        "ask",
        "free",
    ]


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip(
        "matplotlib", reason="matplotlib is not installed: pip install 'ramet[bench]'"
    )
    from benchmarks.constraint_picture import plot

    figures = constraint_figures.summaries([row(ramet=result(), other=result(2))])
    mode = {"of_free": 1.5, "objects_per_second": 3.0}
    decoding = [
        {
            "model": "m",
            "workload": "w",
            "batch": 1,
            "modes": dict.fromkeys(("jump", "ask", "free"), mode),
        }
    ]
    plot({"machine": "x", "masks": figures, "decoding": decoding}, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--vocabulary", "huge"], "--vocabulary: 'huge' is unknown"),
        (["--only", "no_such"], "--only: 'no_such' is unknown"),
        (["--add"], "--add: needs --json FILE"),
        (["--rounds", "0"], "--rounds: at least 1"),
        (["--options", "drafts"], "is not of the form name=value"),
    ],
)
def test_a_wrong_command_line_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        benchmarks_main(["constraints", *words])
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_kinds_and_names_choose_constraints() -> None:
    assert constraints._parse(["--only", "json_schema"]).only == list(SCHEMAS)
    assert [case.name for case in constraints._parse(["--only", "date,person"]).only] == [
        "date",
        "person",
    ]
