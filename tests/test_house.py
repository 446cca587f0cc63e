"""The house rules: imports run downward (the floors of docs/architecture.md); sizes and names."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "mmv_jax"
FLOORS = [  # a room imports from itself and from lower floors (earlier lines); nothing else
    {"errors", "study", "processes", "missing"},
    {"buckets"},
    {"files", "unsealed", "orbax_buckets", "mirror"},
    {"registry", "plugins", "seals", "parallel"},
    {
        "readers",
        "phantom",
        "ops",
        "metrics",
        "config",
        "chips",
        "provenance",
    },
    {"manifests", "models", "report", "result_folder"},
    {"store", "objectives"},
    {"data", "checkpoint", "outcomes"},
    {"released"},
    {"train", "export", "convert"},
    {"bac", "evaluate", "preflight"},
    {"bench", "compare", "face"},
    {"commands"},
    {"cli"},
]
FLOOR = {room: n for n, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(
    p.relative_to(ROOT)
    for p in ROOT.rglob("*.py")
    if p.parent != ROOT or p.stem not in ("__init__", "__main__")
)


def room_of(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def rooms_imported_by(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            rooms |= {
                name.name.split(".")[1] for name in node.names if name.name.startswith("mmv_jax.")
            }
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path}: relative import")
        elif isinstance(node, ast.ImportFrom) and node.module == "mmv_jax":
            rooms |= {name.name for name in node.names}
        elif (
            isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mmv_jax.")
        ):
            rooms.add(node.module.split(".")[1])
    return rooms


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_run_downward(path):
    here = room_of(path)
    for other in rooms_imported_by(path):
        assert other == here or FLOOR[other] < FLOOR[here], (
            f"{path} imports {other}, which is not below it"
        )


@pytest.mark.parametrize("path", FILES, ids=str)
def test_only_evaluation_and_the_command_line_reach_training(path):
    if room_of(path) == "evaluate" and path.parts[1] != "finetune":
        assert "train" not in rooms_imported_by(path)


# ---- sizes and names: rooms that still break a limit stand in its LEFT, and leave it when they fit

TOPS = ("mmv_jax", "experiments", "launch")
LONG_FUNCTIONS_LEFT: set[str] = set()
LONG_FILES_LEFT: set[str] = set()
CALLS_LEFT: set[str] = set()
TWICE_LEFT: set[str] = set()
PRIVATE_IMPORTS_LEFT: set[str] = set()


def sources(*tops: str) -> list[Path]:
    return sorted(path for top in tops for path in (ROOT.parent / top).rglob("*.py"))


def place_of(path: Path) -> str:
    """The room of a file of the package; the folder of any other."""
    inside = path.relative_to(ROOT.parent)
    return room_of(path.relative_to(ROOT)) if inside.parts[0] == "mmv_jax" else str(inside.parent)


def holds(found: Iterable[tuple[str, str]], left: set[str]) -> None:
    """Nothing of `found` (place, break) lies outside of `left`, and each of `left` is still among
    the places.
    """
    found = list(found)
    assert not [line for place, line in found if place not in left]
    assert not left - {place for place, _ in found}, "fits by now: take it out of its LEFT"


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Without the docstring, which tells shapes, units and errors and may be as long as it needs;
    without decorators.
    """
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        lines -= function.body[0].end_lineno - function.body[0].lineno + 1
    return lines


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def nodes(*kinds: type) -> Iterator[tuple[Path, ast.AST]]:
    for path in sources(*TOPS):
        yield from ((path, node) for node in ast.walk(tree_of(path)) if isinstance(node, kinds))


def test_no_function_is_over_60_lines_beside_its_docstring():
    holds(
        (
            (place_of(path), f"{path}:{node.lineno} {node.name} has {lines_of(node)} lines")
            for path, node in nodes(ast.FunctionDef, ast.AsyncFunctionDef)
            if lines_of(node) > 60
        ),
        LONG_FUNCTIONS_LEFT,
    )


def test_the_lines_of_a_docstring_are_not_counted():
    text = 'def f():\n    """One.\n\n    Two.\n    """\n    return 1\n'
    assert lines_of(ast.parse(text).body[0]) == 2


def test_no_file_is_over_400_lines():
    holds(
        (
            (place_of(path), f"{path} has {count} lines")
            for path in sources(*TOPS, "tests")
            if (count := len(path.read_text().splitlines())) > 400
        ),
        LONG_FILES_LEFT,
    )


def test_no_call_has_more_than_four_positional_arguments():
    holds(
        (
            (place_of(path), f"{path}:{node.lineno} {ast.unparse(node)[:80]}")
            for path, node in nodes(ast.Call)
            if len(node.args) > 4  # a starred argument is one
        ),
        CALLS_LEFT,
    )


def test_no_two_public_classes_of_the_package_have_one_name():
    places: dict[str, list[str]] = {}
    for path in sources("mmv_jax"):
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path))
    holds(
        ((name, f"{name}: {paths}") for name, paths in places.items() if len(paths) > 1),
        TWICE_LEFT,
    )


def test_no_private_name_is_imported_from_another_file():
    holds(
        (
            (place_of(path), f"{path}:{node.lineno} imports {name.name} of {node.module}")
            for path, node in nodes(ast.ImportFrom)
            for name in node.names
            if (node.module or "").split(".")[0] == "mmv_jax"
            and name.name.startswith("_")
            and not name.name.startswith("__")
        ),
        PRIVATE_IMPORTS_LEFT,
    )
