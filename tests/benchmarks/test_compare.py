"""Engines in processes of their own: the protocol, whole comparisons with fake engines, going on after an
interruption, one engine's failure. No torch."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.peers import figures, process
from benchmarks.peers.cores import Others
from benchmarks.peers.gguf_file import interleaved
from benchmarks.peers.models import kept, kv_bytes, round_rows
from benchmarks.peers.process import Failed, NotInstalled, Process
from benchmarks.peers.serve import Answer, run_waves
from benchmarks.peers.store import Store
from benchmarks.peers.workloads import DEFAULTS, Call, build, sizes
from benchmarks.roofline import MANY_ROWS, Machine

from benchmarks import compare

# An engine that answers with the lengths of prompts and notes what happens to it in a file. What it is
# told to do wrong, it does: "refuse" when loading, "die" or "silent" or "fail" at workload chat.
FAKE = """
import os, sys, time
from benchmarks.peers.serve import Answer, answer_lines

name, wrong, notes = sys.argv[1:]
reply = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

def note(text):
    with open(notes, "a") as file:
        file.write(f"{name} {text}\\n")

class Fake:
    def generate(self, prompts, outs):
        if len(prompts) == 3:  # the chats
            note("chat")
            if wrong == "die":
                print("I am gone", file=sys.stderr, flush=True)
                os._exit(7)
            if wrong == "fail":
                raise RuntimeError("no chats here")
        return [Answer([len(p)] * out, 0.001) for p, out in zip(prompts, outs)]
    def forget(self): pass
    def about(self): return {"version": f"{name}-1"}
    def close(self): note("close")

def load(settings):
    note("load")
    if wrong == "refuse":
        raise ImportError("nothing of that name")
    if wrong == "silent":
        time.sleep(60)
    return Fake()

answer_lines(load, sys.stdin, reply)
"""
CONFIG = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "vocab_size": 1000,
}
SMALL = ["few_shot.requests=2", "few_shot.shared=8", "chat.chats=3", "chat.turns=2", "stream.own=8"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


class Fakes:
    """Which engines there are, and what each does wrong."""

    def __init__(self, folder: Path) -> None:
        self.script, self._notes = folder / "fake.py", folder / "notes"
        self.script.write_text(FAKE)
        self.wrong: dict[str, str | None] = {"ramet": "nothing", "vllm": "nothing"}

    def command(self, name: str) -> list[str]:
        if name not in self.wrong:
            raise NotInstalled(f"not installed: install/{name}.sh installs it")
        return [sys.executable, str(self.script), name, str(self.wrong[name]), str(self._notes)]

    @property
    def notes(self) -> list[str]:
        return self._notes.read_text().splitlines() if self._notes.exists() else []

    @contextmanager
    def process(self, name: str) -> Iterator[Process]:
        log = self.script.with_name(f"{name}.log")
        running = Process(self.command(name), process.environment(name, 1), log)
        try:
            yield running
        finally:
            running.close()


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    fakes = Fakes(tmp_path)
    monkeypatch.setattr(process, "command", fakes.command)
    monkeypatch.setenv("RAMET_PEERS", str(tmp_path / "peers"))
    return fakes


LOAD = {
    "do": "load",
    "model": "/nowhere",
    "precision": "int8",
    "threads": 1,
    "cache_tokens": 10,
    "requests": 1,
    "longest": 10,
}
CHAT = {"do": "run", "workload": "chat", "vocab": 1000, "seed": 0}
CHAT_OF_3 = {**CHAT, "parameters": {"chats": 3, "turns": 2, "own": 4, "out": 2}}


# -- workloads as data ---------------------------------------------------------------------------


def test_every_workload_repeats_with_its_seed_and_shares_nothing_with_another() -> None:
    for name in DEFAULTS:
        one, again, other = (build(name, {}, 2000, seed) for seed in (1, 1, 2))
        assert one == again
        assert {c.own[:4] for wave in one for c in wave}.isdisjoint(
            c.own[:4] for wave in other for c in wave
        )


def test_sizes_of_workloads_are_those_of_a_hand() -> None:
    chat = sizes(build("chat", {"chats": 2, "turns": 2, "own": 3, "out": 1}, 1000, 0))
    assert chat == {
        "calls": 4,
        "prompt_tokens": 2 * 3 + 2 * (3 + 1 + 3),
        "output_tokens": 4,
        "longest": 8,
        "widest": 2,
        "live_tokens": 2 * 4 + 2 * 8,
    }
    beam = build("tree", {"trunk": 5, "levels": 2, "width": 4, "survivors": 2}, 1000, 0)
    assert [call.parent for call in beam[1]] == [0, 0, 2, 2]


@pytest.mark.parametrize(
    ("name", "parameters", "vocab"),
    [
        ("nothing", {}, 1000),
        ("chat", {"chats": 0}, 1000),
        ("chat", {"width": 3}, 1000),
        ("chat", {}, 300),
        ("tree", {"width": 2, "survivors": 3}, 1000),
    ],
)
def test_a_wrong_workload_is_refused(name: str, parameters: dict[str, int], vocab: int) -> None:
    with pytest.raises(ValueError):
        build(name, parameters, vocab, 0)


class _Ids:
    """Answers with numbers that say which call it was."""

    def __init__(self) -> None:
        self.asked: list[list[list[int]]] = []

    def generate(self, prompts: list[list[int]], outs: list[int]) -> list[Answer]:
        self.asked.append(prompts)
        return [Answer([7000 + len(self.asked)] * out, 0.5) for out in outs]

    def forget(self) -> None: ...

    def about(self) -> dict[str, Any]:
        return {}

    def close(self) -> None: ...


def test_a_later_wave_continues_prompts_and_answers_of_an_earlier_one() -> None:
    engine = _Ids()
    waves = [(Call((1, 2), 2),), (Call((3,), 1, 0), Call((4,), 1, 0))]
    ticks = iter(range(100))
    got = run_waves(engine, waves, lambda: float(next(ticks)))
    assert engine.asked == [[[1, 2]], [[1, 2, 7001, 7001, 3], [1, 2, 7001, 7001, 4]]]
    assert got["tokens"] == [2, 1, 1]
    assert got["heads"] == [7001]
    assert got["waves"] == [1.0, 1.0]
    assert got["seconds"] == 5.0


def test_an_answer_of_a_wrong_length_is_no_measurement() -> None:
    class Short(_Ids):
        def generate(self, prompts: list[list[int]], outs: list[int]) -> list[Answer]:
            return [replace(answer, tokens=[1]) for answer in super().generate(prompts, outs)]

    with pytest.raises(RuntimeError, match="call 0 gave 1 tokens, asked for 4"):
        run_waves(Short(), build("few_shot", {"requests": 2}, 1000, 0))


# -- checkpoints in other forms ------------------------------------------------------------------


def test_rows_are_interleaved_as_pairs_that_turn_together() -> None:
    halves = np.arange(8)[:, None]  # two heads of four: (0, 2), (1, 3) turn together
    assert interleaved(halves, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_rounded_rows_are_within_half_a_step() -> None:
    matrix = np.random.default_rng(0).standard_normal((5, 40)).astype(np.float16)
    matrix[3] = 0
    rounded, scale = round_rows(matrix)
    assert np.abs(rounded * scale - matrix.astype(np.float32)).max() <= scale.max() / 2 + 1e-7
    assert (np.abs(rounded[[0, 1, 2, 4]]).max(axis=1) == 127).all()
    assert not rounded[3].any()


def test_a_conversion_that_breaks_leaves_nothing_and_is_made_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAMET_PEERS", str(tmp_path))

    def breaks(folder: Path) -> None:
        (folder / "half").write_text("")
        raise RuntimeError

    def works(folder: Path) -> None:
        (folder / "whole").write_text("")

    with pytest.raises(RuntimeError):
        kept(model, "form", breaks)
    folder = kept(model, "form", works)
    assert [path.name for path in folder.iterdir()] == ["whole"]
    assert kept(model, "form", breaks) == folder


# -- the protocol --------------------------------------------------------------------------------


def test_an_engine_answers_and_sleeps_until_it_is_asked_again(fakes: Fakes) -> None:
    with fakes.process("ramet") as engine:
        assert engine.ask(LOAD, 20)["about"] == {"version": "ramet-1"}
        for _ in range(2):
            assert engine.ask(CHAT_OF_3, 20)["tokens"] == [2] * 6
            assert _state(engine) == "T"
    assert fakes.notes == ["ramet load", *["ramet chat"] * 4, "ramet close"]


def _state(engine: Process) -> str:
    path = Path(f"/proc/{engine.pid}/stat")
    if not path.exists():
        pytest.skip("no /proc on this machine: whether a process is stopped cannot be read")
    deadline = time.monotonic() + 5
    while (state := path.read_text().rpartition(")")[2].split()[0]) != "T":
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    return state


def test_an_error_is_told_and_the_engine_lives_on(fakes: Fakes) -> None:
    with fakes.process("ramet") as engine:
        with pytest.raises(Failed, match="RuntimeError: nothing is loaded"):
            engine.ask(CHAT_OF_3, 20)
        assert engine.ask(LOAD, 20)["about"]


def test_the_last_words_of_an_engine_that_dies_are_repeated(fakes: Fakes) -> None:
    fakes.wrong["ramet"] = "die"
    with fakes.process("ramet") as engine:
        engine.ask(LOAD, 20)
        with pytest.raises(Failed, match=r"(?s)ended with 7; .*I am gone"):
            engine.ask(CHAT_OF_3, 20)
        with pytest.raises(Failed, match="ended with 7"):
            engine.ask(CHAT_OF_3, 20)


def test_an_engine_that_says_nothing_is_given_up(fakes: Fakes) -> None:
    fakes.wrong["ramet"] = "silent"
    log = fakes.script.with_name("log")
    engine = Process(fakes.command("ramet"), process.environment("ramet", 1), log)
    with pytest.raises(Failed, match=r"no answer in 0 s"):
        engine.ask(LOAD, 0.3)
    engine.close(patience=0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(engine.pid, 0)


def test_engines_are_found_where_they_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAMET_PEERS", str(tmp_path))
    assert process.command("ramet")[0] == sys.executable
    with pytest.raises(NotInstalled, match=r"benchmarks/peers/install/llamacpp\.sh"):
        process.command("llamacpp")
    (tmp_path / "llamacpp" / "bin").mkdir(parents=True)
    (tmp_path / "llamacpp" / "bin" / "python").touch()
    with pytest.raises(NotInstalled):  # the server is not built yet
        process.command("llamacpp")
    (tmp_path / "llamacpp" / "bin" / "llama-server").touch()
    assert process.command("llamacpp")[0] == str(tmp_path / "llamacpp" / "bin" / "python")


def test_every_peer_has_a_script_that_installs_it() -> None:
    folder = process.ROOT / "benchmarks" / "peers" / "install"
    for name in compare.ENGINES:
        assert name == "ramet" or os.access(folder / f"{name}.sh", os.X_OK)


def test_what_others_take_is_told_from_an_engines_own_work() -> None:
    def spin() -> None:
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass

    own, foreign = Others(os.getpgrp()), Others(-1)
    spin()
    if (alone := own.cores()) is None:
        pytest.skip("no /proc on this machine: what others take is not known")
    both = foreign.cores()
    assert both is not None
    assert both - alone > 0.1  # of the core that was busy here


# -- whole comparisons ---------------------------------------------------------------------------


@pytest.fixture
def run(fakes: Fakes, model: Path, tmp_path: Path) -> Callable[..., tuple[int, dict[str, Any]]]:
    del fakes

    def run(*more: str, workloads: str = "few_shot,chat") -> tuple[int, dict[str, Any]]:
        out = tmp_path / "out.json"
        usual = ["--model", str(model), "--workloads", workloads, "--no-rates", "--scale", "0.05"]
        code = compare.main([*usual, "--json", str(out), "--set", *SMALL, *more])
        return code, json.loads(out.read_text()) if out.exists() else {}

    return run


def test_engines_take_turns_and_peers_that_are_not_there_have_a_line(
    run: Any, fakes: Fakes, capsys: pytest.CaptureFixture[str]
) -> None:
    code, data = run("--rounds", "2")
    assert code == 0
    order = [(r["round"], r["workload"], r["engine"]) for r in data["runs"]]
    assert order == [
        (0, "few_shot", "ramet"),
        (0, "few_shot", "vllm"),
        (0, "chat", "ramet"),
        (0, "chat", "vllm"),
        (1, "few_shot", "vllm"),
        (1, "few_shot", "ramet"),
        (1, "chat", "vllm"),
        (1, "chat", "ramet"),
    ]
    assert fakes.notes.count("vllm load") == 1
    assert {r["seed"] for r in data["runs"] if r["round"] == 1} != {
        r["seed"] for r in data["runs"] if r["round"] == 0
    }
    assert data["engines"]["int8"]["openvino"]["missing"].startswith("not installed")
    text = capsys.readouterr().out
    assert text.count("openvino     not installed: install/openvino.sh installs it") == 2
    assert text.count("-> Ramet is") == 2
    assert "ramet ramet-1, vllm vllm-1" in text


def test_one_failing_peer_spoils_no_other(run: Any, fakes: Fakes, capsys: Any) -> None:
    fakes.wrong.update(vllm="die", openvino="refuse", llamacpp="fail")
    code, data = run("--rounds", "1")
    assert code == 1
    good = [(r["engine"], r["workload"]) for r in data["runs"] if "error" not in r]
    assert good == [
        ("ramet", "few_shot"),
        ("vllm", "few_shot"),
        ("llamacpp", "few_shot"),
        ("ramet", "chat"),
    ]
    text = capsys.readouterr().out
    assert "vllm         failed: ended with 7" in text
    assert "openvino     failed: ImportError: nothing of that name" in text
    assert "llamacpp     failed: RuntimeError: no chats here" in text
    assert "transformers not installed" in text


def test_an_interrupted_comparison_goes_on(run: Any, fakes: Fakes, model: Path) -> None:
    code, data = run("--rounds", "1", "--minutes", "0")
    assert (code, data["runs"]) == (4, [])
    assert run("--rounds", "1", "--resume", workloads="few_shot")[0] == 0
    fakes.wrong["vllm"] = "fail"
    code, data = run("--rounds", "1", "--resume")
    assert code == 1
    before = len(fakes.notes)
    fakes.wrong["vllm"] = "nothing"
    code, data = run("--rounds", "1", "--resume")
    assert code == 0
    assert [n for n in fakes.notes[before:] if n != "vllm chat"] == ["vllm load", "vllm close"]
    assert len(data["runs"]) == 4
    code, more = run("--rounds", "2", "--resume", "--engines", "ramet")
    assert len(more["runs"]) == 6
    assert more["runs"][:4] == data["runs"]
    assert run("--resume", "--again", "vllm", "--engines", "vllm", "--rounds", "1")[0] == 0
    assert fakes.notes[-2:] == ["vllm chat", "vllm close"]
    assert model.is_dir()


def test_figures_of_other_questions_do_not_mix(run: Any, capsys: Any) -> None:
    assert run("--rounds", "1")[0] == 0
    assert run("--rounds", "1")[0] == 2
    assert "is there; --resume goes on with it" in capsys.readouterr().err
    assert run("--rounds", "1", "--resume", "--threads", "1")[0] == 2
    assert "was measured with threads 2, not 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        ["--engines", "nobody"],
        ["--rounds", "0"],
        ["--scale", "wide"],
        ["--set", "chat.wide=3"],
        ["--set", "chat.own=many"],
        ["--set", "own=3"],
        ["--options", "nobody.x=3"],
        ["--resume"],
        ["--model", "/nowhere"],
    ],
)
def test_a_wrong_question_is_refused(wrong: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as refused:
        compare.main(wrong)
    assert refused.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_the_machine_is_held_while_something_is_measured(
    run: Any, tmp_path: Path, fakes: Fakes
) -> None:
    notes = tmp_path / "notes"
    hold = f"sh -c 'echo quiet >>{notes}; echo held; cat; echo loud >>{notes}'"
    assert run("--rounds", "1", "--engines", "ramet,vllm", "--hold", hold)[0] == 0
    assert fakes.notes[:8] == [
        *("quiet", "ramet load", "vllm load", "loud"),  # few_shot
        *("quiet", "ramet chat", "ramet chat", "vllm chat"),
    ]
    assert fakes.notes[9:] == ["loud", "ramet close", "vllm close"]
    # Nothing is left to do, so nobody is asked to be quiet.
    assert run("--rounds", "1", "--engines", "ramet,vllm", "--hold", hold, "--resume")[0] == 0
    assert fakes.notes[12:] == []


# -- what the figures say ------------------------------------------------------------------------


def _data(runs: list[dict[str, Any]], rates: bool = False) -> dict[str, Any]:
    machine = Machine(
        2, 10.0, {"int8": 500.0, "fp32": 100.0}, {"int8": {1: 1.0, MANY_ROWS: 1.0}}, {}
    )
    return {
        "config": CONFIG,
        "workloads": {name: {} for name in dict.fromkeys(r["workload"] for r in runs)},
        "engines": {"int8": {name: {"about": {}} for name in ("ramet", "vllm", "llamacpp")}},
        "runs": [{"precision": "int8", "round": 0, **r} for r in runs],
        **({"rates": json.loads(json.dumps(machine.to_dict()))} if rates else {}),
    }


def test_best_median_and_ratio() -> None:
    times = {"ramet": (2.0, 1.0, 3.0), "vllm": (6.0, 4.0)}
    runs = [
        {"engine": name, "workload": "chat", "seconds": seconds}
        for name, all_ in times.items()
        for seconds in all_
    ]
    (row,) = figures.summary(_data(runs))
    assert row["floor"] is None
    assert row["engines"]["ramet"]["best"] == 1.0
    assert row["engines"]["ramet"]["median"] == 2.0
    assert row["engines"]["vllm"]["ratio"] == 4.0
    assert row["engines"]["llamacpp"] == {"missing": "not measured"}
    assert "-> Ramet is 4.00 times as fast as the best peer, vllm" in figures.table([row])


def test_a_stream_is_its_first_token_and_those_after_it() -> None:
    runs = [
        {"engine": "ramet", "workload": "stream", "seconds": 3.0, "first": [1.0]},
        {"engine": "vllm", "workload": "stream", "seconds": 9.0, "first": [None]},
    ]
    first, rest = figures.summary(_data(runs, rates=True))
    assert (first["figure"], rest["figure"]) == ("stream first", "stream next")
    assert first["engines"]["ramet"]["best"] == 1.0
    assert rest["engines"]["ramet"]["best"] == 2.0
    assert "missing" in first["engines"]["vllm"]  # it does not say when


def test_the_floor_of_a_stream_is_a_hands() -> None:
    runs = [{"engine": "ramet", "workload": "stream", "seconds": 3.0, "first": [1.0]}]
    data = _data(runs, rates=True)
    data["workloads"] = {"stream": {"own": 4, "out": 3}}
    first, rest = figures.summary(data)
    layers, output = 2 * (64 * (2 * 64 + 2 * 32) + 3 * 64 * 128), 1000 * 64
    attention = 4 * 2 * 4 * 16
    first_compute = 2 * (4 * layers + output) / 500e9 + attention * (1 + 2 + 3 + 4) / 100e9
    kv = kv_bytes(CONFIG, figures.KV_BYTES["int8"])
    first_memory = (layers + output + 4 * kv) / 10e9
    assert first["floor"] == pytest.approx(max(first_compute, first_memory))
    # Three passes read all weights, and the keys of those before: 4, 5, 6 tokens; each writes its own.
    rest_memory = (3 * (layers + output) + (4 + 5 + 6) * kv + 3 * kv) / 10e9
    assert rest["floor"] == pytest.approx(rest_memory)
    assert rest["engines"]["ramet"]["times_floor"] == pytest.approx(2.0 / rest["floor"])


def test_a_store_replaces_a_run_and_drops_an_engine(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out.json"
    key = {"precision": "int8", "engine": "vllm", "workload": "chat", "round": 0}
    store = Store(path, {"threads": 2}, resume=False)
    store.add({**key, "error": "once"})
    assert not store.has(key)
    store.add({**key, "seconds": 1.0})
    again = Store(path, {"threads": 2}, resume=True)
    assert again.runs == [{**key, "seconds": 1.0}]
    again.add({**key, "seconds": 1.0, "others": 0.5})
    assert again.has(key)
    assert not again.has(key, calm=0.4)  # disturbed: to be repeated
    again.forget(["vllm"], ["fp32"])
    assert again.has(key)
    again.forget(["vllm"], ["int8"])
    assert not again.runs


def test_the_picture_has_a_bar_for_every_ratio(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    from benchmarks.peers.picture import plot

    runs = [
        {"engine": name, "workload": "chat", "seconds": s}
        for name, s in (("ramet", 1), ("vllm", 3))
    ]
    plot(figures.summary(_data(runs)), "a machine", tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
