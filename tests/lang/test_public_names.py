"""The names that programs import, where they import them from."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import ramet

PUBLIC = [
    "function",
    "gen",
    "select",
    "gen_int",
    "gen_string",
    "image",
    "video",
    "system",
    "user",
    "assistant",
    "system_begin",
    "system_end",
    "user_begin",
    "user_end",
    "assistant_begin",
    "assistant_end",
    "separate_reasoning",
    "set_default_backend",
    "flush_cache",
    "get_server_info",
    "token_length_normalized",
    "greedy_token_selection",
    "unconditional_likelihood_normalized",
    "global_config",
    "__version__",
]

PATHS = {
    "lang.ir": """REGEX_INT REGEX_FLOAT REGEX_BOOL REGEX_STR REGEX_JSON_STR SglSamplingParams SglExpr SglExprList
        SglConstantText SglArgument SglGen SglSelect SglVariable SglFork SglGetForkItem SglRoleBegin
        SglRoleEnd SglVarScopeBegin SglVarScopeEnd SglImage SglVideo SglConcateAndAppend SglCommitLazy
        SglSeparateReasoning""",
    "lang.choices": "ChoicesDecision ChoicesSamplingMethod token_length_normalized",
    "lang.chat_template": """ChatTemplate get_chat_template get_chat_template_by_model_path
        register_chat_template register_chat_template_matching_function""",
    "lang.interpreter": "ProgramState StreamExecutor ProgramStateGroup",
    "lang.global_config": "global_config",
    "global_config": "global_config",
    "utils": "read_jsonl dump_state_text",
    "test.test_utils": "add_common_sglang_args_and_parse select_sglang_backend",
}


def test_top_level_names() -> None:
    assert [name for name in PUBLIC if not hasattr(ramet, name)] == []


@pytest.mark.parametrize("path", PATHS)
def test_submodules(path: str) -> None:
    module = importlib.import_module(f"ramet.{path}")
    assert [name for name in PATHS[path].split() if not hasattr(module, name)] == []


def test_settings() -> None:
    from ramet.global_config import global_config
    from ramet.lang.global_config import global_config as same

    assert ramet.global_config is global_config is same
    assert (global_config.verbosity, global_config.enable_parallel_encoding) == (0, True)


def test_names_that_are_not_there_say_so() -> None:
    assert not hasattr(ramet, "no_such_name")
    assert not hasattr(ramet, "LiteLLM")
    with pytest.raises(AttributeError, match="use OpenAI"):
        ramet.LiteLLM  # noqa: B018
    for name in ("OpenAI", "Anthropic", "Runtime", "RuntimeEndpoint", "ServerArgs", "VertexAI"):
        hasattr(ramet, name)  # is there or is not, but does not raise


def test_signatures() -> None:
    names = list(inspect.signature(ramet.gen).parameters)
    assert names[:4] == ["name", "max_tokens", "min_tokens", "n"]
    assert names[18:23] == ["dtype", "choices", "choices_method", "regex", "json_schema"]
    short = list(inspect.signature(ramet.gen_int).parameters)
    assert short == [n for n in names[:18] if n != "min_tokens"]
    assert short == list(inspect.signature(ramet.gen_string).parameters)
    run = inspect.signature(ramet.SglFunction.run)
    assert list(run.parameters)[:6] == [
        "self",
        "args",
        "max_new_tokens",
        "n",
        "stop",
        "stop_token_ids",
    ]
    assert run.parameters["max_new_tokens"].default == 128


def test_expressions_show_themselves() -> None:
    expression = "a" + ramet.gen("x") + ramet.select("y", ["1"]) + ramet.user("u")
    assert repr(expression) == (
        "ExprList([Constant('a'), Gen('x'), Select('y', choices=['1']), RoleBegin(user), "
        "Constant('u'), RoleEnd(user)])"
    )
    reasoning = ramet.separate_reasoning(ramet.assistant(ramet.gen("x")), "qwen3")
    assert repr(reasoning.expr_list[-1]) == (
        "SeparateReasoning(model_type=qwen3, name=x_reasoning_content)"
    )
    with pytest.raises(ValueError, match="name the generation"):
        ramet.separate_reasoning(ramet.gen(), "qwen3")


def test_importing_is_light() -> None:
    code = (
        "import sys, json; before = set(sys.modules); import ramet;"
        "print(json.dumps(sorted(m.split('.')[0] for m in set(sys.modules) - before)))"
    )
    source = str(Path(ramet.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env={"PYTHONPATH": source}
    )
    loaded = set(json.loads(done.stdout))
    assert loaded <= set(sys.stdlib_module_names) | {"ramet"}


def test_helpers_of_benchmark_scripts(tmp_path: Path) -> None:
    from ramet.utils import dump_state_text, read_jsonl

    lines = tmp_path / "lines.jsonl"
    lines.write_text('# comment\n{"a": 1}\n\n[2]\n')
    assert list(read_jsonl(str(lines))) == [{"a": 1}, [2]]

    @ramet.function
    def program(s):
        s += "text of it"

    from ramet.backends.scripted import Scripted

    out = tmp_path / "out.txt"
    dump_state_text(str(out), [program.run(backend=Scripted()), "second"])
    dump_state_text(str(out), ["third"], mode="a")
    text = out.read_text()
    assert [text.count(word) for word in ("text of it", "second", "third", "= 0 =", "= 1 =")] == [
        1,
        1,
        1,
        2,
        1,
    ]


def test_the_command_line_of_benchmark_scripts(monkeypatch) -> None:
    import argparse

    from ramet.test.test_utils import add_common_sglang_args_and_parse, select_sglang_backend

    monkeypatch.setattr(sys, "argv", ["bench", "--backend", "other", "--parallel", "3"])
    args = add_common_sglang_args_and_parse(argparse.ArgumentParser())
    assert (args.parallel, args.port, args.result_file) == (3, 30000, "result.jsonl")
    with pytest.raises(ValueError, match="other"):
        select_sglang_backend(args)
