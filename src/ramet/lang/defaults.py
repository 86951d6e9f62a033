"""Which backend a program runs on when nobody names one.

Knows the order: the enclosing run's backend, the process's default, the factory that whoever imports the
concrete backends has registered. The language itself imports none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from ramet.backend import Backend
from ramet.config import global_config
from ramet.errors import InvalidRequest, NoBackend
from ramet.lang.run import current_run
from ramet.lang.third_party import adapted

__all__ = ["find_backend", "register_default_backend", "resolve_backend", "set_default_backend"]

_factory: list[Callable[[], Any]] = []


def register_default_backend(factory: Callable[[], Any]) -> None:
    """`factory` is called once per run that has no other backend; it keeps what it made."""
    _factory[:] = [factory]


def set_default_backend(backend: Any) -> None:
    """Programs run on `backend` unless their call names another one. None: the embedded model."""
    global_config.default_backend = backend


def find_backend(backend: Any = None) -> Any:
    """`backend`, the enclosing run's, or the process's default; None without any of them."""
    run = current_run.get()
    for found in (backend, run.backend if run is not None else None, global_config.default_backend):
        if found is not None:
            return _endpoint(found)
    return None


def _endpoint(backend: Any) -> Any:
    """An engine is a backend through its endpoint, a foreign object through its adapter."""
    return adapted(getattr(backend, "endpoint", backend))


def resolve_backend(backend: Any = None) -> Backend:
    """As `find_backend`, falling back on the registered factory."""
    found = find_backend(backend)
    if found is None and _factory:
        found = _endpoint(_factory[0]())
    if found is None:
        raise NoBackend(
            "no backend: pass backend=... to run(), or call set_default_backend() before"
        )
    missing = [
        name for name in ("generate", "score", "hint", "capabilities") if not hasattr(found, name)
    ]
    if missing:
        raise InvalidRequest(
            "backend", found, f"has no {', '.join(missing)}", "implement ramet.backend.Backend"
        )
    return cast(Backend, found)
