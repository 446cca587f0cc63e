"""The plug-ins that the documentation shows: the tests run the very files."""

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "examples"


def example(name: str) -> str:
    """The source of a file of docs/examples."""
    return (FOLDER / name).read_text()
