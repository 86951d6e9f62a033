"""Branches: what they inherit, how they join, and what they cost."""

# ruff: noqa: ARG005 (bodies, responses and listeners take what they are given)

from __future__ import annotations

import asyncio
import threading

import pytest
from tests.lang.gates import Gated

import ramet as sgl
from ramet.backends.scripted import Fail, Scripted
from ramet.errors import InvalidRequest, ProgramError


def echo(call) -> str:
    """A response that shows the end of its prompt."""
    return f"<{call.prompt.text()[-3:]}>"


def test_branches_go_on_from_the_same_place_and_join_into_lists() -> None:
    @sgl.function
    def tips(s):
        s += "tips "
        s += sgl.gen("before")
        forks = s.fork(3)
        assert len(forks) == 3
        forks += lambda i: f"#{i}" + sgl.gen("tip")
        forks[1] += "!"
        forks.join()
        s += "end"
        return [f["tip"] for f in forks]

    backend = Scripted(echo)
    state = tips.run(backend=backend)
    assert state["tip"] == ["<>#0>", "<>#1>", "<>#2>"] == state.ret_value
    assert state.text() == "tips <ps >end"
    assert state["before"] == "<ps >"
    assert [m["completion_tokens"] for m in state.get_meta_info("tip")] == [5, 5, 5]


def test_the_backend_hears_of_a_fork_before_its_branches_call() -> None:
    order = []

    class Watched(Scripted):
        def hint(self, hint) -> None:
            order.append((hint.kind, hint.count, hint.prompt and hint.prompt.text()))

        async def generate(self, call, on_chunk=None):
            order.append("generate")
            return await super().generate(call, on_chunk)

    @sgl.function
    def program(s):
        s.fork(2)  # no text: nothing to prepare
        s += "x"
        forks = s.fork(2)
        forks += sgl.gen("y")
        forks.join()

    program.run(backend=Watched(["1", "2"])).sync()
    assert order[:3] == [("will_fork", 2, "x"), "generate", "generate"]


def test_a_run_tells_the_backend_when_nothing_more_will_come() -> None:
    @sgl.function
    def program(s):
        s += sgl.gen("x")

    backend = Scripted(["1"], latency=0.01)
    state = program.run(backend=backend)
    state.sync()
    state._script.run.over.wait("over", "")
    program.run(backend=Scripted()).sync()
    done = [hint for hint in backend.hints if hint.kind == "done"]
    assert [hint.rid for hint in done] == [state._script.run.id]
    assert backend.calls[0].rid.startswith(done[0].rid + "/")


def test_fork_does_not_wait() -> None:
    @sgl.function
    def program(s):
        s += sgl.gen("slow")
        forks = s.fork(2)
        forks += "a" + sgl.gen("x")
        backend.gate.set()
        return forks

    backend = Gated(["S", "1", "2"])
    state = program.run(backend=backend)
    assert state.ret_value[0].text() == "Sa1"


def test_forks_before_text_in_roles_and_nested() -> None:
    @sgl.function
    def program(s):
        first = s.fork(2)
        first += sgl.gen("x")
        first.join()
        with s.user():
            s += "Q"
            inside = s.fork(2)
            inside += ["1", "2"]
            for branch in inside:
                branch += sgl.user_end() + sgl.assistant(sgl.gen("a"))
            inside.join()
        return [branch.messages() for branch in inside]

    state = program.run(backend=Scripted(lambda c: c.prompt.text()[-12:-11]))
    assert [m[0]["content"] for m in state.ret_value] == ["Q1", "Q2"]
    assert state["a"] == ["1", "2"]
    assert state.messages() == [{"role": "user", "content": "Q"}]


def test_nested_joins_give_lists_of_lists() -> None:
    def grow(s, depth: int) -> None:
        if depth == 0:
            s += sgl.gen("leaf")
            return
        forks = s.fork(2)
        for index, fork in enumerate(forks):
            fork += str(index)
            grow(fork, depth - 1)
        forks.join(wait=False)

    @sgl.function
    def tree(s):
        s += "r"
        grow(s, 5)

    def shape(value, depth: int) -> None:
        if depth == 0:
            leaves.append(value)
            return
        assert len(value) == 2
        for item in value:
            shape(item, depth - 1)

    class Together(Scripted):
        async def generate(self, call, on_chunk=None):
            self.waiting = getattr(self, "waiting", 0) + 1
            while self.waiting < 32:  # no answer before every leaf has asked
                await asyncio.sleep(0.001)
            return await super().generate(call, on_chunk)

    leaves: list[str] = []
    backend = Together(lambda call: call.prompt.text())
    shape(tree.run(backend=backend)["leaf"], 5)
    assert leaves == ["r" + format(i, "05b") for i in range(32)]


def test_gathering_leaves_known_names_alone_and_skips_branches_without() -> None:
    @sgl.function
    def program(s):
        s["known"] = "parent"
        forks = s.fork(3)
        forks[0]["only_first"] = 1
        for i, fork in enumerate(forks):
            fork["known"] = i
            if i != 1:
                fork += sgl.gen("x")
        forks.join()

    state = program.run(backend=Scripted(lambda c: c.rid.split("/")[1]))
    assert (state["known"], state["only_first"]) == ("parent", [1])
    assert state["x"] == ["0.0-0", "0.0-2"]


@pytest.mark.parametrize("mode", ["concate_and_append", "concatenate_and_append"])
def test_texts_of_branches_are_appended_in_order(mode: str) -> None:
    @sgl.function
    def program(s):
        s += "start "
        forks = s.fork(3)
        forks += lambda i: f"[{i}:" + sgl.gen("x") + "]"
        s += "mid "
        forks.join(mode)
        s += "end" + sgl.gen("y")

    backend = Scripted(lambda call: "z", latency=lambda call: 0.03 / (1 + len(call.rid)))
    state = program.run(backend=backend)
    assert state.text() == "start mid [0:z][1:z][2:z]endz"
    assert "x" not in state
    assert [s.text for s in backend.calls[-1].prompt.spans()].count("z") == 3


def test_wrong_joins_are_refused_at_once() -> None:
    @sgl.function
    def program(s):
        forks = s.fork(2)
        with pytest.raises(ValueError, match="gather_variable or"):
            forks.join("concat")
        with forks[1].var_scope("v"), pytest.raises(InvalidRequest, match="open in branch 1"):
            forks.join()
        forks.join()
        with pytest.raises(InvalidRequest, match="after the join at"):
            forks.join()
        with pytest.raises(InvalidRequest, match="was joined"):
            forks[0] += "late"
        with pytest.raises(InvalidRequest, match="was joined"):
            forks[0].fork(2)

    program.run(backend=Scripted())


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "2"])
def test_sizes_that_are_none(size) -> None:
    @sgl.function
    def program(s):
        s.fork(size)

    with pytest.raises(InvalidRequest, match="size"):
        program.run(backend=Scripted())


def test_group_appending() -> None:
    @sgl.function
    def program(s):
        forks = s.fork(2)
        forks += "all "
        forks += ["a", "b"]
        forks += sgl.gen("x")
        forks += lambda i: str(i)  # noqa: PLW0108
        with pytest.raises(InvalidRequest, match="do not fit 2 branches"):
            forks += ["only one"]
        with pytest.raises(InvalidRequest, match="neither"):
            forks += 3
        with pytest.raises(InvalidRequest, match="another state"):
            forks[0] = s
        return [f.text() for f in forks]

    assert program.run(backend=Scripted(echo)).ret_value == ["all a<l a>0", "all b<l b>1"]


def test_copy_is_a_branch_that_is_joined() -> None:
    @sgl.function
    def program(s):
        s += "x"
        with s.copy() as t:
            t += "y" + sgl.gen("z")
        s += "w"

    state = program.run(backend=Scripted(echo))
    assert (state["z"], state.text()) == (["<xy>"], "xw")


def test_a_failed_branch_is_reported_by_the_join_and_the_others_stay() -> None:
    @sgl.function
    def program(s):
        s += "p"
        forks = s.fork(3)
        forks += lambda i: str(i) + sgl.gen("x")
        with pytest.raises(ProgramError, match=r"branch 1 of 3, joined at .*boom") as caught:
            forks.join()
        assert caught.value.location.startswith(__file__)
        assert "forks += lambda" in str(caught.value)
        s += "never"
        return [forks[0]["x"], forks[2]["x"]]

    backend = Scripted({"0": "zero", "1": Fail("boom"), "2": "two"})
    state = program.run(backend=backend)
    assert state.ret_value == ["zero", "two"]
    for read in (lambda: state["x"], state.text, state.messages, state.sync):
        with pytest.raises(ProgramError, match="branch 1 of 3"):
            read()


def test_errors_may_take_the_place_of_values() -> None:
    @sgl.function
    def program(s):
        forks = s.fork(3)
        forks += lambda i: str(i) + sgl.gen("x")
        forks.join(return_exceptions=True)
        s += "goes on"

    state = program.run(backend=Scripted({"0": "zero", "1": Fail("boom"), "2": "two"}))
    assert [state["x"][0], state["x"][2]] == ["zero", "two"]
    assert isinstance(state["x"][1], ProgramError)
    assert state.text() == "goes on"


def test_a_failed_parent_fails_its_branches() -> None:
    @sgl.function
    def program(s):
        s += sgl.gen("a")
        forks = s.fork(2)
        deeper = forks[0].fork(2)
        deeper += sgl.gen("b")
        with pytest.raises(ProgramError, match=r"gen\('a'\)"):
            deeper[1]["b"]
        with pytest.raises(ProgramError, match=r"gen\('a'\)"):
            forks[1].text()
        with pytest.raises(ProgramError, match=r"gen\('a'\)"):
            forks.join()

    program.run(backend=Scripted([Fail("boom")], latency=0.02))


def test_a_thousand_branches_need_no_threads() -> None:
    counts = []

    @sgl.function
    def program(s):
        s += "x" + sgl.gen("first")
        threads = threading.active_count()
        forks = s.fork(1000)
        forks += lambda i: f"{i}:" + sgl.gen("y") + sgl.gen("z")
        counts.append((threads, threading.active_count()))
        forks.join()
        counts.append((threads, threading.active_count()))

    def count(call) -> str:
        if call.rid.endswith("999/1"):
            counts.append((counts[0][0], threading.active_count()))
        return call.rid.split("-")[-1]

    warm = Scripted()
    sgl.function(_one_gen).run(backend=warm).sync()  # the chain loop's thread is there from here on
    state = program.run(backend=Scripted(count, latency=0.01))
    assert len(state["y"]) == 1000
    assert state["z"][7] == "7/1"
    assert len(counts) == 3
    assert all(after <= before for before, after in counts)  # those of others may end meanwhile


def _one_gen(s) -> None:
    s += sgl.gen("x")


def test_positions_ids_are_accepted_with_a_word(recwarn) -> None:
    @sgl.function
    def program(s):
        for _ in range(2):
            s.fork(2, position_ids_offset=[0, 1])

    program.run(backend=Scripted())
    assert len([w for w in recwarn if "position_ids_offset" in str(w.message)]) <= 1
