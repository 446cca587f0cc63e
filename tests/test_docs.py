"""The documentation: its sentences, its code, its links, and how it looks in a browser."""

import ast
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from mmv_jax.cli import main

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
HISTORY = {"log.md"}  # and CHANGELOG.md, which lies elsewhere
PAGES = sorted([ROOT / "README.md", *(p for p in DOCS.rglob("*.md") if p.name not in HISTORY)])
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
LONG_SENTENCE, LONG_PARAGRAPH, WIDE = 35, 120, 120
FEW_TASKS = "\"--config.only=('cxr_heart', 'ct_heart')\""
SHARE_OF_LONG = 0.03
FEWEST_BLOCKS = 40
FEWEST_COMMENTS = 0.04  # of the package's lines


def prose(page: Path) -> list[str]:
    """The paragraphs and list items of a page, without code, tables and headings."""
    text = re.sub(r"<!--.*?-->", "", page.read_text(), flags=re.DOTALL)
    text = re.sub(r"^( *)```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)
    parts: list[list[str]] = [[]]
    for line in text.splitlines():
        bare = line.strip()
        if not bare or bare.startswith(("#", "|", "!", "    ")) or line.startswith("    "):
            parts.append([])
        elif re.match(r"([-*]|\d+\.) ", bare):
            parts.append([bare])
        else:
            parts[-1].append(bare)
    return [" ".join(part) for part in parts if part]


def sentences(paragraph: str) -> list[str]:
    """A sentence ends at a full stop, a question mark or an exclamation mark before a space."""
    plain = re.sub(r"`[^`]*`", "code", paragraph)
    return [part for part in re.split(r"(?<=[.!?])\s+", plain) if part]


def test_few_sentences_are_long():
    every = [s for page in PAGES for paragraph in prose(page) for s in sentences(paragraph)]
    long = [s for s in every if len(s.split()) > LONG_SENTENCE]
    assert len(long) <= SHARE_OF_LONG * len(every), long


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_paragraph_is_long_and_no_line_is_wide(page):
    assert not [p for p in prose(page) if len(p.split()) > LONG_PARAGRAPH]
    wide = [
        (number, line)
        for number, line in enumerate(page.read_text().splitlines(), start=1)
        if len(line) > WIDE and not line.lstrip().startswith("|")
    ]
    assert not wide


class Block(NamedTuple):
    """A block of code, and what the comment above it says of its test."""

    when: str  # "quick" and "full" are run, "no" is not; "" outside of tutorials
    more: str  # words added to a command, so that it is done in moments; of "no" the reason
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The blocks of code of a page. A tutorial marks each of them:
    `<!-- test: full, --config.steps=4 -->`, `<!-- test: no, it needs a pod -->`.
    """
    found = re.findall(
        r"(?:^<!-- test: (\w+)(?:, ([^\n]*))? -->\n)?^```(\w+)[^\n]*\n(.*?)^```$",
        page.read_text(),
        flags=re.DOTALL | re.MULTILINE,
    )
    return [Block(*parts) for parts in found]


def test_there_is_code_to_copy():
    found = [block for page in PAGES for block in blocks(page)]
    assert len(found) >= FEWEST_BLOCKS


def test_comments_are_a_share_of_the_lines():
    lines = [
        line.strip()
        for path in (ROOT / "mmv_jax").rglob("*.py")
        for line in path.read_text().splitlines()
    ]
    comments = [line for line in lines if line.startswith("#")]
    assert len(comments) >= FEWEST_COMMENTS * len(lines)


def test_python_in_the_documentation_is_python():
    for page in PAGES:
        for block in blocks(page):
            if block.language == "python" and "--8<--" not in block.text:
                ast.parse(block.text)


def run_block(block: Block, folder: Path) -> None:
    """Runs a block of code in a folder, as a reader would who copies it."""
    if block.language == "sh":
        words = f" {block.more}\n" if block.more else "\n"
        text = block.text.removesuffix("\n") + words
        text = re.sub(r"^mmv ", f"{sys.executable} -m mmv_jax.cli ", text, flags=re.MULTILINE)
        command = ["bash", "-euc", text]
    else:
        command = [sys.executable, "-c", block.text]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{block.text}\n{done.stdout[-500:]}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_every_block_of_a_tutorial_is_run_or_says_why_not(page):
    for block in blocks(page):
        if block.language in ("sh", "python"):
            assert block.when in ("quick", "full") or (block.when == "no" and block.more), block


def test_the_quick_tutorial_runs(tmp_path, monkeypatch):
    """Its commands are run in this process: each new one would import JAX and pandas again."""
    monkeypatch.chdir(tmp_path)
    quick = [
        block for block in blocks(DOCS / "tutorials" / "own-folder.md") if block.when == "quick"
    ]
    for block in quick:
        for line in block.text.splitlines():
            name, *words = shlex.split(line)
            assert (name, main(words)) == ("mmv", 0), line
    assert len(quick) == 3


@pytest.fixture(scope="session")
def after_the_demo(tmp_path_factory):
    """A folder with what `mmv demo` leaves, made from few phantoms in few steps."""
    folder = tmp_path_factory.mktemp("demo")
    for text in (
        "mmv phantom runs/demo/phantoms --studies 16 --workers 2",
        "mmv ingest runs/demo/phantoms/manifest.csv --store runs/demo/store --workers 2",
        "mmv pretrain --config demo --workdir runs/demo/pretrain --config.steps=4",
        "mmv evaluate --config eval_demo --checkpoint runs/demo/pretrain"
        f" --workdir runs/demo/evaluate {FEW_TASKS}",
    ):
        run_block(Block("full", "", "sh", text), folder)
    return folder


@pytest.mark.full
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_the_tutorials_run(page, tmp_path, after_the_demo):
    if page.stem != "demo":  # which makes all of it
        shutil.copytree(after_the_demo / "runs", tmp_path / "runs")
    for name in ("launch", "experiments"):  # as in a checkout
        (tmp_path / name).symlink_to(ROOT / name)
    for prepare in PREPARATIONS.get(page.stem, ()):
        prepare(tmp_path)
    for block in blocks(page):
        if block.when in ("quick", "full"):
            run_block(block, tmp_path)


def write_dinov2(folder: Path) -> None:
    """A small DINOv2 with random weights, in place of the download."""
    transformers = pytest.importorskip("transformers", reason="extra torch")
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
    )
    transformers.Dinov2Model(config).save_pretrained(folder / "models" / "dinov2-small")


def write_cohort(folder: Path) -> None:
    """A cohort of 400 women whose hazard rises with the area."""
    rng = np.random.default_rng(0)
    area = np.where(rng.random(400) < 0.5, 0, rng.gamma(1, 15, 400))
    age = rng.uniform(45, 74, 400)
    time = rng.exponential(1 / (0.02 * np.exp(0.03 * area + 0.05 * (age - 60))))
    columns = {
        "patient_id": np.arange(400),
        "time_years": np.minimum(time, 12).clip(0.01),
        "event": (time < 12).astype(int),
        "area_mm2": area,
        "age": age,
    }
    pd.DataFrame(columns).to_csv(folder / "cohort.csv", index=False)


# What a reader of a page has, or downloads, before its first command.
PREPARATIONS = {"public-encoder": (write_dinov2,), "mammograms": (write_cohort,)}


def test_marked_tables_of_the_results_are_those_of_their_files(monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "hooks")
    import tables

    pages = [(DOCS / name).read_text() for name in tables.PAGES]
    named = {found["name"] for page in pages for found in tables.MARKED.finditer(page)}
    assert named == {path.stem for path in (DOCS / "measured").glob("*.json")}
    assert [tables.with_tables(page) for page in pages] == pages
