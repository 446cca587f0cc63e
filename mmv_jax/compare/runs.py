"""The files of a run: its config, its log, and the newest evaluation of its encoder."""

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from mmv_jax.buckets import BucketPath
from mmv_jax.errors import UserError
from mmv_jax.train.log import read_metrics
from mmv_jax.train.log_files import metrics_files
from mmv_jax.train.workdir import CONFIG, flat_config

RESULTS, PREDICTIONS, PROVENANCE = "metrics.json", "predictions.parquet", "provenance.json"
TRAINED = "trained"  # the encoder of a run among those of an evaluation


@dataclass(frozen=True)
class Run:
    """A run, or an evaluation alone.

    Attributes:
      name: unique among the compared runs.
      config: names and values; empty if there is only an evaluation.
      lines: of the log, one a step.
      evaluation: the folder of its results; None if it was not evaluated.
    """

    name: str
    config: dict[str, Any]
    lines: list[dict[str, float | int]]
    evaluation: Path | None

    @cached_property
    def metrics(self) -> dict[str, dict[str, dict]]:
        """Task -> metric -> {"value", "ci95", "n"} of the run's encoder.

        The first metric of a task is its headline.
        """
        if self.evaluation is None:
            return {}
        found = json.loads((self.evaluation / RESULTS).read_text())
        return {task: of[TRAINED] for task, of in found.items() if TRAINED in of}

    @cached_property
    def predictions(self) -> pd.DataFrame | None:
        """One row a task and test study; None if the evaluation has written none."""
        path = self.evaluation / PREDICTIONS if self.evaluation else None
        if path is None or not path.exists():
            return None
        with path.open("rb") as file:
            table = pd.read_parquet(file)
        return table[table["encoder"] == TRAINED]


def open_runs(paths: Sequence[Path]) -> list[Run]:
    """Open the runs of some folders, each the workdir of `mmv pretrain` or of `mmv evaluate`.

    Raises:
      UserError: a folder is neither, or there are fewer than two.
    """
    if len(set(paths)) < 2:
        raise UserError("give two different runs or more: mmv compare RUN RUN.")
    return [_open(path, name) for path, name in zip(paths, _names(paths))]


def _open(path: Path, name: str) -> Run:
    has_log = bool(metrics_files(path)) and (path / CONFIG).is_file()
    if not has_log and not (path / RESULTS).is_file():
        there = "there is no such folder" if not path.exists() else "no run has written there"
        raise UserError(
            f"{path}: {there}. Give the --workdir of `mmv pretrain`, or of `mmv evaluate`."
        )
    config = flat_config(json.loads((path / CONFIG).read_text())) if has_log else {}
    lines = read_metrics(path) if has_log else []
    # The newest is last; this one is compared.
    found = sorted(_evaluations(path), key=_age)
    return Run(name, config, lines, found[-1] if found else None)


def _age(folder: Path) -> float:
    """When the results of an evaluation were written, in seconds since 1970."""
    if isinstance(folder, BucketPath):
        date = _provenance(folder).get("date")
        return datetime.fromisoformat(date).timestamp() if date else 0.0
    return (folder / RESULTS).stat().st_mtime


def _evaluations(path: Path) -> Iterator[Path]:
    """Folders with results of a run's encoder: the run's own, one inside it, or one beside it."""
    # Results lie where `mmv evaluate --workdir` put them: inside the run's folder, or beside it.
    inside = [path, *(folder for folder in path.iterdir() if folder.is_dir())]
    yield from (folder for folder in inside if (folder / RESULTS).is_file())
    for folder in path.absolute().parent.iterdir():
        # Provenance has only the name of the run's folder, not its path.
        if folder.name == path.name or not (folder / RESULTS).is_file():
            continue
        if _provenance(folder).get("checkpoint") == path.name:
            yield folder


def _provenance(folder: Path) -> dict[str, Any]:
    """What `provenance.json` in a folder says; nothing where it is missing or cannot be read."""
    path = folder / PROVENANCE
    if not path.is_file():
        return {}
    try:
        about = json.loads(path.read_text())
    except ValueError:
        about = None
    if not isinstance(about, dict):
        warnings.warn(
            f"{path} cannot be read, so the results beside it are left out.", stacklevel=2
        )
        return {}
    return about


def _names(paths: Sequence[Path]) -> list[str]:
    """As few last parts of each path as make the names distinct, less those that all share."""
    parts = [path.absolute().parts for path in paths]
    # From one part up: runs in different folders often have the same last name.
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-count:]) for own in parts]
        if len(set(names)) == len(names):
            # "a/pretrain" and "b/pretrain" are "a" and "b": a phone has no room for more.
            while len({name.rpartition("/")[2] for name in names}) == 1:
                names = [name.rpartition("/")[0] for name in names]
            return names
    raise UserError("a run is given twice. Leave one of the two out.")
