"""The table of docs/reliability.md names tests that exist, and every test of these files' kinds."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = re.compile(r"^\| .* \| `(tests/\S+\.py)::(\w+)` \|$", re.MULTILINE)


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {function.name for function in functions if function.name.startswith("test_")}


def test_every_test_that_the_table_names_is_there():
    named = TABLE.findall((ROOT / "docs" / "reliability.md").read_text())
    assert len(named) > 60
    assert not [f"{file}::{test}" for file, test in named if test not in names_in(ROOT / file)]
