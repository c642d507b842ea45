"""The fault matrix names tests that exist, for every fault."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.faults.matrix import ROWS, Row, node_ids

ROOT = Path(__file__).parents[3]


def functions(path: Path) -> set[str]:
    """The tests of a file."""
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_there_is_a_row_for_every_fault() -> None:
    assert [row.number for row in ROWS] == list(range(1, 25))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.number))
def test_every_row_has_tests_and_a_planted_bug(row: Row) -> None:
    assert row.fault
    assert row.expected
    assert row.tests
    assert row.bug


@pytest.mark.parametrize("name", node_ids())
def test_every_test_that_is_named_exists(name: str) -> None:
    file, _, function = name.partition("::")
    assert (ROOT / file).is_file()
    assert function in functions(ROOT / file)


def test_a_name_of_no_test_is_noticed() -> None:
    """The planted bug: a test that was renamed."""
    assert "test_no_such_test" not in functions(Path(__file__))
