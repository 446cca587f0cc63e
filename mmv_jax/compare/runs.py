"""What a run has left: its config, its log, and the newest evaluation of its encoder."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from mmv_jax.errors import UserError
from mmv_jax.train.log import METRICS, read_metrics
from mmv_jax.train.workdir import CONFIG, flat_config

RESULTS, PREDICTIONS, PROVENANCE = "metrics.json", "predictions.parquet", "provenance.json"
TRAINED = "trained"  # the encoder of a run among those of an evaluation


@dataclass(frozen=True)
class Run:
    """A run, or an evaluation alone.

    Attributes:
      name: one that no other of the compared runs has.
      config: names and values; empty where there is only an evaluation.
      lines: of the log, a step each.
      evaluation: the folder of its results, None where it was not evaluated.
    """

    name: str
    config: dict[str, Any]
    lines: list[dict[str, float | int]]
    evaluation: Path | None

    @cached_property
    def metrics(self) -> dict[str, dict[str, dict]]:
        """Task -> metric -> {"value", "ci95", "n"} of the run's encoder; the first metric of a task
        is its headline.
        """
        if self.evaluation is None:
            return {}
        found = json.loads((self.evaluation / RESULTS).read_text())
        return {task: of[TRAINED] for task, of in found.items() if TRAINED in of}

    @cached_property
    def predictions(self) -> pd.DataFrame | None:
        """A row a task and test study, None where the evaluation has written none."""
        path = self.evaluation / PREDICTIONS if self.evaluation else None
        if path is None or not path.exists():
            return None
        table = pd.read_parquet(path)
        return table[table["encoder"] == TRAINED]


def open_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs of some folders, each the workdir of `mmv pretrain` or of `mmv evaluate`.

    Raises:
      UserError: a folder is neither, or there are fewer than two.
    """
    if len(set(paths)) < 2:
        raise UserError("give two different runs at least: mmv compare RUN RUN.")
    return [_open(path, name) for path, name in zip(paths, _names(paths))]


def _open(path: Path, name: str) -> Run:
    has_log = (path / METRICS).is_file() and (path / CONFIG).is_file()
    if not has_log and not (path / RESULTS).is_file():
        there = "there is no such folder" if not path.exists() else "no run has written there"
        raise UserError(
            f"{path}: {there}. Give the --workdir of `mmv pretrain`, or of `mmv evaluate`."
        )
    config = flat_config(json.loads((path / CONFIG).read_text())) if has_log else {}
    lines = read_metrics(path) if has_log else []
    # The newest last, which is the one that is compared.
    found = sorted(_evaluations(path), key=lambda folder: (folder / RESULTS).stat().st_mtime)
    return Run(name, config, lines, found[-1] if found else None)


def _evaluations(path: Path) -> Iterator[Path]:
    """Folders with results of a run's encoder: itself, in it, or beside it where they name it."""
    # Results lie where `mmv evaluate --workdir` put them: inside the run's folder, or beside it.
    inside = [path, *(folder for folder in path.iterdir() if folder.is_dir())]
    yield from (folder for folder in inside if (folder / RESULTS).is_file())
    for folder in path.absolute().parent.iterdir():
        if folder.name != path.name and (folder / PROVENANCE).is_file():
            about = json.loads((folder / PROVENANCE).read_text())
            # Provenance has the name of the run's folder alone, not its path.
            if about.get("checkpoint") == path.name and (folder / RESULTS).is_file():
                yield folder


def _names(paths: Sequence[Path]) -> list[str]:
    """As few last parts of each path as tell them apart."""
    parts = [path.absolute().parts for path in paths]
    # From one part up: runs in different folders are often named alike.
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-count:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError("a run is given twice: leave one of the two out.")
