"""What the live page is told: looked up in a real core, turned into events, sent when it is new."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from ramet.engine.loop import EngineCore
from ramet.engine.request import Request
from ramet.engine.simulate import HashRunner, PlainText, VirtualClock
from ramet.params import SamplingParams
from ramet.server.live import (
    IDLE_SECONDS,
    LABEL_CHARS,
    Ages,
    LiveStream,
    Sight,
    comment,
    frame,
    state_event,
    tree_event,
)
from ramet.server.live_facts import EngineFacts, look, look_at_tree
from ramet.server.live_rates import History, Rates

OPEN = Sight(lambda ids: " ".join(map(str, ids)), lambda salt: salt, lambda _salt: True)


class Engine:
    def __init__(self, num_slots: int = 400) -> None:
        self.clock = VirtualClock()
        self.core = EngineCore(
            HashRunner(num_slots, 50), num_slots=num_slots, max_context=num_slots, clock=self.clock
        )
        self._count = 0

    def add(self, prompt: list[int], tokens: int = 4, salt: str = "") -> Request:
        self._count += 1
        request = Request(
            rid=f"request-{self._count:04}",
            prompt_ids=np.array(prompt, np.int64),
            params=SamplingParams(max_new_tokens=tokens),
            text=PlainText(),
            salt=salt,
        )
        self.core.add(request)
        return request

    def run(self) -> None:
        while self.core.has_work:
            self.core.step()


def names_a_tree(nodes: list[dict[str, Any]]) -> None:
    """Parents come first, and an edge begins where its parent's ends."""
    ends: dict[Any, int] = {None: 0}
    for node in nodes:
        assert node["depth"] == ends[node["parent"]]
        ends[node["id"]] = node["depth"] + node["tokens"]


# -- facts ---------------------------------------------------------------------------------------------


def test_all_tokens_are_shown_or_counted_as_hidden() -> None:
    engine = Engine()
    for last in range(12):
        engine.add([1, 2, 3, last], salt="ab"[last % 2])
    engine.run()
    tree = engine.core.tree
    whole = tree_event(look_at_tree(tree), Ages(), 0.0, OPEN)
    names_a_tree(whole["nodes"])
    assert whole["hidden"] == {"nodes": 0, "tokens": 0}
    assert sum(node["tokens"] for node in whole["nodes"]) == tree.num_tree_tokens
    assert {node["salt"] for node in whole["nodes"]} == {"a", "b"}
    few = tree_event(look_at_tree(tree, max_nodes=5), Ages(), 0.0, OPEN)
    names_a_tree(few["nodes"])
    assert len(few["nodes"]) == 5
    assert few["hidden"]["nodes"] == tree.num_nodes + 2 - 5
    shown = sum(node["tokens"] for node in few["nodes"])
    assert few["hidden"]["tokens"] == tree.num_tree_tokens - shown


def test_what_is_in_use_and_what_was_used_last_comes_first() -> None:
    engine = Engine()
    for first in range(30):
        engine.add([first, 7, 8])
        engine.run()
    engine.add([3, 7, 8, 9], tokens=50)
    for _ in range(4):
        engine.core.step()
    facts = look(engine.core, max_nodes=4)
    # Root, the running request's prompt in two pieces, what it generated so far (a private tail).
    assert [(node.depth, node.tokens, node.pins) for node in facts.tree.nodes[:3]] == [
        (0, 0, 1),
        (0, 3, 1),
        (3, 1, 1),
    ]
    (request,) = facts.requests
    assert (request.state, request.prompt_tokens, request.cached_tokens) == ("decoding", 4, 3)
    assert request.output_tokens == 4
    with_tail = look(engine.core).tree.nodes[-1]
    assert with_tail.id < 0
    assert with_tail.pins == 1
    assert with_tail.tokens >= 3
    assert with_tail.parent == facts.tree.nodes[2].id


def test_a_node_of_many_children_costs_no_more_than_what_is_shown() -> None:
    engine = Engine(num_slots=6000)
    for first in range(2000):
        engine.add([first, 1], tokens=0)
    engine.run()
    looked = 0

    class Counted(dict):  # type: ignore[type-arg]
        def values(self) -> Any:
            return CountedValues(super().values())

    class CountedValues:
        def __init__(self, values: Any) -> None:
            self._values = values

        def __reversed__(self) -> Any:
            nonlocal looked
            for value in reversed(self._values):
                looked += 1
                yield value

    root = engine.core.tree.roots[""]
    root.children = Counted(root.children)
    facts = look_at_tree(engine.core.tree, max_nodes=20)
    assert len(facts.nodes) == 20
    assert looked <= 20 * 16 + 20
    assert facts.num_nodes == 2001


def test_a_waiting_request_says_so() -> None:
    engine = Engine()
    engine.add([1, 2, 3])
    engine.clock.advance(2.5)
    (request,) = look(engine.core).requests
    assert (request.state, request.seconds, request.output_tokens) == ("waiting", 2.5, 0)


# -- events --------------------------------------------------------------------------------------------


def test_texts_of_others_are_not_told() -> None:
    engine = Engine()
    engine.add([1, 2, 3], salt="mine/secret")
    engine.add([1, 2, 3], salt="yours/secret")
    engine.run()
    sight = Sight(
        lambda _ids: "words", lambda salt: salt.split("/")[0], lambda salt: salt.startswith("mine")
    )
    event = tree_event(look_at_tree(engine.core.tree), Ages(), 0.0, sight)
    labels = {(node["salt"], node["label"]) for node in event["nodes"] if node["tokens"]}
    assert labels == {("mine", "words"), ("yours", "")}
    assert b"secret" not in frame("tree", event)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("\ufffdb\ufffd", "b"),
        (" two\n\nlines\t\x1b[31m ", "two lines [31m"),
        ("\u202ereversed", "reversed"),
        ("x" * 500, "x" * LABEL_CHARS),
    ],
    ids=["cut characters", "white space", "control", "long"],
)
def test_a_label_is_one_short_line(text: str, label: str) -> None:
    engine = Engine()
    engine.add([1, 2, 3])
    engine.run()
    sight = Sight(lambda _ids: text, lambda _salt: "", lambda _salt: True)
    event = tree_event(look_at_tree(engine.core.tree), Ages(), 0.0, sight)
    assert event["nodes"][-1]["label"] == label


def test_ages_are_seconds_though_the_tree_counts() -> None:
    ages = Ages()
    ages.looked(5, 100.0)
    ages.looked(9, 103.0)
    ages.looked(9, 110.0)
    assert [ages.age(use, 110.0) for use in (2, 5, 6, 9, 12)] == [10.0, 10.0, 7.0, 7.0, 0.0]
    ages.looked(1, 120.0)  # another engine
    assert ages.age(1, 121.0) == 1.0


def test_a_frame_is_one_event_whatever_it_says() -> None:
    text = "a\r\n\ndata: no\n: b"
    sent = frame("tree", {"label": text})
    name, data, *rest = sent.split(b"\n")
    assert (name, rest) == (b"event: tree", [b"", b""])
    assert json.loads(data.removeprefix(b"data: ")) == {"label": text}


def test_nothing_is_told_twice() -> None:
    engine = Engine()
    rates = Rates()

    def told(now: float) -> list[str]:
        facts = look(engine.core)
        state = state_event(facts, now, rates.values(now))
        frames = stream.frames(now, state, tree_event(facts.tree, ages, now, OPEN))
        return [line.split(b"\n")[0].decode() for line in frames]

    ages, stream = Ages(), LiveStream({"model": "m"})
    assert told(0.0) == ["event: hello", "event: history", "event: state", "event: tree"]
    assert told(0.5) == []
    engine.add([1, 2, 3])
    assert told(1.0) == ["event: state"]
    engine.run()
    assert told(1.5) == ["event: state", "event: tree"]
    assert told(2.0) == []  # nodes grow older, which the page counts itself
    assert told(1.5 + IDLE_SECONDS) == [comment().split(b"\n")[0].decode()]
    assert told(1.6 + IDLE_SECONDS) == []


def test_a_pin_is_news_though_the_tree_is_the_same() -> None:
    engine = Engine()
    engine.add([1, 2, 3])
    engine.run()
    ages, stream = Ages(), LiveStream({})
    version = engine.core.tree.version

    def tree() -> dict[str, Any]:
        return tree_event(look_at_tree(engine.core.tree), ages, 0.0, OPEN)

    state = state_event(None, 0.0, {})
    stream.frames(0.0, state, tree())
    lease = engine.core.tree.open([1, 2, 3])
    assert len(stream.frames(1.0, state, tree())) == 1
    lease.close()
    assert len(stream.frames(2.0, state, tree())) == 1
    assert engine.core.tree.version == version


def test_without_an_engine_there_is_a_state_all_the_same() -> None:
    event = state_event(None, 7.0, Rates().values(7.0), engine="starting")
    assert event["engine"] == "starting"
    assert event["slots"]["total"] == 0
    assert event["running"] == []
    assert event["rates"]["hit_rate"] is None


def test_a_state_has_the_counters_that_there_are() -> None:
    facts = EngineFacts(
        {"num_prompt_tokens": 5, "num_missed_salt": 2, "other": 1}, [], look(Engine().core).tree
    )
    assert state_event(facts, 0.0, {})["counters"] == {"num_prompt_tokens": 5, "num_missed_salt": 2}


# -- rates ---------------------------------------------------------------------------------------------


def stats(
    steps: int, prompt: int = 0, cached: int = 0, generated: int = 0, **more: int
) -> dict[str, int]:
    return {
        "num_steps": steps,
        "num_prompt_tokens": prompt,
        "num_cached_tokens": cached,
        "num_generated_tokens": generated,
        **more,
    }


def test_rates_are_those_of_the_last_ten_seconds() -> None:
    rates = Rates()
    rates.looked(0.0, stats(0))
    rates.looked(100.0, stats(10, 1000, 0, 50))
    for second in range(1, 21):
        rates.looked(
            100.0 + second, stats(10 + second, 1000 + 20 * second, 15 * second, 50 + second)
        )
    found = rates.values(120.0)
    assert (found["hit_rate"], found["prompt_tokens_per_s"]) == (0.75, 20.0)
    assert found["output_tokens_per_s"] == 1.0
    rates.looked(140.0, stats(30, 1400, 300, 70))
    rates.looked(151.0, stats(30, 1400, 300, 70))
    assert rates.values(151.0)["hit_rate"] is None  # nobody asked for anything


def test_a_new_engine_does_not_make_negative_rates() -> None:
    rates = Rates()
    rates.looked(0.0, stats(100, 5000, 4000, 600))
    rates.looked(1.0, stats(2, 30, 0, 1))
    assert rates.values(1.0)["output_tokens_per_s"] == 0.0
    rates.looked(2.0, stats(3, 30, 0, 4))
    assert rates.values(2.0)["output_tokens_per_s"] == 3.0


def test_first_tokens_and_steps_are_told_where_they_are_known() -> None:
    rates = Rates()
    rates.looked(0.0, stats(0, step_us=0))
    rates.looked(5.0, stats(4, step_us=10_000))
    for time, seconds in ((1.0, 9.0), (4.0, 0.2), (5.0, 0.4), (5.0, 0.3)):
        rates.first_token(time, seconds)
    assert rates.values(11.5)["first_token_ms_p50"] == 300.0
    assert rates.values(11.5)["step_ms"] == 2.5
    assert rates.values(60.0)["first_token_ms_p50"] is None


def test_history_keeps_five_minutes_of_seconds() -> None:
    history = History()
    rates = {"hit_rate": None, "prompt_tokens_per_s": 1.0, "output_tokens_per_s": 2.0}
    slots = {"total": 100, "free": 40, "tree": 50, "pinned": 20}
    for half in range(2000):
        history.add({"time": 1000.0 + half / 2, "slots": slots, "rates": rates})
    samples = history.samples()
    assert len(samples) == 300
    assert samples[-1] == [1999.0, None, 30, 30, 1.0, 2.0]  # 20 pinned and a tail of 10; 30 cached
    assert [s[0] for s in history.samples(1997.0)] == [1998.0, 1999.0]
