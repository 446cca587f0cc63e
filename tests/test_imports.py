"""Imports come when they are needed: what a command loads before it does anything."""

import ast
import inspect
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from mmv_jax.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "mmv_jax").rglob("*.py"))
# Slow to import, of an extra, or needed for few files: never at the head of a file.
LATE = {
    *("imagecodecs", "highdicom", "SimpleITK", "nrrd", "ray", "pyprevent"),
    *("gcsfs", "s3fs", "efficientnet_lite_pytorch"),
}
READERS = {"pydicom", "nibabel", "pylibjpeg", "mmv_jax.readers.read"}
TRAINING = {"optax", "grain", "mmv_jax.train.loop"}
MODELS = {"jax", "flax", "orbax"}
PLOTS = {"matplotlib", "jinja2"}
TORCH = {"torch", "transformers"}  # at the head of files that are themselves imported late
# command -> what it does without
WITHOUT = {
    "demo": MODELS | READERS | PLOTS | {"pandas", "numpy"},
    "configs": MODELS | READERS | PLOTS | {"pandas", "numpy"},
    "config": MODELS | READERS | PLOTS | {"pandas"},
    "phantom": MODELS | PLOTS | {"pandas", "sklearn"},
    "manifest": MODELS | PLOTS | {"pandas", "sklearn", "tensorstore"},
    "ingest": MODELS | PLOTS | {"sklearn"},
    "inspect": MODELS | READERS | PLOTS | {"sklearn"},
    "preflight": READERS | PLOTS,
    "pretrain": READERS | PLOTS,
    "status": READERS | {"grain"},
    "evaluate": READERS | {"grain"} | TORCH,
    "embed": READERS | TRAINING | PLOTS | {"sklearn"},
    "teach": READERS | TRAINING | PLOTS | {"sklearn"},
    "export": READERS
    | TRAINING
    | PLOTS
    | {"sklearn"},  # it tells the rules of crops, which use pandas
    "bac": TRAINING | PLOTS | {"sklearn"},
}


def test_what_few_need_is_not_imported_at_the_head_of_a_file():
    early = {path.name: {m.split(".")[0] for m in at_the_head(path)} & LATE for path in FILES}
    assert not {name: found for name, found in early.items() if found}


@pytest.mark.parametrize("name", WITHOUT)
def test_a_command_imports_nothing_that_it_does_without(name):
    loaded = {"mmv_jax.cli", *imported_by_command(name)}
    while more := {other for file in map(file_of, loaded) for other in at_the_head(file)} - loaded:
        loaded |= more
    packages = {module.split(".")[0] for module in loaded} | loaded
    assert not packages & (WITHOUT[name] | TORCH)


@pytest.mark.full  # by their own imports: the test before
def test_evaluate_really_loads_no_reader():
    """The libraries' own imports count too."""
    without = sorted(LATE | WITHOUT["evaluate"])
    code = f"import sys, mmv_jax.evaluate.run; print([m for m in {without} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def imported_by_command(name: str) -> set[str]:
    """What the function of a command imports, and those of its file that it calls."""
    run = COMMANDS[name][1]
    module = inspect.getmodule(run)
    own = {
        node.name: node
        for node in ast.parse(Path(module.__file__).read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    waiting, seen, found = [run.__name__], set(), set()
    while waiting:
        function = waiting.pop()
        seen.add(function)
        found |= modules_of(ast.walk(own[function]))
        called = {node.id for node in ast.walk(own[function]) if isinstance(node, ast.Name)}
        waiting += sorted((called & own.keys()) - seen)
    return found


@cache
def at_the_head(path: Path | None) -> frozenset[str]:
    """What a file imports when it is imported itself."""
    if path is None:
        return frozenset()
    waiting, head = list(ast.parse(path.read_text()).body), []
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        head.append(node)
        waiting += ast.iter_child_nodes(node)
    return frozenset(modules_of(head))


def modules_of(nodes) -> set[str]:
    """Full names of the modules that the import statements among nodes name."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            inside = {f"{node.module}.{name.name}" for name in node.names}
            names |= {name for name in inside if file_of(name)}
    return names


def file_of(module: str) -> Path | None:
    """The file of a module of this package."""
    if module.split(".")[0] != "mmv_jax":
        return None
    plain = ROOT / f"{module.replace('.', '/')}.py"
    package = plain.with_suffix("") / "__init__.py"
    return next((path for path in (plain, package) if path.is_file()), None)
