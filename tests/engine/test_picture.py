"""The picture of the tree: plain data, the right nodes, and a price that does not grow with the tree."""

from __future__ import annotations

import json
import random
import sys
from typing import Any

import numpy as np
import pytest

from ramet.cache.node import Node
from ramet.engine.loop import EngineCore
from ramet.engine.picture import tree_picture
from ramet.engine.schedule import Limits
from ramet.engine.simulate import VirtualClock
from tests.engine.worlds import ask, make_core, run_all


def clock_of(core: EngineCore) -> VirtualClock:
    assert isinstance(core.clock, VirtualClock)
    return core.clock


def by_label(picture: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["label"]: entry for entry in picture["nodes"]}


def draw(core: EngineCore, **how: Any) -> dict[str, Any]:
    return tree_picture(core, texts=lambda ids: ",".join(map(str, ids)), **how)


def test_what_is_held_and_what_is_left() -> None:
    core = make_core(1000)
    run_all(core, [ask([1, 2, 3, 4, 5])])
    clock_of(core).advance(2.5)
    core.add(ask([1, 2, 3, 9], new=5))
    core.step()
    clock_of(core).advance(0.5)
    picture = draw(core)
    assert json.loads(json.dumps(picture)) == picture
    entries = by_label(picture)
    assert set(entries) == {"1,2,3", "4,5", "9"}
    top, old, own = entries["1,2,3"], entries["4,5"], entries["9"]
    assert (top["parent"], top["tokens"], top["depth"], top["pins"]) == (None, 3, 0, 1)
    assert (old["parent"], old["tokens"], old["depth"], old["pins"]) == (top["id"], 2, 3, 0)
    assert (own["parent"], own["tokens"], own["depth"], own["pins"]) == (top["id"], 1, 3, 1)
    assert (top["age_s"], own["age_s"], old["age_s"]) == (0, 0, 3)
    assert {entry["computed"] for entry in picture["nodes"]} == {3, 2, 1}
    stats = core.stats()
    assert picture["num_slots"] == 1000
    assert picture["num_free"] == stats.num_free_slots
    assert picture["num_tree_tokens"] == 6
    assert picture["num_pinned_tokens"] == 4
    assert (picture["num_nodes"], picture["shown"]) == (3, 3)
    assert picture["hidden"] == {"nodes": 0, "tokens": 0}


def test_an_empty_tree() -> None:
    picture = tree_picture(make_core())
    assert (picture["nodes"], picture["shown"], picture["num_nodes"]) == ([], 0, 0)


def test_without_texts_there_are_no_labels() -> None:
    core = make_core()
    run_all(core, [ask(range(20))])
    assert [entry["label"] for entry in tree_picture(core)["nodes"]] == [""]
    assert draw(core)["nodes"][0]["label"] == "0,1,2,3,4,5,6,7,8,9"


def test_a_split_leaves_the_lower_part_its_id() -> None:
    core = make_core()
    run_all(core, [ask([1, 2, 3, 4])])
    (before,) = draw(core)["nodes"]
    core.add(ask([1, 2, 7], new=9))
    core.step()
    after = by_label(draw(core))
    assert after["3,4"]["id"] == before["id"]
    assert after["3,4"]["parent"] == after["1,2"]["id"] != before["id"]


def test_salts_are_named_and_not_told() -> None:
    core = make_core()
    for salt in ("a secret", "another"):
        run_all(core, [ask([1, 2, 3, 4], salt=salt, num_public=2), ask([5], salt=salt)])
    picture = draw(core)
    assert "secret" not in json.dumps(picture)
    assert by_label(picture)["1,2"]["salt"] == ""
    names = {entry["salt"] for entry in picture["nodes"]} - {""}
    assert len(names) == 2
    assert all(entry["parent"] is None for entry in picture["nodes"] if entry["label"] == "5")
    assert draw(core) == picture, "the same names every time"
    assert core.alias("a secret") in names
    assert make_core().alias("a secret") != core.alias("a secret")


@pytest.mark.parametrize("seed", range(12))
def test_the_shown_nodes_are_the_held_and_the_latest_used_ones(seed: int) -> None:
    rng = random.Random(seed)
    core = make_core(rng.choice([120, 400]), limits=Limits(max_running=5, max_step_tokens=20))
    texts = [[]]
    for _ in range(60):
        base = rng.choice(texts)
        prompt = base[: rng.randint(0, len(base))] + [rng.randint(0, 4) for _ in range(8)]
        texts.append(prompt[:50])
        core.add(ask(texts[-1], new=rng.randint(1, 6), salt=rng.choice(["", "a"])))
        for _ in range(rng.randint(0, 6)):
            core.step()
            clock_of(core).advance(rng.random())
        check(core, rng.randint(1, 40))
    run_all(core)
    check(core, 10)


def check(core: EngineCore, most: int) -> None:
    nodes = {node.serial: node for node in core.tree.nodes() if node.parent is not None}
    picture = draw(core, most_nodes=most)
    shown = [nodes[entry["id"]] for entry in picture["nodes"]]
    assert len(shown) == min(most, len(nodes)) == len(set(shown))
    seen: set[Node] = set()
    for node, entry in zip(shown, picture["nodes"], strict=True):
        assert node.parent is not None
        assert entry["parent"] == (node.parent.serial if node.parent.parent else None)
        assert node.parent in seen or node.parent.parent is None, "parents come first"
        seen.add(node)
    rest = set(nodes.values()) - seen
    assert picture["hidden"] == {"nodes": len(rest), "tokens": sum(map(len, rest))}
    if rest and any(not node.pins for node in shown):
        assert not any(node.pins for node in rest), "what is held comes first"
        oldest = min(node.last_use for node in shown if not node.pins)
        assert oldest >= max(node.last_use for node in rest)


@pytest.mark.parametrize("wide", [True, False])
def test_the_price_depends_on_what_is_shown(wide: bool) -> None:
    core = make_core(200_000)
    rng = np.random.default_rng(0)
    for i in range(8000 if wide else 2000):  # many beginnings, or many ways to go on from few
        tokens = [i, 0, 1] if wide else [0, *rng.integers(0, 4, 12).tolist()]
        lease = core.tree.open(tokens)
        lease.reserve(len(tokens) - len(lease))
        lease.advance_all()
        lease.publish(tokens)
        lease.close()
    assert core.tree.num_nodes > 2000
    calls = 0

    def count(_frame: object, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        tree_picture(core, most_nodes=100)
    finally:
        sys.setprofile(None)
    assert calls < 100 * 60
