"""The rules of the tree: who may import whom, and how large things may be."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = ["schemas", "streamer", "workers", "benchmarks", "tests"]
ENGINE = [
    ["errors", "clock", "garbage", "progress", "stopwatch", "records"],
    [
        "headers",
        "json_limits",
        "kafka_names",
        "redis_url",
        "settings",
        "secret_files",
        "config",
        "pii",
        "encryption",
        "log",
        "metrics",
    ],
    ["derive", "manifest", "signatures", "models", "worker", "panes", "days", "entities", "ports"],
    ["feature_log", "made_again", "event_reader", "codec", "batcher", "ledger", "sharing", "dead_letters", "attempts"],
    [
        "rights",
        "clients",
        "line",
        "rivals",
        "producing",
        "consuming",
        "membership",
        "source",
        "ranged",
        "sink",
        "at_least_once",
        "redis_client",
        "cache",
        "features",
        "graphs",
        "device",
        "runner",
    ],
    ["committer", "intake", "checkpoint", "dispatch", "watchdog", "health", "engine"],
    ["slot", "registry", "app", "windows"],
    ["testing"],
    ["demo", "bench", "cli"],
]
ONE_HOME = {
    "redis": {"redis_client", "cache", "features", "windows", "demo"},
    "faust": {"windows"},
    "prometheus_client": {"metrics", "health", "app", "windows", "testing", "demo", "bench"},
}
SOURCES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def imports(path: Path) -> list[str]:
    """Modules imported where the program runs; those for type checkers alone do not count."""
    tree = ast.parse(path.read_text())
    typing_only = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = []
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def place(name: str) -> int | None:
    return next((number for number, names in enumerate(ENGINE) if name in names), None)


def test_every_engine_module_has_its_place() -> None:
    modules = {path.stem if path.is_file() else path.name for path in (ROOT / "streamer").iterdir()}
    modules -= {"__init__", "__pycache__", "py", "README", "py.typed"}
    assert {name for name in modules if place(name) is None} == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        head = name.split(".")[0]
        if head in LAYERS:
            beside = {layer, head} == {"benchmarks", "tests"}  # both stand at the end
            assert beside or LAYERS.index(head) <= LAYERS.index(layer), f"{layer} imports {name}"
    if layer != "streamer" or (path.name == "__init__.py" and path.parent == ROOT / "streamer"):
        return
    mine = place(path.relative_to(ROOT / "streamer").parts[0].removesuffix(".py"))
    for name in imports(path):
        if name.startswith("streamer.") and (other := place(name.split(".")[1])) is not None:
            assert mine is not None
            assert other <= mine, f"{path.name} imports {name}, which stands below it"


@pytest.mark.parametrize("path", sorted((ROOT / "streamer").rglob("*.py")), ids=lambda path: path.name)
def test_each_foreign_library_has_one_home(path: Path) -> None:
    module = path.relative_to(ROOT / "streamer").parts[0].removesuffix(".py")
    for name in imports(path):
        homes = ONE_HOME.get(name.split(".")[0])
        assert homes is None or module in homes | {"cli"}, f"{module} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.lineno
            assert length <= 70, f"{node.name} has {length} lines"
            assert len(node.args.args + node.args.kwonlyargs) <= 8 or layer_of(path) == "tests", node.name


def layer_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]
