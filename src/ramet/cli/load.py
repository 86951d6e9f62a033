"""From `FILE[:PROGRAM]` and `--arg name=value` to a program and its arguments.

Knows files, modules and signatures. Every mistake that a user can make here is a `UsageError` that says
what to type instead; an exception of the file's own code is left alone, it belongs to its author.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from ramet.cli.failure import UsageError
from ramet.lang.program import SglFunction

__all__ = [
    "call_arguments",
    "load_module",
    "parse_arguments",
    "pick_program",
    "program_name",
    "split_target",
]

MAIN = "main"
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def split_target(target: str) -> tuple[Path, str | None]:
    """ "a/b.py:ask" -> (a/b.py, "ask"); without a name, None."""
    file, colon, name = target.rpartition(":")
    if colon and file and name.isidentifier() and not Path(target).is_file():
        return Path(file), name
    return Path(target), None


def load_module(path: Path) -> ModuleType:
    """Run a file as a module. Its folder comes first on `sys.path`, as `python FILE` has it."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a Python file in it")
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        hint = f"; {path.parent}/ has {', '.join(near[:12])}" if near else ""
        raise UsageError(f"there is no file {path}{hint}")
    if path.suffix != ".py":
        raise UsageError(f"{path} is not a Python file (its name does not end in .py)")
    path = path.resolve()
    sys.path.insert(0, str(path.parent))
    # A name of its own: a program in "json.py" must not become what others get by `import json`.
    name = f"ramet_program_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} cannot be loaded as a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and typing look their module up
    spec.loader.exec_module(module)
    return module


def pick_program(module: ModuleType, name: str | None) -> SglFunction:
    """The program that `name` names. Without a name: `main`, the one named like its file, or the only
    one."""
    file = Path(module.__file__ or "").name
    own = dict(_programs(module))
    if name is not None:
        named = getattr(module, name, None)
        if isinstance(named, SglFunction):
            return named
        if named is not None:
            raise UsageError(f"{name} in {file} is not a program: it lacks @ramet.function")
        raise UsageError(f"{file} has no program {name}; it has {_listed(own)}")
    if not own:
        raise UsageError(
            f"{file} has no program: nothing in it is decorated with @ramet.function "
            f"(to run it as a plain script: python {file})"
        )
    if len(own) == 1:
        return next(iter(own.values()))
    for usual in (MAIN, Path(file).stem):
        if usual in own:
            return own[usual]
    first = next(iter(own))
    raise UsageError(
        f"{file} has {len(own)} programs: {_listed(own)}; name one, for example {file}:{first}"
    )


def _programs(module: ModuleType) -> Iterable[tuple[str, SglFunction]]:
    """Those defined in the file; if there are none, those that it imports. One with two names counts
    once."""
    found = {n: p for n, p in vars(module).items() if isinstance(p, SglFunction)}
    once: dict[int, str] = {}
    for name, program in found.items():
        once.setdefault(id(program), name)
    names = list(once.values())
    own = [n for n in names if getattr(found[n].func, "__module__", None) == module.__name__]
    return [(n, found[n]) for n in own or names]


def parse_arguments(program: SglFunction, pairs: Iterable[str]) -> dict[str, Any]:
    """`name=value` pairs as keyword arguments: JSON where it parses and the parameter is not annotated as
    a string, text otherwise. All that the program needs must be there."""
    parameters = _parameters(program)
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, raw = pair.partition("=")
        if not equals:
            raise UsageError(f"--arg {pair!r} is not of the form name=value")
        if name in values:
            raise UsageError(f"--arg {name} is given twice")
        if name not in parameters and not _takes_any(program):
            takes = _signature_text(parameters)
            raise UsageError(f"{program_name(program)} has no parameter {name}; it takes {takes}")
        values[name] = _value(raw, parameters.get(name))
    missing = [n for n, p in parameters.items() if p.default is p.empty and n not in values]
    if missing:
        asked = " ".join(f"--arg {n}=..." for n in missing)
        raise UsageError(f"{program_name(program)} needs {', '.join(missing)}: add {asked}")
    return values


def call_arguments(
    program: SglFunction, values: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`values` as they go into `run`: by position where that is possible, because a parameter may have
    the name of one of `run`'s own options (`n`, say), and by keyword it would be taken for that."""
    if program.bind_arguments:
        return (), values
    bound = inspect.Signature(_every_parameter(program)).bind(**values)
    bound.apply_defaults()
    return bound.args, bound.kwargs


def program_name(program: SglFunction) -> str:
    return getattr(program.func, "__name__", "program")


def _parameters(program: SglFunction) -> dict[str, inspect.Parameter]:
    """The program's own parameters, without the state and those that are bound already."""
    every, bound = _every_parameter(program), program.bind_arguments
    return {p.name: p for p in every if p.kind not in _VARIADIC and p.name not in bound}


def _every_parameter(program: SglFunction) -> list[inspect.Parameter]:
    return list(inspect.signature(program.func).parameters.values())[1:]


def _takes_any(program: SglFunction) -> bool:
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in _every_parameter(program))


def _value(raw: str, parameter: inspect.Parameter | None) -> Any:
    if parameter is not None and parameter.annotation in (str, "str"):
        return raw
    try:
        return json.loads(raw)
    except ValueError:
        return raw


def _signature_text(parameters: dict[str, inspect.Parameter]) -> str:
    if not parameters:
        return "no arguments"
    return ", ".join(
        n if p.default is p.empty else f"{n}={p.default!r}" for n, p in parameters.items()
    )


def _listed(programs: Iterable[str]) -> str:
    return ", ".join(programs) or "no programs"
