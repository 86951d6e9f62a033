"""The commands as a person meets them: what is printed where, and the exit code."""

from __future__ import annotations

import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import ramet
from ramet import pocket
from ramet.backends.scripted import Fail, Hang, Scripted
from ramet.cli import app
from ramet.cli.chat import Chat, chat_loop

SOURCE = Path(ramet.__file__).parents[1]
COMMAND = [sys.executable, "-c", "from ramet.cli import main; main()"]

PROGRAMS = """
import ramet
from ramet import gen, select
from ramet.backends.scripted import Fail, Scripted

backend = Scripted(
    {
        "Tip 0:": " drink water",
        "Tip 1:": " sleep well",
        "Settings:": " as they are",
        "Fail:": Fail("the model is gone"),
    },
    scores={"first": -2.0, "second": -0.5},
    share=True,
)
ramet.set_default_backend(backend)

@ramet.function
def main(s, topic: str, n=2):
    s += "Tips on " + topic + " for people who have little time and want to feel well.\\n"
    forks = s.fork(n)
    forks += lambda i: f"Tip {i}:" + gen("tip", max_tokens=8)
    forks.join()
    print("from the body")
    s += "Best: " + select("best", ["first", "second"])
    return s["best"]

@ramet.function
def broken(s):
    s += "Fail:" + gen("x")
    return s["x"]

@ramet.function
def careless(s):
    s += "Nothing is"
    return {}["missing"]

@ramet.function
def unread(s):
    s += "Fail:" + gen("x")

@ramet.function
def forgetful(s):
    for branch in s.fork(3):
        branch += "Tip 0:" + gen("tip")

@ramet.function
def settings(s):
    s += "Settings:" + gen("x")
    params = backend.calls[-1].params if s["x"] else None
    return [params.max_new_tokens, params.temperature, params.sampling_seed is not None]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "programs.py"
    path.write_text(PROGRAMS, "utf-8")
    return path


@pytest.fixture(autouse=True)
def _same_world_afterwards() -> Iterator[None]:
    backend, path = ramet.global_config.default_backend, list(sys.path)
    yield
    ramet.global_config.default_backend = backend
    sys.path[:] = path
    sys.modules.pop("ramet_program_programs", None)


def invoke(*words: object, stdin: str | None = None) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin)


# ---- ramet run ------------------------------------------------------------------------------------


def test_a_run_in_a_pipe_is_plain_lines(file: Path) -> None:
    done = invoke("run", file, "-a", "topic=health")
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert lines[0].startswith("0: Tips on health")
    assert {"0.0-0: [tip]  drink water", "0.0-1: [tip]  sleep well"} <= set(lines)
    assert "from the body" in lines
    assert "0: [best] second" in lines
    assert lines[-1] == "result: 'second'"
    table = lines.index(next(line for line in lines if line.startswith("call ")))
    assert [line.split()[0] for line in lines[table + 1 : table + 4]] == ["tip", "tip", "best"]
    assert re.match(r"3 calls · \d+ tokens asked, \d+ computed: sharing saved \d+%", lines[-2])


def test_json_is_one_record_and_nothing_else(file: Path) -> None:
    done = invoke("run", file, "-a", "topic=health", "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["program"] == "main"
    assert record["result"] == "second"
    assert record["error"] is None
    assert record["text"].endswith("Best: second")
    assert [call["name"] for call in record["calls"]] == ["tip", "tip", "best"]
    totals = record["totals"]
    assert totals["saved"] == totals["asked"] - totals["computed"] > 0
    assert "from the body" in done.stderr


def test_a_parameter_may_be_named_like_an_option_of_run(file: Path) -> None:
    done = invoke("run", file, "-a", "topic=health", "-a", "n=1", "--json")
    assert [call["name"] for call in json.loads(done.stdout)["calls"]] == ["tip", "best"]


def test_sampling_options_reach_the_calls(file: Path) -> None:
    options = ("--max-new-tokens", 7, "--temperature", 0.25, "--seed", 3)
    done = invoke("run", f"{file}:settings", *options, "--json")
    assert json.loads(done.stdout)["result"] == [7, 0.25, True]
    done = invoke("run", f"{file}:settings", "--json")
    assert json.loads(done.stdout)["result"] == [128, 1.0, False]


@pytest.mark.parametrize("program", ["broken", "unread"])
def test_a_failed_call_is_a_line_and_its_place(file: Path, program: str) -> None:
    done = invoke("run", f"{file}:{program}")
    assert done.exit_code == 1
    assert "Traceback" not in done.output
    assert "BackendError: the model is gone" in done.stderr
    line = next(
        number
        for number, text in enumerate(PROGRAMS.splitlines(), start=1)
        if "Fail:" in text and number > PROGRAMS[: PROGRAMS.index(f"def {program}")].count("\n")
    )
    assert f"programs.py:{line}" in done.stderr
    assert 's += "Fail:" + gen("x")' in done.stderr


def test_a_failure_of_the_body_names_its_line(file: Path) -> None:
    done = invoke("run", f"{file}:careless")
    assert done.exit_code == 1
    first, place, source = done.stderr.splitlines()
    assert first == "ramet: KeyError: 'missing'"
    assert "programs.py:" in place
    assert source.strip() == 'return {}["missing"]'


def test_the_traceback_is_an_option_away(file: Path) -> None:
    done = invoke("run", f"{file}:careless", "--traceback")
    assert done.exit_code == 1
    assert "Traceback (most recent call last)" in done.stderr


def test_json_of_a_failed_run_says_so(file: Path) -> None:
    done = invoke("run", f"{file}:broken", "--json")
    assert done.exit_code == 1
    record = json.loads(done.stdout)
    assert "the model is gone" in record["error"]
    assert record["totals"]["failed"] == 1


def test_branches_that_nobody_joins_are_waited_for(file: Path) -> None:
    done = invoke("run", f"{file}:forgetful", "--json")
    record = json.loads(done.stdout)
    assert [call["error"] for call in record["calls"]] == [None] * 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no_such_file.py"], "there is no file no_such_file.py"),
        (["{file}:nothing"], "programs.py has no program nothing; it has main, broken"),
        (["{file}"], "main needs topic: add --arg topic=..."),
        (["{file}", "-a", "subject=x"], "main has no parameter subject; it takes topic, n=2"),
        (["{file}:broken", "--model", "/no/such/model"], "cannot load the model '/no/such/model'"),
    ],
)
def test_a_wrong_command_line_is_refused(file: Path, words: list[str], said: str) -> None:
    done = invoke("run", *(word.format(file=file) for word in words))
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import ramet\nx = = 1\n", "SyntaxError: invalid syntax"),
        ("import ramet\n1 / 0\n", "ZeroDivisionError: division by zero"),
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_a_file_that_does_not_load_names_its_line(file: Path, text: str, said: str) -> None:
    file.write_text(text, "utf-8")
    done = invoke("run", file)
    assert done.exit_code == 1
    assert said in done.stderr
    assert re.search(r"programs\.py:\d", done.stderr)
    assert "Traceback" not in done.output


def test_the_version() -> None:
    done = invoke("--version")
    assert (done.exit_code, done.stdout) == (0, f"ramet {ramet.__version__}\n")


def test_an_unknown_option_is_a_usage_error(file: Path) -> None:
    assert invoke("run", file, "--no-such-option").exit_code == 2


# ---- in a terminal, and interrupted -----------------------------------------------------------------

SLOW = """
import ramet
from ramet import gen
from ramet.backends.scripted import Hang, Scripted

ramet.set_default_backend(Scripted({"Wait:": Hang(" already here")}))

@ramet.function
def wait(s):
    s += "Wait:" + gen("x")
    return s["x"]
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SOURCE), "TERM": "xterm-256color", "COLUMNS": "80"}


def read_until(pattern: bytes, descriptor: int, seconds: float = 20) -> bytes:
    seen, end = b"", time.monotonic() + seconds
    while not re.search(pattern, seen):
        ready, _, _ = select.select([descriptor], [], [], max(end - time.monotonic(), 0))
        assert ready, f"{pattern!r} did not come; so far: {seen!r}"
        seen += os.read(descriptor, 65536)
    return seen


def test_ctrl_c_cancels_a_run(file: Path) -> None:
    file.write_text(SLOW, "utf-8")
    words = [*COMMAND, "run", str(file)]
    run = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "0: Wait:\n"
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=20)
    assert run.returncode == 130
    assert err.splitlines()[-1] == "cancelled"
    assert "Traceback" not in out + err


def test_a_terminal_gets_colours_and_a_tree(file: Path) -> None:
    master, slave = os.openpty()
    words = [*COMMAND, "run", str(file), "-a", "topic=health"]
    run = subprocess.Popen(words, stdout=slave, stderr=slave, stdin=slave, env=environment())
    os.close(slave)
    seen = read_until(rb"result: ", master).decode()
    assert run.wait(timeout=20) == 0
    os.close(master)
    assert "\x1b[32m" in seen  # generated text is green
    assert "├── " in seen
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen)
    assert "✓ 0 Tip 0: drink water" in plain
    assert "✓ main" in plain


# ---- ramet chat -------------------------------------------------------------------------------------


def talk(backend: Any, *lines: str, **options: Any) -> tuple[str, Chat]:
    chat, out = Chat(backend, **options), io.StringIO()
    chat_loop(chat, io.StringIO("".join(f"{line}\n" for line in lines)), out, interactive=False)
    return out.getvalue(), chat


def test_a_conversation_remembers() -> None:
    backend = Scripted(["Hello Ann.", "You are Ann."])
    said, chat = talk(backend, "I am Ann.", "", "Who am I?", instructions="Be brief.")
    assert said == "Hello Ann.\nYou are Ann.\n"
    first, second = backend.prompts
    assert "Be brief." in first
    assert second.startswith(first)
    assert "Hello Ann." in second
    assert chat.turns == [("I am Ann.", "Hello Ann."), ("Who am I?", "You are Ann.")]


def test_clear_forgets_and_exit_leaves() -> None:
    backend = Scripted(["one", "two", "three"])
    said, _ = talk(backend, "a", "/clear", "b", "/exit", "c")
    assert said == "one\ntwo\n"
    assert "one" not in backend.prompts[1]


def test_an_unknown_command_is_not_sent() -> None:
    backend = Scripted(["one"])
    said, _ = talk(backend, "/quit")
    assert said.startswith("/quit is no command.")
    assert backend.calls == []


def test_a_stopped_answer_stays_and_its_call_is_cancelled() -> None:
    backend = Scripted([Hang("so far"), "done"])
    chat = Chat(backend)
    answer = chat.ask("Go")
    assert next(answer) == "so"
    answer.close()
    assert chat.turns == [("Go", "so")]
    assert list(chat.ask("more")) == ["done"]
    assert len(backend.cancelled) == 1


def test_a_failed_answer_ends_a_piped_chat_with_its_error() -> None:
    with pytest.raises(ramet.errors.BackendError, match=r"^the model is gone$"):
        talk(Scripted([Fail("the model is gone")]), "Hello")


class Typed:
    """Stands in for `input`: one line or exception after the other, then the end of input."""

    def __init__(self, *lines: str | BaseException) -> None:
        self.lines = list(lines)

    def __call__(self, prompt: str) -> str:
        assert prompt == "> "
        line = self.lines.pop(0) if self.lines else EOFError()
        if isinstance(line, BaseException):
            raise line
        return line


def talk_in_a_terminal(
    monkeypatch: pytest.MonkeyPatch, backend: Any, *lines: str | BaseException
) -> str:
    monkeypatch.setattr("builtins.input", Typed(*lines))
    out = io.StringIO()
    chat_loop(Chat(backend), io.StringIO("not read"), out, interactive=True)
    return out.getvalue()


def test_a_person_sees_what_an_answer_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    said = talk_in_a_terminal(monkeypatch, Scripted(["Hello."], share=True), "Hi", "/exit")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said).splitlines()
    assert plain[0].startswith("/clear forgets")
    assert plain[1] == "Hello."
    assert re.fullmatch(r"\d+ tokens · 0 of \d+ prompt tokens cached · \d\.\d\d s", plain[2])


def test_ctrl_c_leaves_at_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Scripted(["one"])
    assert talk_in_a_terminal(monkeypatch, backend, KeyboardInterrupt(), "Hi").endswith("\n")
    assert backend.calls == []


def test_ctrl_c_stops_an_answer_and_the_chat_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = []

    def ask(_: Chat, question: str) -> Any:
        try:
            yield f"about {question}"
            if question == "one":
                raise KeyboardInterrupt
        finally:
            stopped.append(question)

    monkeypatch.setattr(Chat, "ask", ask)
    said = talk_in_a_terminal(monkeypatch, Scripted(), "one", "two")
    assert "about one [stopped]\nabout two\n" in said
    assert stopped == ["one", "two"]


def test_an_error_in_a_terminal_does_not_end_the_chat(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = Scripted([Fail("the model is gone"), "back again"])
    assert "back again" in talk_in_a_terminal(monkeypatch, backend, "one", "two")
    assert capsys.readouterr().err == "BackendError: the model is gone\n"


# ---- the embedded model -----------------------------------------------------------------------------


def needs_pocket() -> None:
    try:
        pocket.model_path()
    except FileNotFoundError as error:
        pytest.skip(f"the embedded model is not there: {error}")


def test_the_embedded_model_runs_a_program_from_any_folder(tmp_path: Path) -> None:
    needs_pocket()
    text = """
import ramet

@ramet.function
def count(s):
    for branch in s.fork(2):
        branch += "1 2 3 4" + ramet.gen("next", max_tokens=4, temperature=0)
"""
    (tmp_path / "count.py").write_text(text, "utf-8")
    words = [*COMMAND, "run", "count.py", "--json"]
    done = subprocess.run(
        words,
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    calls = json.loads(done.stdout)["calls"]
    assert [call["completion_tokens"] for call in calls] == [4, 4]


def test_the_embedded_model_answers_a_piped_chat() -> None:
    needs_pocket()
    done = invoke("chat", "--max-new-tokens", 8, stdin="Hello\n/exit\n")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip()
