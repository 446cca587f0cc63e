"""Installs the wheel, made from the sdist, into fresh environments of Python 3.11, 3.12 and 3.13:
each with the newest versions that it can have, and with the locked ones. Runs the command line and
the tests there.

  make test-pythons             all tests
  make test-pythons WHAT=smoke  five lines of Python in an empty folder
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
VERSIONS = {"newest": (), "locked": ("-c", str(ROOT / "requirements.lock"))}
FIVE_LINES = """
import numpy, sys, mmv_jax
encoder = mmv_jax.load_encoder(sys.argv[1])
picture = numpy.random.default_rng(0).integers(0, 4096, (90, 70))
seen = encoder.encode(picture, spacing_mm=4.0, unit="raw")
print(mmv_jax.__version__, seen.cls.shape, seen.patches.shape, seen.coords_mm.shape)
"""
TRAINED = ROOT / "tests" / "before" / "run"


def main(what: str = "test") -> int:
    """Runs all environments; returns 1 where one of them failed."""
    failed = []
    with tempfile.TemporaryDirectory(prefix="mmv-pythons-") as text:
        folder = Path(text)
        wheel = build(folder / "dist")
        for python in PYTHONS:
            interpreter = find(python)
            if interpreter is None:
                print(f"Python {python} is not on this machine: skipped.", flush=True)
                continue
            for name, constraints in VERSIONS.items():
                where = folder / f"{python}-{name}"
                if not runs(where, interpreter, wheel, constraints, what):
                    failed.append(f"Python {python}, {name} versions")
                shutil.rmtree(where, ignore_errors=True)  # a gigabyte
    print(f"failed: {', '.join(failed)}" if failed else "passed on every Python that is here")
    return 1 if failed else 0


def build(out: Path) -> Path:
    """The wheel of the sdist of this checkout."""
    uv("build", "--quiet", "--out-dir", str(out), str(ROOT))  # the sdist, and the wheel from it
    return next(out.glob("*.whl"))


def find(version: str) -> str | None:
    """An interpreter of PATH, or of pyenv, where there is one that starts."""
    places = [shutil.which(f"python{version}")]
    places += map(
        str, sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    )
    for place in filter(None, places):
        asked = [place, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        answer = subprocess.run(asked, capture_output=True, text=True)
        if answer.stdout.strip() == version:
            return place
    return None


def runs(where: Path, interpreter: str, wheel: Path, constraints: Sequence[str], what: str) -> bool:
    """Whether installation, command line and tests end well in an environment of their own."""
    begin = time.monotonic()
    uv("venv", "--quiet", "--python", interpreter, str(where))
    python = str(where / "bin" / "python")
    wanted = f"{wheel}[dev]" if what == "test" else str(wheel)
    uv("pip", "install", "--quiet", "--python", python, *constraints, wanted)
    installed = time.monotonic() - begin
    size = sum(file.stat().st_size for file in where.rglob("*") if file.is_file())
    print(f"{where.name}: installed in {installed:.0f} s, {size / 2**30:.2f} GiB", flush=True)
    empty = where / "empty"
    empty.mkdir()
    here = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    here["JAX_PLATFORMS"] = "cpu"
    commands = [
        ([str(where / "bin" / "mmv"), "--version"], empty),
        ([str(where / "bin" / "mmv"), "config", "demo"], empty),
        ([python, "-c", FIVE_LINES, str(TRAINED)], empty),
    ]
    if what == "test":
        # `pytest` and not `python -m pytest`: that would import the checkout and not the wheel
        test = [str(where / "bin" / "pytest"), "-n", "2", "--dist", "loadfile", "-m", "not full"]
        commands.append((test, ROOT))
    return all(
        subprocess.run(words, cwd=folder, env=here).returncode == 0 for words, folder in commands
    )


def uv(*words: str) -> None:
    subprocess.run([str(Path(sys.executable).with_name("uv")), *words], check=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
