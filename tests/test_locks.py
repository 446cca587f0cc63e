"""Every extra has a lock whose versions fit the package, each other, and what JAX asks for."""

import configparser
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
CORE = SETUP["options"]["install_requires"].split("\n")
EXTRAS = {
    name: [line for line in text.split("\n") if not line.startswith("mmv_jax")]
    for name, text in SETUP["options.extras_require"].items()
}
LINUX = default_environment() | {"sys_platform": "linux", "platform_system": "Linux"}


def pins(path: Path) -> dict[str, str]:
    """Name -> version of a lock, of what this Python on Linux takes of it."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    found = {}
    for requirement in (Requirement(line) for line in lines if line):
        if requirement.marker is None or requirement.marker.evaluate(LINUX):
            (pin,) = requirement.specifier
            assert pin.operator == "==", requirement
            found[canonicalize_name(requirement.name)] = pin.version
    return found


def wanted(lines: list[str], extra: str = "") -> list[Requirement]:
    environment = LINUX | {"extra": extra}
    found = [Requirement(line) for line in lines if line.strip()]
    return [r for r in found if r.marker is None or r.marker.evaluate(environment)]


def check(lock: dict[str, str], requirements: list[Requirement]) -> None:
    """That a lock holds a version of each requirement that fits it."""
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        assert name in lock, f"{name} is not locked"
        assert requirement.specifier.contains(lock[name], prereleases=True), requirement


def test_every_extra_of_users_has_a_lock():
    assert {path.stem for path in LOCKS} == EXTRAS.keys() - {"dev"}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_a_lock_holds_what_the_package_and_the_extra_ask_for(path):
    lock = pins(path)
    own = wanted(EXTRAS[path.stem])
    check(lock, wanted(CORE) + own)
    common = pins(ROOT / "requirements.lock")
    other = {name: (lock[name], common[name]) for name in lock.keys() & common.keys()}
    assert not {name: pair for name, pair in other.items() if pair[0] != pair[1]}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_a_lock_holds_the_compiler_that_belongs_to_its_jax(path):
    """JAX's extras name libtpu and the CUDA plugins of its version; ours ask for no other."""
    lock, asked = pins(path), [r for r in wanted(EXTRAS[path.stem]) if r.name == "jax"]
    if version("jax") != lock["jax"]:
        pytest.skip(f"JAX {version('jax')} is installed; the lock holds {lock['jax']}")
    assert all(r.name != "libtpu" for r in wanted(EXTRAS[path.stem]))
    for extra in (extra for requirement in asked for extra in requirement.extras):
        check(lock, wanted(requires("jax") or [], extra))


def test_preflight_compiles_with_the_cuda_of_the_extra():
    here, there = (pins(ROOT / "requirements" / f"{n}.lock") for n in ("preflight-h100", "cuda13"))
    cuda = {name for name in here if "cuda" in name or "nvidia" in name}
    assert {"jax-cuda13-plugin", "nvidia-cuda-nvcc"} <= cuda
    assert {name: here[name] for name in cuda} == {name: there[name] for name in cuda}
