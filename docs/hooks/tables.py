"""Tables of measured results, made from the small JSON files of docs/measured.

A file has `command`, `date`, `machine`, `source` and `metrics`. The last has the layout of an
evaluation's metrics.json: task, encoder, metric, and a value with its 95 % interval, or a text.
`head` names the first two columns, if they are not task and metric. The output of `mmv bench input --json` is
such a file.

A page has `<!-- table: NAME -->` for all of a file, or `<!-- table: NAME, WORDS -->` for the tasks
whose names begin with these words.
"""

import json
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
PAGES = ("results.md", "performance.md")  # those that have such tables
MARKED = re.compile(
    r"(?P<head><!-- table: (?P<name>\w+)(?:, (?P<words>[^>]*))? -->\n).*?(?P<end><!-- end -->)",
    re.DOTALL,
)


def table_of(name: str, words: str = "") -> str:
    """The Markdown table of docs/measured/NAME.json; with `words`, of the tasks that begin so."""
    found = json.loads((DOCS / "measured" / f"{name}.json").read_text())
    head = found.get("head", ["task", "metric"])
    metrics = {task: own for task, own in found["metrics"].items() if task.startswith(words)}
    if not metrics:
        return "\nNot measured yet.\n\n"
    encoders = list(dict.fromkeys(encoder for own in metrics.values() for encoder in own))
    lines = [
        f"\n| {' | '.join([*head, *encoders])} |",
        "| --- " * (2 + len(encoders)) + "|",
    ]
    for task, own in metrics.items():
        for metric in dict.fromkeys(metric for found in own.values() for metric in found):
            cells = [_cell(own.get(encoder, {}).get(metric)) for encoder in encoders]
            lines.append(f"| {task} | {metric} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _cell(found: dict | None) -> str:
    """`value [low, high]`; an interval may have been recorded with fewer decimals."""
    if found is None:
        return ""
    if "text" in found:
        return found["text"]
    if "before" in found:
        return f"{found['before']} → {found['value']}"
    interval = _alike(found["ci95"]) if "ci95" in found else ""
    return f"{_alike([found['value']])} [{interval}]" if interval else _alike([found["value"]])


def _alike(numbers: list[float]) -> str:
    """Numbers with as many decimals as the longest of them."""
    decimals = max(len(repr(number).partition(".")[2]) for number in numbers)
    return ", ".join(f"{number:.{decimals}f}" for number in numbers)


def with_tables(text: str) -> str:
    """A page with each of its marked tables made anew."""
    return MARKED.sub(
        lambda found: found["head"] + table_of(found["name"], found["words"] or "") + found["end"],
        text,
    )


if __name__ == "__main__":
    for page in (DOCS / name for name in PAGES):
        page.write_text(with_tables(page.read_text()))
