"""The page of a run: whole, self-contained, without unasked texts, and deaf to hostile ones."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

from tests.observe.observed import HOSTILE, PROMPT, backend, overlapping, program, ran

from ramet.observe import html_page, tracing

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Checks that elements are closed in order, and keeps them with their texts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, list[str]]] = []
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        texts: list[str] = []
        self.elements.append((tag, dict(attrs), texts))
        if tag not in VOID:
            self.open.append((tag, texts))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.open[-1][1].append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attrs, "".join(texts)) for name, attrs, texts in self.elements if name == tag]


def data_of(page: Page) -> dict[str, Any]:
    [text] = [text for attrs, text in page.all("script") if attrs.get("id") == "data"]
    found: dict[str, Any] = json.loads(text)
    return found


def with_texts() -> str:
    with tracing(texts=True) as seen:
        ran()
    return html_page(seen.traces)


def test_the_page_is_well_formed_and_loads_nothing() -> None:
    page = Page(html_page([ran().trace]))
    tags = {tag for tag, _, _ in page.elements}
    assert not tags & {"img", "link", "iframe", "object", "embed", "base", "form"}
    for tag, attrs, _ in page.elements:
        assert not {"src", "href", "srcset", "action"} & attrs.keys(), tag
        assert not [name for name in attrs if name.startswith("on")]
    for _, text in page.all("style") + page.all("script"):
        assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", text)
        assert "innerHTML" not in text
    assert len(page.all("script")) == 2
    ids = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_the_policy_lets_run_the_pages_own_script_and_style_only() -> None:
    page = Page(html_page([ran().trace]))
    [policy] = [
        attrs["content"] for attrs, _ in page.all("meta") if attrs.get("http-equiv") is not None
    ]
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    [script] = [text for attrs, text in page.all("script") if "id" not in attrs]
    [(_, style)] = page.all("style")
    for text in (script, style):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_every_call_and_branch_is_in_it() -> None:
    trace = ran().trace
    data = data_of(Page(html_page([trace])))
    assert [run["program"] for run in data["runs"]] == ["program", "helper"]
    assert [run["depth"] for run in data["runs"]] == [0, 1]
    first = data["runs"][0]
    assert [branch["path"] for branch in first["branches"]] == [
        "0", "0.0-0", "0.0-0.0-0", "0.0-0.0-1", "0.0-1", "0.0-2", "0.0-2.0-0", "0.0-2.0-1",
    ]  # fmt: skip
    assert data["totals"]["calls"] == 10 == trace.totals.calls
    assert data["totals"]["failed"] == 1
    assert data["totals"]["cached_tokens"] == trace.totals.cached_tokens
    calls = [call for branch in first["branches"] for call in branch["calls"]]
    assert len(calls) == 9
    assert {call["line"].rpartition("/")[2].partition(":")[0] for call in calls} == {"observed.py"}
    assert [call["error"] for call in calls if "error" in call] == ["BackendError"]
    zeros = [call for call in calls if call.get("cached_tokens") == 0]
    assert zeros  # "nothing was cached" is not "nobody knows"


def test_no_text_leaks_unless_asked_for() -> None:
    page = html_page([ran().trace])
    assert PROMPT not in page
    assert "quagga" not in page
    assert "alert" not in page
    assert not data_of(Page(page))["has_texts"]
    assert data_of(Page(with_texts()))["has_texts"]


def test_hostile_text_arrives_as_text() -> None:
    source = with_texts()
    page = Page(source)
    assert "<img" not in source
    assert source.count("</script>") == 2
    assert "<!--" not in source
    assert "\u2028" not in source
    assert "img" not in {tag for tag, _, _ in page.elements}
    data = data_of(page)
    texts = [part[3] for run in data["runs"] for b in run["branches"] for part in b["text"] or []]
    assert texts.count(HOSTILE) == 8
    assert any(PROMPT in text for text in texts)
    errors = [b["error"] for run in data["runs"] for b in run["branches"] if b["error"]]
    assert f"BackendError: no answer to {PROMPT!r}" in errors


def test_hostile_names_are_escaped_too() -> None:
    renamed = ran()
    renamed._script.run.record.program = HOSTILE
    page = Page(html_page([renamed.trace]))
    assert page.all("title") == [({}, HOSTILE)]
    assert data_of(page)["runs"][0]["program"] == HOSTILE


def test_calls_of_one_branch_at_the_same_time_get_rows_of_their_own() -> None:
    [branch] = data_of(Page(html_page([overlapping()])))["runs"][0]["branches"]
    assert [call["lane"] for call in branch["calls"]] == [0, 0, 1, 2]
    assert branch["lanes"] == 3


def test_many_runs_and_none() -> None:
    states = program.run_batch([{"width": 1}] * 5, backend=backend())
    data = data_of(Page(html_page([state.trace for state in states])))
    assert len(data["runs"]) == 10
    assert min(run["at"] for run in data["runs"]) == 0
    empty = data_of(Page(html_page([])))
    assert (empty["runs"], empty["totals"]["calls"], empty["wall"]) == ([], 0, None)
