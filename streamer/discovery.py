"""Finds a worker by its name, as `module:Class`, or as `path/to/file.py:Class`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from schemas import dead_letters
from streamer.errors import BadConfig, Usage
from streamer.worker import Worker

GROUP = "streamer.workers"
REQUIRED = ("name", "source", "target", "event", "answer", "example")


def names() -> list[str]:
    """Every installed worker."""
    return sorted(_installed())


def without_windows() -> list[str]:
    """Every installed worker that needs no `streamer windows` beside it."""
    return [name for name in names() if not find(name).windows]


def find(wanted: str) -> type[Worker[Any, Any]]:
    """The worker class that `wanted` names.

    Raises:
        Usage: there is no such worker; the message names the nearest and lists the installed ones.
        BadConfig: the worker cannot be imported, or is not complete.
    """
    entry = _installed().get(wanted)
    spec = entry.value if entry else wanted
    module_name, colon, class_name = spec.rpartition(":")
    if not colon:
        raise Usage(_unknown(wanted))
    module = _from_file(Path(module_name)) if module_name.endswith(".py") else _from_module(module_name)
    return _checked(module, class_name, wanted)


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _unknown(wanted: str) -> str:
    known = names()
    close = get_close_matches(wanted, known, n=1)
    hint = f"did you mean {close[0]}?" if close else "a file of your own is path/to/file.py:Class"
    return f"there is no worker {wanted!r}; {hint} (installed: {', '.join(known) or 'none'})"


def _from_module(name: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # a console script's path does not hold the folder it is called from
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise Usage(f"there is no module {name!r} here or installed; check its name") from None
        raise BadConfig(f"{name} needs {error.name}, which is not installed; install it") from error
    except Exception as error:
        raise BadConfig(f"{name} cannot be imported: {type(error).__name__}: {error}") from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise Usage(f"there is no file {path}; check its path")
    name = f"streamer_file_{path.stem}"  # never the name of a real module: a user's file may be called torch.py
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise BadConfig(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _checked(module: ModuleType, class_name: str, wanted: str) -> type[Worker[Any, Any]]:
    found = getattr(module, class_name, None)
    if not isinstance(found, type) or not issubclass(found, Worker):
        here = [name for name, thing in vars(module).items() if _is_worker(thing)]
        raise Usage(f"{wanted}: there is no worker class {class_name!r}; there is {', '.join(here) or 'none'}")
    if missing := [name for name in REQUIRED if not hasattr(found, name)]:
        raise BadConfig(f"{wanted}: class {class_name} does not define {', '.join(missing)}")
    if found.target in (found.source, dead_letters(found.source)):
        what = "the topic it reads" if found.target == found.source else "the topic of its dead letters"
        raise BadConfig(f"{wanted}: target {found.target} is {what}; name another topic")
    return found


def _is_worker(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, Worker) and thing is not Worker
