"""The import levels: who may know whom.

`ROOMS` is the architecture as a table. The checks read the source only (by `ast`: also imports inside
functions and under TYPE_CHECKING, and `importlib.import_module("literal")`), so they see what no test
run happens to execute. The second half of this file runs the checks on small sources that break them.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"

LEVEL_0 = (
    "ramet.errors",
    "ramet.params",
    "ramet.prompt",
    "ramet.backend",
    "ramet.config",
    "ramet.build",
)


@dataclass(frozen=True)
class Room:
    """`name` is a module or a package; the longest name that fits a module is its room.

    `knows`: the other rooms that it may import, each by name. `parts`: packages of others that it may
    import, besides the standard library. `optional`: those that it may import inside functions only,
    because it does without them where they are not installed. `torch_free`: importing it must not
    bring torch, whatever it imports on the way.
    """

    name: str
    knows: tuple[str, ...]
    parts: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    torch_free: bool = True


CACHE = ("ramet.cache", "ramet.cache.pool")
KERNELS = ("ramet.kernels", "ramet.kernels.plan")
ENGINE = ("ramet.engine", "ramet.engine.runner", "ramet.engine.sampler")
LOCAL = ("ramet.backends.local", "ramet.backends.endpoint", "ramet.backends.native")
REMOTE = (
    "ramet.backends",
    "ramet.backends.remote",
    "ramet.backends.remote_http",
    "ramet.backends.remote_template",
    "ramet.backends.runtime_process",
)
EVERYTHING = ("ramet",)

ROOMS = (
    # ---- level 0: words and records -----------------------------------------------------------
    *(Room(name, LEVEL_0) for name in LEVEL_0),
    # ---- what a program is: knows backends only by protocol ------------------------------------
    Room("ramet.lang", LEVEL_0, optional=("rich", "pydantic", "PIL")),
    Room("ramet.compiler", (*LEVEL_0, "ramet.lang")),
    # ---- what a program did: knows the language's records, never what runs models ---------------
    Room("ramet.observe", (*LEVEL_0, "ramet.lang"), optional=("opentelemetry",)),
    # ---- what the next token may be, and where keys and values lie -----------------------------
    Room("ramet.constraints", LEVEL_0, ("numpy", "llguidance"), ("jsonschema_rs",)),
    Room("ramet.cache", LEVEL_0, ("numpy",)),
    Room("ramet.cache.pool", (*LEVEL_0, "ramet.cache"), ("numpy", "torch"), torch_free=False),
    # ---- arithmetic: knows rows, positions and slots -------------------------------------------
    Room("ramet.kernels.plan", (), ("numpy",)),
    Room(
        "ramet.kernels",
        (*LEVEL_0, "ramet.kernels.plan", "ramet.kernels.triton"),
        ("numpy", "torch"),
        torch_free=False,
    ),
    Room(
        "ramet.kernels.triton",
        (*LEVEL_0, "ramet.kernels.plan", "ramet.kernels.triton.tiles"),
        ("numpy", "torch", "triton"),
        torch_free=False,
    ),
    Room("ramet.kernels.triton.tiles", ("ramet.kernels.plan",), ("numpy",)),
    # ---- forward passes: never the engine ------------------------------------------------------
    Room(
        "ramet.models",
        (*LEVEL_0, *KERNELS, "ramet.cache.pool"),
        ("numpy", "torch", "safetensors"),
        torch_free=False,
    ),
    # ---- the step loop: never lang, backends, cli; torch in three files, the rest by simulation -
    Room(
        "ramet.engine",
        (*LEVEL_0, "ramet.cache", "ramet.constraints", "ramet.kernels.plan"),
        ("numpy", "tokenizers", "jinja2", "re2"),
    ),
    Room(
        "ramet.engine.runner",
        (*LEVEL_0, *ENGINE, *CACHE, *KERNELS, "ramet.models"),
        ("numpy", "torch"),
        torch_free=False,
    ),
    Room(
        "ramet.engine.sampler",
        (*LEVEL_0, *ENGINE, *KERNELS),
        ("numpy", "torch"),
        torch_free=False,
    ),
    Room(  # from options to a running core: knows every part of an engine
        "ramet.engine.assemble",
        (*LEVEL_0, *ENGINE, *CACHE, *KERNELS, "ramet.models"),
        ("torch",),
        torch_free=False,
    ),
    # ---- what runs models: never lang; the engine's own only by its torch-free modules ----------
    Room("ramet.backends", LEVEL_0, optional=("jsonschema_rs", "jsonschema", "referencing")),
    *(  # the vendors' SDKs, each in the one file that is about it
        Room(f"ramet.backends.{name}", (*LEVEL_0, "ramet.backends"), optional=(sdk,))
        for name, sdk in (("openai", "openai"), ("anthropic", "anthropic"), ("gemini", "google"))
    ),
    *(
        Room(
            name,
            (
                *LEVEL_0,
                *LOCAL,
                "ramet.engine",
                "ramet.engine.assemble",
                "ramet.kernels.plan",
                "ramet.pocket",
            ),
            ("numpy",),
        )
        for name in LOCAL
    ),
    # ---- servers elsewhere: HTTP in one file, the engine's template reader in one ---------------
    Room("ramet.backends.remote_http", (*LEVEL_0, "ramet.backends"), ("httpx",)),
    Room("ramet.backends.remote_template", (*LEVEL_0, "ramet.engine")),
    Room("ramet.backends.remote", (*LEVEL_0, *REMOTE)),
    Room(
        "ramet.backends.runtime_process",
        (*LEVEL_0, *REMOTE, "ramet.engine", "ramet.pocket"),
    ),
    Room(  # old paths of backends
        "ramet.lang.backend",
        (
            *LEVEL_0,
            *REMOTE,
            "ramet.backends.openai",
            "ramet.backends.anthropic",
            "ramet.backends.gemini",
            "ramet.lang",
        ),
    ),
    # ---- the embedded model: its data generator and its training -------------------------------
    Room("ramet.pocket.skills", ()),
    Room(
        "ramet.pocket",
        (*LEVEL_0, "ramet.pocket.skills"),
        ("numpy", "torch", "tokenizers", "safetensors"),
        torch_free=False,
    ),
    # ---- the server: everything but the language ----------------------------------------------
    Room(
        "ramet.server",
        (
            *LEVEL_0,
            *CACHE,
            *KERNELS,
            *ENGINE,
            *LOCAL,
            "ramet.backends",
            "ramet.backends.remote_template",
            "ramet.constraints",
            "ramet.observe",
            "ramet.pocket",
            "ramet.server",
        ),
        ("numpy", "msgspec", "starlette", "uvicorn", "uvloop", "httptools", "prometheus_client"),
    ),
    Room("ramet.launch_server", (*LEVEL_0, "ramet.server", "ramet.cli")),
    # ---- the faces -----------------------------------------------------------------------------
    Room("ramet", EVERYTHING),
    Room("ramet.api", EVERYTHING),  # the old path of the public names
    Room("ramet.global_config", LEVEL_0),  # this and the next two: old paths that programs import
    Room("ramet.utils", (*LEVEL_0, "ramet.lang")),
    Room("ramet.test", (*LEVEL_0, "ramet.lang", "ramet.utils")),
    Room("ramet.cli", EVERYTHING, ("typer", "click", "rich")),
)

# Ways in which data becomes code.
BANNED_MODULES = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve")
BANNED_BUILTINS = ("eval", "exec", "__import__")
BANNED_CALLS = (
    "torch.load",
    "torch.hub",
    "torch.jit.load",
    "torch.package",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
)
# Where a module may be imported by a name that is computed: the lazy names of `import ramet`.
MAY_COMPUTE_IMPORTS = ("ramet",)


# ---- reading one source -------------------------------------------------------------------------


@dataclass(frozen=True)
class Import:
    """`name` is what is imported in full: "ramet.lang.state" and also "ramet.lang.state.State"."""

    name: str
    line: int
    at_import_time: bool


@dataclass(frozen=True)
class Source:
    module: str
    tree: ast.Module
    is_package: bool = False

    @classmethod
    def of(cls, module: str, text: str, is_package: bool = False) -> Source:
        return cls(module, ast.parse(text), is_package)


@functools.cache
def imports(source: Source) -> tuple[Import, ...]:
    lazy = _lines_run_later(source.tree)
    return tuple(
        Import(name, node.lineno, node.lineno not in lazy)  # type: ignore[attr-defined]
        for node in ast.walk(source.tree)
        for name in _imported_names(node, source)
    )


def _imported_names(node: ast.AST, source: Source) -> Iterable[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = _absolute(node, source)
        return [base if alias.name == "*" else f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and _is_import_module(node.func) and node.args:
        name = node.args[0]
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            return [name.value]
    return []


def _absolute(node: ast.ImportFrom, source: Source) -> str:
    if not node.level:
        return node.module or ""
    up = node.level - (1 if source.is_package else 0)
    parts = source.module.split(".")
    base = parts[: len(parts) - up]
    return ".".join([*base, *([node.module] if node.module else [])])


def _is_import_module(func: ast.expr) -> bool:
    return (isinstance(func, ast.Attribute) and func.attr == "import_module") or (
        isinstance(func, ast.Name) and func.id == "import_module"
    )


def _lines_run_later(tree: ast.Module) -> set[int]:
    """Lines that importing the module does not run: function bodies and `if TYPE_CHECKING`."""
    later: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            later.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            later.update(range(node.lineno, (node.body[-1].end_lineno or node.lineno) + 1))
    return later


# ---- the checks ---------------------------------------------------------------------------------


def within(name: str, parent: str) -> bool:
    return name == parent or name.startswith(parent + ".")


def room_of(module: str) -> Room | None:
    """The room with the longest name that fits. `ramet` is the room of `import ramet` alone, so that
    a new module is not let in without a line in the table."""
    fits = [room for room in ROOMS if within(module, room.name)]
    best = max(fits, key=lambda room: len(room.name), default=None)
    return None if best is not None and best.name == "ramet" and module != "ramet" else best


def level_faults(source: Source) -> list[str]:
    room = room_of(source.module)
    if room is None:
        return [f"{source.module} has no room: give it a line in ROOMS"]
    return [
        f"{source.module}:{found.line} imports {found.name}, which {room.name} may not know"
        for found in imports(source)
        if not _allowed(room, found)
    ]


def _allowed(room: Room, found: Import) -> bool:
    name = found.name
    top = name.split(".")[0]
    if top in room.optional:
        return not found.at_import_time
    if top != "ramet":
        return top in sys.stdlib_module_names or top in room.parts
    if room.knows == EVERYTHING or name == "ramet.__version__":
        return True
    target = room_of(name)
    return target is not None and target.name in (room.name, *room.knows)


def ban_faults(source: Source) -> list[str]:
    faults = [
        f"{source.module}:{found.line} imports {found.name}: it runs code that comes as data"
        for found in imports(source)
        if any(within(found.name, banned) for banned in (*BANNED_MODULES, *BANNED_CALLS))
    ]
    aliases = _aliases(source)
    for node in ast.walk(source.tree):
        fault = _expression_fault(node, source, aliases)
        if fault:
            faults.append(f"{source.module}:{node.lineno} {fault}")  # type: ignore[attr-defined]
    return faults


def _expression_fault(node: ast.AST, source: Source, aliases: dict[str, str]) -> str:
    if isinstance(node, ast.Name) and node.id in BANNED_BUILTINS:
        return f"uses {node.id}"
    if isinstance(node, ast.Attribute):
        name = _dotted(node, aliases)
        if name in BANNED_CALLS or name in tuple(f"builtins.{b}" for b in BANNED_BUILTINS):
            return f"uses {name}"
    if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
        harmless = isinstance(node.value, ast.Constant) and node.value.value is False
        return "" if harmless else "lets numpy unpickle"
    if isinstance(node, ast.Call) and _is_import_module(node.func):
        literal = node.args and isinstance(node.args[0], ast.Constant)
        if not literal and source.module not in MAY_COMPUTE_IMPORTS:
            return "imports a module by a computed name, which this test cannot read"
    return ""


def _aliases(source: Source) -> dict[str, str]:
    """What local names stand for: `import numpy as np` gives {"np": "numpy"}."""
    names: dict[str, str] = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            names |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, source)
            names |= {a.asname or a.name: f"{base}.{a.name}" for a in node.names}
    return names


def _dotted(node: ast.expr, aliases: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return aliases.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, aliases)}.{node.attr}"
    return ""


def ways_to_torch(sources: dict[str, Source], start: str) -> list[str]:
    """The chain of imports, all run at import time, by which `start` brings torch; [] if none does."""
    chains = [[start]]
    seen = {start}
    while chains:
        chain = chains.pop(0)
        for found in imports(sources[chain[-1]]):
            if not found.at_import_time:
                continue
            if within(found.name, "torch"):
                return [*chain, "torch"]
            for module in _runs(found.name, sources):
                if module not in seen:
                    seen.add(module)
                    chains.append([*chain, module])
    return []


def _runs(name: str, sources: dict[str, Source]) -> list[str]:
    """The modules of ours that importing `name` runs: it and the packages around it."""
    parts = name.split(".")
    above = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return [module for module in above if module in sources]


# ---- the checks on this tree --------------------------------------------------------------------


def our_sources() -> dict[str, Source]:
    found = {}
    for path in sorted((SOURCE / "ramet").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        found[module] = Source.of(module, path.read_text("utf-8"), is_package)
    return found


OURS = our_sources()


@pytest.mark.parametrize("module", OURS)
def test_module_imports_only_what_its_level_may_know(module: str) -> None:
    assert level_faults(OURS[module]) == []


@pytest.mark.parametrize("module", OURS)
def test_module_has_no_way_to_run_data_as_code(module: str) -> None:
    assert ban_faults(OURS[module]) == []


def test_torch_free_rooms_do_not_bring_torch() -> None:
    free = [name for name in OURS if (room := room_of(name)) is not None and room.torch_free]
    assert len(free) >= len(LEVEL_0)
    chains = [ways_to_torch(OURS, name) for name in free]
    assert [" -> ".join(chain) for chain in chains if chain] == []


def test_no_module_is_a_drawer_for_leftovers() -> None:
    drawers = {"utils", "util", "helpers", "misc", "common"}
    assert [m for m in OURS if m.split(".")[-1] in drawers and m != "ramet.utils"] == []


def test_every_room_in_the_table_names_a_different_place() -> None:
    names = [room.name for room in ROOMS]
    assert len(names) == len(set(names))


# ---- the checks can fail ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("ramet.errors", "import numpy"),
        ("ramet.lang.state", "import torch"),
        ("ramet.lang.state", "def f():\n    from ramet.backends.local import Engine"),
        ("ramet.lang.state", "import importlib\nimportlib.import_module('ramet.engine.loop')"),
        ("ramet.lang.state", "if TYPE_CHECKING:\n    from ramet.engine import request"),
        ("ramet.lang.state", "from ..engine import request"),
        ("ramet.lang.state", "from ramet import Engine"),
        ("ramet.lang.show", "import rich"),
        ("ramet.cache.tree", "import torch"),
        ("ramet.cache.tree", "from ramet.cache.pool import Pool"),
        ("ramet.cache.tree", "from ramet.cache import pool"),
        ("ramet.cache.tree", "from .pool import Pool"),
        ("ramet.kernels.reference", "import ramet.models.llama"),
        ("ramet.kernels.plan", "import torch"),
        ("ramet.models.llama", "from ramet.engine.request import Request"),
        ("ramet.models.llama", "from ramet.cache.tree import RadixTree"),
        ("ramet.engine.schedule", "import torch"),
        ("ramet.engine.schedule", "from ramet.engine.runner import Runner"),
        ("ramet.engine.schedule", "from ramet.kernels import reference"),
        ("ramet.engine.runner", "from ramet.lang import gen"),
        ("ramet.engine.runner", "from ramet.backends.local import Engine"),
        ("ramet.backends.scripted", "from ramet.lang import gen"),
        ("ramet.backends.scripted", "import ramet.engine.loop"),
        ("ramet.backends.local", "from ramet.engine.runner import Runner"),
        ("ramet.pocket.skills.words", "import numpy"),
        ("ramet.newroom", "x = 1"),
    ],
)
def test_a_broken_level_is_found(module: str, text: str) -> None:
    assert len(level_faults(Source.of(module, text))) == 1


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("ramet.lang.state", "import asyncio\nfrom ramet.errors import RametError"),
        ("ramet.lang.state", "from . import choices\nfrom .choices import select"),
        ("ramet.lang.show", "def f():\n    from rich.text import Text"),
        ("ramet.cache.pool", "import torch\nfrom ramet.errors import InvalidRequest"),
        ("ramet.engine.schedule", "from ramet.cache.tree import RadixTree\nimport numpy as np"),
        ("ramet.engine.schedule", "from ramet.kernels.plan import AttentionPlan"),
        ("ramet.engine.runner", "from ramet.models import llama\nfrom ramet.cache import pool"),
        ("ramet.backends.local", "def f():\n    from ramet.engine.assemble import assemble"),
        ("ramet.cli", "from ramet import Engine\nimport rich\nfrom ramet.lang import gen"),
    ],
)
def test_a_kept_level_is_let_through(module: str, text: str) -> None:
    assert level_faults(Source.of(module, text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "def f():\n    from pickle import loads",
        "import marshal",
        "import shelve",
        "eval('1')",
        "run = exec",
        "import builtins\nbuiltins.eval('1')",
        "__import__('os')",
        "import torch\ntorch.load('x')",
        "import torch as t\nt.load('x')",
        "from torch import load",
        "from yaml import load",
        "import yaml as y\ny.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import importlib\nimportlib.import_module(name)",
    ],
)
def test_data_run_as_code_is_found(text: str) -> None:
    assert ban_faults(Source.of("ramet.models.weights", text)) != []


def test_harmless_namesakes_are_let_through() -> None:
    text = "import re, json\nmodel.eval()\nre.compile('x')\njson.load(f)\nmodel.load(x)\nfrom a import b"
    assert ban_faults(Source.of("ramet.models.weights", text)) == []


def test_a_way_to_torch_is_found_through_packages() -> None:
    texts = {
        "ramet": "",
        "ramet.lang": "from ramet.lang.state import State",
        "ramet.lang.state": "import ramet.cache.tree",
        "ramet.cache": "from ramet.cache import pool",
        "ramet.cache.tree": "def f():\n    import torch",
        "ramet.cache.pool": "import torch",
    }
    sources = {name: Source.of(name, text) for name, text in texts.items()}
    chain = ways_to_torch(sources, "ramet.lang")
    assert chain == ["ramet.lang", "ramet.lang.state", "ramet.cache", "ramet.cache.pool", "torch"]
    sources["ramet.cache"] = Source.of("ramet.cache", "def f():\n    from ramet.cache import pool")
    assert ways_to_torch(sources, "ramet.lang") == []
