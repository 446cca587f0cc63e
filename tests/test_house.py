"""The floors of docs/architecture.md: imports run downward."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "mmv_jax"
FLOORS = [  # a room imports from itself and from lower floors (earlier lines); nothing else
    {"errors", "study", "processes", "files", "missing"},
    {"registry", "plugins"},
    {"readers", "phantom", "ops", "metrics", "parallel", "report", "config"},
    {"manifests", "models"},
    {"store", "objectives"},
    {"data", "checkpoint", "outcomes"},
    {"train", "export"},
    {"bac", "evaluate", "preflight"},
    {"bench", "face"},
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
