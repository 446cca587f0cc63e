"""The two forms of the suite: what only `make test-full` runs is named for readers."""

from pathlib import Path

TESTS = Path(__file__).parent
MARK = "pytest.mark." + "full"


def test_every_file_with_a_long_form_is_in_the_table_of_reliability():
    text = (TESTS.parent / "docs" / "reliability.md").read_text()
    table = text[text.index("## The suite") : text.index("## What falls short")]
    files = [path for path in TESTS.rglob("test_*.py") if MARK in path.read_text()]
    assert len(files) > 30
    names = [path.relative_to(TESTS).as_posix() for path in files]
    assert not [name for name in names if f"`{name}`" not in table]
