"""The documentation: its sentences, its code, its links, and how it looks in a browser."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
HISTORY = {"log.md"}  # and CHANGELOG.md, which lies elsewhere
PAGES = sorted([ROOT / "README.md", *(p for p in DOCS.rglob("*.md") if p.name not in HISTORY)])
LONG_SENTENCE, LONG_PARAGRAPH, WIDE = 35, 120, 120
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


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """(when it is tested: "quick", "full" or "", language, text) of each block of code."""
    found = re.findall(
        r"(?:^<!-- test: (\w+) -->\n)?^```(\w+)[^\n]*\n(.*?)^```$",
        page.read_text(),
        flags=re.DOTALL | re.MULTILINE,
    )
    return [(when, language, text) for when, language, text in found]


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
        for _, language, text in blocks(page):
            if language == "python" and "--8<--" not in text:
                ast.parse(text)


def run_blocks(page: Path, folder: Path, when: set[str]) -> int:
    """Runs the marked blocks of a page in a folder, in their order; how many there are."""
    chosen = [(language, text) for mark, language, text in blocks(page) if mark in when]
    for language, text in chosen:
        if language == "sh":
            text = re.sub(r"^mmv ", f"{sys.executable} -m mmv_jax.cli ", text, flags=re.MULTILINE)
            command = ["bash", "-euc", text]
        else:
            command = [sys.executable, "-c", text]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{page.name}\n{text}\n{done.stderr[-2000:]}"
    return len(chosen)


def test_the_quick_tutorial_runs(tmp_path):
    assert run_blocks(DOCS / "tutorials" / "own-folder.md", tmp_path, {"quick"}) == 3


@pytest.mark.full
@pytest.mark.parametrize(
    "page", sorted((DOCS / "tutorials").glob("*.md")), ids=lambda page: page.stem
)
def test_the_tutorials_run(page, tmp_path):
    if not run_blocks(page, tmp_path, {"quick", "full"}):
        pytest.skip("what it shows needs hours, an accelerator or a download")


def test_marked_tables_of_the_results_are_those_of_their_files(monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "hooks")
    import tables

    page = (DOCS / "results.md").read_text()
    named = [name for _, name, _ in tables.MARKED.findall(page)]
    assert sorted(named) == sorted(path.stem for path in (DOCS / "measured").glob("*.json"))
    assert tables.with_tables(page) == page
