"""The workloads run, share what they should, give the same tokens under every switch; optimum and floor
are what a hand would compute."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.arguments import parse
from benchmarks.one_run import run_once
from benchmarks.optimum import Needs, needs
from benchmarks.switches import SWITCHES
from benchmarks.weights import SHAPES, build_tokenizer, checkpoint
from benchmarks.workloads import WORKLOADS, Size, Words
from tokenizers import Tokenizer

from benchmarks import __main__ as entry
from benchmarks import others, peak, picture, report, results, roofline, run_workloads
from ramet import Engine
from ramet.kernels.cpu.library import why_not
from ramet.kernels.threads import num_threads

SMALL = Size(scale=0.1, lengths=0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return checkpoint("tiny", tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Any:
    with Engine(folder, max_cache_tokens=8192) as engine:
        yield engine


@pytest.fixture(scope="module")
def words(engine: Engine) -> Words:
    return Words(engine.tokenizer, engine.config.vocab_size)


# -- weights -------------------------------------------------------------------------------------


def test_the_shapes_have_as_many_weights_as_their_names_say() -> None:
    millions = {name: shape.num_weights / 1e6 for name, shape in SHAPES.items()}
    assert millions["135M"] == pytest.approx(134.5, abs=0.1)
    assert millions["135M-8k"] == pytest.approx(110.9, abs=0.1)
    assert millions["1.1B"] == pytest.approx(1100.0, abs=0.1)


def test_a_checkpoint_is_made_once_and_repeats(folder: Path, tmp_path: Path) -> None:
    weights = folder / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert checkpoint("tiny", folder) == folder
    assert weights.stat().st_mtime_ns == before
    again = checkpoint("tiny", tmp_path / "again") / "model.safetensors"
    assert again.read_bytes() == weights.read_bytes()
    other = checkpoint("tiny", tmp_path / "other", seed=1) / "model.safetensors"
    assert other.read_bytes() != weights.read_bytes()


def test_a_folder_with_something_else_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="something else"):
        checkpoint("tiny", tmp_path)
    with pytest.raises(ValueError, match="something else"):
        checkpoint("tiny", folder, seed=7)
    with pytest.raises(ValueError, match="known are"):
        checkpoint("135", tmp_path / "new")


def test_transformers_loads_the_checkpoint(folder: Path, engine: Engine) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(" babe cece\nand 12 <|im_end|>").input_ids
    assert ids == engine.tokenizer.encode(" babe cece\nand 12 <|im_end|>")
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0, -1].argmax().item()
    got = engine.generate(input_ids=ids, sampling_params={"max_new_tokens": 1, "temperature": 0})
    assert got["output_ids"] == [expected]


@pytest.mark.parametrize("vocab", [600, 2048, 8192])
def test_the_tokenizer_has_the_size_asked_for(vocab: int) -> None:
    tokenizer = Tokenizer.from_str(build_tokenizer(vocab))
    assert tokenizer.get_vocab_size() == vocab
    text = "Any text: naïve, 12.5 \U0001f333\n\tand <|im_start|>user"
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    with pytest.raises(ValueError, match="cannot be built"):
        build_tokenizer(300)


@pytest.mark.parametrize("before", ["", "\n", "Thought 1:", " babe", "<|im_start|>user\n"])
def test_a_text_of_n_words_has_n_tokens(words: Words, engine: Engine, before: str) -> None:
    import random

    own = words.own(random.Random(1), 12345, 40)
    extra = len(engine.tokenizer.encode(before)) if before else 0
    assert len(engine.tokenizer.encode(before + own)) == extra + 40
    assert own.split()[:2] != words.own(random.Random(1), 12346, 40).split()[:2]


# -- optimum -------------------------------------------------------------------------------------


@dataclass
class Call:
    program: int
    prompt: Any
    output: Any = ()
    scored_from: int | None = None
    generated: int = field(init=False)

    def __post_init__(self) -> None:
        self.prompt, self.output = np.array(self.prompt), np.array(self.output, np.int64)
        self.generated = len(self.output)


def test_optimum_by_hand() -> None:
    """Two programs share 1 2 3. The first goes on from its own answer 7 8; of the answer, 7 has been
    computed and 8 has not."""
    trace = [
        Call(0, [1, 2, 3, 4], [7, 8]),  # new: 1 2 3 4, then 7
        Call(1, [1, 2, 3, 5], [9]),  # new: 5
        Call(0, [1, 2, 3, 4, 7, 8, 6], [9, 9]),  # new: 8 6, then 9
    ]
    found = needs(trace, concurrency=64)
    assert found == Needs(
        prompt_tokens=4 + 4 + 7,
        generated_tokens=5,
        unique_prompt_tokens=4 + 1 + 2,
        unique_tokens=4 + 1 + 1 + 2 + 1,
        logit_rows=5,  # behind 4, 7, 5, 6 and 9
        context_sum=(1 + 2 + 3 + 4) + 5 + 4 + (6 + 7) + 8,
        passes=4,  # 7, 8, 9, 9 one after the other
        # 1 2 3 4: drawn 4 times later, the first of it in the pass that computes them; 7 is followed by
        # three draws, 8 and 6 by two; the last 9 by one, in its own pass; 5 the same.
        kv_reads=4 * 3 + 2 + 2 * 1 + 0 + 0,
    )
    assert found.optimal_hit_rate == pytest.approx(1 - 7 / 15)


def test_passes_of_programs_that_wait_for_each_other() -> None:
    trace = [Call(n, [n, 1], [5, 5, 5]) for n in range(4)]
    assert needs(trace, concurrency=64).passes == 3
    assert needs(trace, concurrency=2).passes == 6
    assert needs(trace, concurrency=1).passes == 12
    assert needs([], concurrency=1).passes == 0


def test_scored_choices_share_their_prompt() -> None:
    trace = [Call(0, [1, 2, 3, c, 9], scored_from=3) for c in (4, 5)]
    found = needs(trace, 1)
    assert (found.prompt_tokens, found.unique_prompt_tokens) == (10, 7)
    assert found.logit_rows == 3  # behind 3 once, behind 4 and behind 5
    assert found.passes == 1


# -- floor ---------------------------------------------------------------------------------------

SIZES = SimpleNamespace(
    hidden_size=8, intermediate_size=16, num_layers=3, num_heads=2, num_kv_heads=1, head_dim=4,
    vocab_size=100,
)  # fmt: skip
MACHINE = roofline.Machine(
    threads=1,
    bandwidth=10.0,
    peaks={"fp32": 100.0, "int8": 300.0},
    products={
        "fp32": {1: 5.0, 512: 90.0},
        "fp16": {1: 5.0, 512: 90.0},
        "int8": {1: 5.0, 512: 400.0},
    },
    kernels={},
)
NEEDS = Needs(
    prompt_tokens=100, generated_tokens=9, unique_prompt_tokens=50, unique_tokens=58, logit_rows=9,
    context_sum=1000, passes=9, kv_reads=200,
)  # fmt: skip


def test_floor_by_hand() -> None:
    found = roofline.floor(NEEDS, SIZES, MACHINE, "fp16", kv_bytes=96)
    layer = 8 * (8 + 8 + 4 + 4) + 3 * 8 * 16
    operations = 2 * (58 * 3 * layer + 9 * 800) + 4 * 3 * 8 * 1000
    assert found.compute == pytest.approx(operations / 100e9)
    assert found.memory == pytest.approx((9 * (3 * layer + 800) * 2 + 258 * 96) / 10e9)
    assert found.seconds == max(found.compute, found.memory)


@pytest.mark.parametrize(
    "more", ["unique_tokens", "logit_rows", "context_sum", "passes", "kv_reads"]
)
def test_floor_grows_with_every_need(more: str) -> None:
    least = roofline.floor(NEEDS, SIZES, MACHINE, "fp16", 96)
    bigger = replace(NEEDS, **{more: getattr(NEEDS, more) + 1000})
    found = roofline.floor(bigger, SIZES, MACHINE, "fp16", 96)
    assert found.compute + found.memory > least.compute + least.memory
    assert found.compute >= least.compute
    assert found.memory >= least.memory


def test_attention_counts_in_the_form_of_the_keys() -> None:
    """bfloat16 keys are multiplied as they are where the machine can, others in fp32."""
    fast = replace(MACHINE, peaks={**MACHINE.peaks, "bf16": 200.0})
    found = {
        (kv, machine.peaks.get("bf16")): roofline.floor(
            NEEDS, SIZES, machine, "fp16", 96, kv
        ).compute
        for kv in ("fp32", "bf16")
        for machine in (MACHINE, fast)
    }
    assert found["bf16", None] == found["fp32", None] == found["fp32", 200.0]
    attention = 4 * 3 * 8 * 1000 / 100e9
    assert found["bf16", 200.0] == pytest.approx(found["fp32", 200.0] - attention / 2)


def test_fewer_bits_lower_the_floor() -> None:
    floors = [roofline.floor(NEEDS, SIZES, MACHINE, held, 96) for held in ("fp32", "fp16", "int8")]
    assert floors[0].memory > floors[1].memory > floors[2].memory
    assert floors[1].compute > floors[2].compute
    assert roofline.precision({"dtype": "float32"}) == "fp32"
    assert roofline.precision({"quantization": "int8", "dtype": None}) == "int8"
    assert roofline.precision({"dtype": None}) == "fp16"


def test_a_rate_is_that_of_the_units_or_of_a_product_that_beats_it() -> None:
    assert MACHINE.rate("fp16") == 100
    assert MACHINE.rate("int8") == 400
    assert replace(MACHINE, peaks={}).rate("fp32") == 90
    assert MACHINE.to_dict()["rates"] == {"fp32": 100, "fp16": 100, "int8": 400}


def test_the_machine_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_OUT", 256)
    monkeypatch.setattr(roofline, "_IN", 256)
    monkeypatch.setattr(roofline, "_STREAM_BYTES", 1 << 20)
    monkeypatch.setattr(roofline, "_COLD_BYTES", 1 << 17)
    monkeypatch.setattr(peak, "STREAM_BYTES", 1 << 20)
    threads = num_threads()
    machine = roofline.measure(threads=1, seconds=0.002)
    assert num_threads() == threads
    assert machine.threads == 1
    assert machine.bandwidth > 0.1
    for held in ("fp32", "fp16"):
        assert machine.products[held][512] > machine.products[held][1] > 0
        assert machine.kernels[held].endswith("Linear")
    now = roofline.now(machine, seconds=0.002)
    assert now.products == machine.products
    assert now.bandwidth > 0.1
    best = roofline.best_of(machine, now)
    assert best.bandwidth == max(machine.bandwidth, now.bandwidth)
    assert all(best.peaks[kind] == max(machine.peaks[kind], now.peaks[kind]) for kind in best.peaks)


def test_units_are_faster_in_fewer_bits_and_with_more_time_for_more_work() -> None:
    """The loops of peak.cpp do the work that they state: twice the iterations take about twice as long."""
    if why_not() is not None:
        pytest.skip(f"peaks need a compiler: {why_not()}")
    library = peak._library()
    if not library.peak_fp32_operations():
        pytest.skip("this processor has none of the instructions that are measured")

    def seconds(iterations: int) -> float:
        def once() -> float:
            start = time.thread_time()
            library.peak_fp32(iterations)
            return time.thread_time() - start

        return min(once() for _ in range(5))

    assert 1.5 < seconds(400_000) / seconds(200_000) < 2.7
    compute = peak.measure_peaks(1, 0.02).compute
    assert compute["int8"] > compute["fp32"] > 1


# -- workloads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_runs_and_shares_all_it_can(name: str, engine: Engine, words: Words) -> None:
    load = WORKLOADS[name].make(words, SMALL)
    assert load.items == WORKLOADS[name].make(words, SMALL).items
    assert load.items != WORKLOADS[name].make(words, replace(SMALL, seed=1)).items
    measured, trace = run_once(engine, load, SWITCHES["no_hint"])
    need = needs(trace, load.concurrency)
    assert measured.programs == len(load.items)
    assert measured.prompt_tokens == need.prompt_tokens
    assert measured.steps + measured.rightly_guessed >= need.passes
    assert measured.computed_tokens >= need.unique_tokens
    # A call whose whole prompt is in the tree computes its last row again.
    assert measured.hit_rate <= need.optimal_hit_rate + 1e-9
    assert measured.hit_rate * need.prompt_tokens >= (
        need.optimal_hit_rate * need.prompt_tokens - measured.calls
    )
    starts = [call.started for call in trace]
    assert starts == sorted(starts)
    assert all(0 < c.first_token <= c.seconds for c in trace if c.first_token is not None)


@pytest.mark.parametrize(
    ("name", "calls"), [("tot", 39), ("skeleton", 10), ("judge", 7), ("multi_chain", 6)]
)
def test_a_program_makes_the_calls_of_the_original(
    name: str, calls: int, engine: Engine, words: Words
) -> None:
    load = WORKLOADS[name].make(words, replace(SMALL, scale=0.01))
    assert len(load.items) == 1
    measured, _ = run_once(engine, load, SWITCHES["full"])
    assert measured.calls == calls


@pytest.mark.parametrize("name", ["tot", "skeleton"])
def test_switches_do_not_change_tokens(
    name: str, folder: Path, engine: Engine, words: Words
) -> None:
    load = WORKLOADS[name].make(words, SMALL)
    full, trace = run_once(engine, load, SWITCHES["full"])
    best = needs(trace, load.concurrency).optimal_hit_rate
    for switch in SWITCHES.values():
        if switch.options:
            with Engine(folder, max_cache_tokens=8192, **switch.options) as other:
                measured, _ = run_once(other, load, switch)
        else:
            measured, _ = run_once(engine, load, switch)
        assert measured.tokens_digest == full.tokens_digest, switch.name
        assert measured.hit_rate <= best + 1e-9
        if switch.name == "no_cache":
            assert measured.hit_rate == pytest.approx(0)
            assert measured.computed_tokens > full.computed_tokens


def test_serial_has_one_call_of_a_program_at_a_time(engine: Engine, words: Words) -> None:
    load = WORKLOADS["skeleton"].make(words, replace(SMALL, scale=0.25))

    def overlaps(switch: str) -> int:
        _, trace = run_once(engine, load, SWITCHES[switch])
        spans = [(c.program, c.started, c.started + c.seconds) for c in trace]
        return sum(
            a[0] == b[0] and b[1] < a[2] for i, a in enumerate(spans) for b in spans[i + 1 :]
        )

    assert overlaps("serial") == 0
    assert overlaps("full") > 0


def test_one_by_one_has_one_program_at_a_time(engine: Engine, words: Words) -> None:
    load = WORKLOADS["chat_short"].make(words, replace(SMALL, scale=0.5))
    _, trace = run_once(engine, load, SWITCHES["one_by_one"])
    order = [call.program for call in trace]
    assert order == sorted(order)


def test_a_program_that_fails_is_not_measured(folder: Path, words: Words) -> None:
    from ramet.errors import RametError

    load = WORKLOADS["judge"].make(words, SMALL)
    with Engine(folder, max_cache_tokens=16) as small, pytest.raises(RametError, match="KV slots"):
        run_once(small, load, SWITCHES["full"])


# -- the command ---------------------------------------------------------------------------------


def test_the_command_writes_a_table_and_json(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(run_workloads, "measure", lambda *_: MACHINE)
    monkeypatch.setattr(run_workloads, "now", lambda machine, _: machine)
    out = tmp_path / "out.json"
    few = ["--only", "mmlu,chat_short", "--scale", "0.1", "--lengths", "0.05", "--rounds", "2"]
    options = ["--options", "max_cache_tokens=4096", "schedule_policy=fcfs"]
    code = entry.main(["workloads", "--model", str(folder), "--json", str(out), *few, *options])
    table = capsys.readouterr().out
    assert code == 0, table
    data = json.loads(out.read_text())
    assert data["options"] == {"max_cache_tokens": 4096, "schedule_policy": "fcfs"}
    assert [row["workload"] for row in data["workloads"]] == ["mmlu", "chat_short"]
    for row in data["workloads"]:
        assert row["same_tokens"]
        full, without = row["switches"]["full"], row["switches"]["no_cache"]
        assert len(full["rounds"]) == 2
        assert full["times_base"] == 1
        assert full["times_floor"] == pytest.approx(
            full["seconds"] / row["floor"]["seconds"], rel=1e-3
        )
        assert without["hit_rate"] == pytest.approx(0)
        for name, figures in row["switches"].items():
            counts = rf"{figures['computed_tokens']:.0f} +{row['needs']['unique_tokens']} "
            assert re.search(rf"(?m)^{row['workload']} +{name} .* {counts}", table)


def test_runs_that_differ_are_told() -> None:
    figures = {
        "seconds": 1.0, "programs_per_second": 1.0, "program_mean": 1.0, "program_p95": 1.0,
        "hit_rate": 0.5, "of_optimum": None, "computed_tokens": 5, "times_floor": 2.0,
        "times_base": 1.0,
    }  # fmt: skip
    row = {
        "workload": "mmlu",
        "same_tokens": False,
        "needs": {"optimal_hit_rate": 0.5, "unique_tokens": 5},
        "switches": {"full": figures},
    }
    assert "TOKENS DIFFER" in report.lines(row)
    calm, loud = ({"full": {**figures, "busy_with_others": share}} for share in (0.05, 0.6))
    assert "DISTURBED" not in report.lines({**row, "switches": calm})
    assert "DISTURBED: others had 60 %" in report.lines({**row, "switches": loud})


def test_a_disturbed_run_is_repeated_while_there_is_patience(monkeypatch: Any) -> None:
    shares = [0.5, 0.4, 0.01, 0.3]
    runs = iter(SimpleNamespace(busy_with_others=share) for share in shares)
    monkeypatch.setattr(run_workloads, "run_once", lambda *_: (next(runs), []))
    none: Any = None
    best, _ = run_workloads._undisturbed(none, none, none, patience=60)
    assert best.busy_with_others == 0.01
    last, _ = run_workloads._undisturbed(none, none, none, patience=0)
    assert last.busy_with_others == 0.3


def test_others_are_what_is_busy_and_not_this_process() -> None:
    """user nice system idle iowait irq softirq steal guest guest_nice (the last two are in user)"""
    assert others.busy_ticks("cpu  10 20 30 400 500 6 7 8 9 9\ncpu0 1 1 1 1\n") == (81, 981)
    before, after = others.Clock(100, 50, 10), others.Clock(104, 53, 12)
    assert after.others_since(before) == pytest.approx(1 / 4)
    assert others.Clock(104, 51, 12).others_since(before) == 0
    now = others.Clock.read()
    assert now is None or now.total >= now.busy > now.own > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["workloads", "--only", "mmlu,nothing"], "'nothing' is unknown"),
        (["workloads", "--switches", "off"], "'off' is unknown"),
        (["workloads", "--options", "dtype"], "not of the form"),
        (["workloads", "--rounds", "0"], "at least 1"),
        (["workloads", "--memory", "0"], "above 0"),
        (["workloads", "--add"], "needs --json"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        entry.main(arguments)
    assert message in capsys.readouterr().err


def test_options_need_a_benchmark_that_takes_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["nothing"]) == 2
    assert entry.main(["shared_prefix", "--model", "x"]) == 2
    assert "options follow" in capsys.readouterr().err


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib, which is optional")
    figures = {"times_base": 1.0, "times_floor": 2.0, "hit_rate": 0.5, "of_optimum": 0.99}
    none = {**figures, "times_floor": None, "of_optimum": None}
    rows = [
        {
            "workload": name,
            "needs": {"optimal_hit_rate": 0.6},
            "floor": {"compute": 1.0, "memory": 2.0},
            "switches": {"a": some, "b": some},
        }
        for name, some in (("mmlu", figures), ("tot", none))
    ]
    data = {"machine": "m", "model": "x", "options": {}, "scale": 1, "rounds": 2, "workloads": rows}
    path = tmp_path / "plot.png"
    picture.plot(data, path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_results_grow_piece_by_piece(tmp_path: Path) -> None:
    head = dict.fromkeys(results._SAME, 1)
    path = tmp_path / "out.json"
    assert results.kept(path, head) == []
    first = [{"workload": "mmlu", "seconds": 1.23456789}, {"workload": "tot", "seconds": 1}]
    results.write({**head, "workloads": first}, path)
    again = [{"workload": "mmlu", "seconds": 3.0}, {"workload": "rag", "seconds": 2.0}]
    results.write({**head, "workloads": results.merged(results.kept(path, head), again)}, path)
    data = json.loads(path.read_text())
    assert data["workloads"] == [again[0], first[1], again[1]]
    with pytest.raises(ValueError, match="rounds 1"):
        results.kept(path, {**head, "rounds": 2})


def test_full_and_small_differ_in_their_defaults() -> None:
    small, full = parse([]), parse(["--full"])
    assert (small.model, len(small.switches), small.options) == ("pocket", 2, {})
    assert (full.model, full.options) == ("135M-8k", {"quantization": "int8"})
    assert [switch.name for switch in full.switches] == list(SWITCHES)
    assert len(full.only) == len(small.only) == len(WORKLOADS)
    named = parse(
        ["--full", "--scale", "0.5", "--options", "quantization=null", "--switches", "full"]
    )
    assert (named.scale, named.options, len(named.switches)) == (0.5, {"quantization": None}, 1)


def test_little_memory_is_a_share_of_what_the_workload_fills(
    folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(run_workloads, "measure", lambda *_: MACHINE)
    monkeypatch.setattr(run_workloads, "now", lambda machine, _: machine)
    out = tmp_path / "out.json"
    few = ["--only", "mmlu", "--scale", "0.3", "--lengths", "0.05", "--switches", "full,random"]
    assert (
        run_workloads.main(["--model", str(folder), *few, "--memory", "0.6", "--json", str(out)])
        == 0
    )
    (row,) = json.loads(out.read_text())["workloads"]
    assert row["num_slots"] == round(0.6 * row["needs"]["unique_tokens"])
    assert row["same_tokens"]
    assert all(figures["hit_rate"] > 0 for figures in row["switches"].values())
