"""Flow of studies through an evaluation, from manifests to tasks: counts after STROBE."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmv_jax.evaluate.report.names import Names
from mmv_jax.evaluate.tasks.columns import fits_where
from mmv_jax.evaluate.tasks.task import SPLITS, Task
from mmv_jax.report.flow_chart import FlowChart, FlowStep
from mmv_jax.report.page import Cell, Section, Table
from mmv_jax.store.layout import open_root
from mmv_jax.store.quarantine import read_quarantine
from mmv_jax.store.read import Store


@dataclass(frozen=True)
class TaskFlow:
    """The studies of a store for one task; the counts add up to `in_store`.

    Attributes:
      elsewhere: studies that do not fit `where`, or whose split is not used.
      unlabelled: studies that fit and have no truth.
      seen: studies left out since they would be measured and pretraining has seen their patients.
      used: by split; in cross-validation one number, of all folds.
      positive: by split, the positive studies; None where there are no classes.
    """

    task: str
    in_store: int
    elsewhere: int
    unlabelled: int
    seen: int
    used: Mapping[str, int]
    positive: Mapping[str, int] | None


@dataclass(frozen=True)
class Flow:
    """Counts from the lines of manifests to the studies of each task.

    Attributes:
      refused: lines that the ingest refused, by its code.
    """

    in_store: int
    refused: Mapping[str, int]
    tasks: Sequence[TaskFlow]
    in_any_task: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        """The counts for `protocol.json`."""
        return {
            "lines": self.in_store + sum(self.refused.values()),
            "refused": dict(self.refused),
            "in_store": self.in_store,
            "in_any_task": dict(self.in_any_task),
            "tasks": {
                flow.task: {
                    "in_store": flow.in_store,
                    "elsewhere": flow.elsewhere,
                    "unlabelled": flow.unlabelled,
                    "left_out_seen_in_pretraining": flow.seen,
                    **flow.used,
                    **({} if flow.positive is None else {"positive": dict(flow.positive)}),
                }
                for flow in self.tasks
            },
        }


def flow_of(
    store: Store, tasks: Sequence[Task], groups: Mapping[str, Mapping[str, Any]], classes: set[str]
) -> Flow:
    """Count every study of the store once for each task.

    Args:
      groups: of the config, by task.
      classes: the tasks whose labels are 0 or 1.
    """
    flows = [_of_task(store, task, groups[task.name], task.name in classes) for task in tasks]
    codes = Counter(entry["code"] for entry in read_quarantine(open_root(store.path)))
    anywhere: dict[int, str] = {}
    for task in tasks:
        # A study of several tasks counts once; its split is the same in all of them.
        anywhere |= dict(zip(task.studies.tolist(), task.part.tolist()))
    counts = Counter(anywhere.values())
    in_any_task = {part: counts[part] for part in tasks[0].part_names}
    return Flow(len(store), dict(codes.most_common()), flows, in_any_task)


def _of_task(store: Store, task: Task, group: Mapping[str, Any], classes: bool) -> TaskFlow:
    index, asked_by = store.index, f"config.tasks.{task.name}"
    split = index["split"].to_numpy(str)
    # Folds do not read test, whose studies are then of a split that is not used.
    read = SPLITS[:2] if task.folds else SPLITS
    fits = np.isin(split, read) & fits_where(index, group.get("where"), asked_by)
    if group.get("test_where") and not task.folds:
        elsewhere = np.isin(split, SPLITS) & fits_where(index, group["test_where"], asked_by)
        # The same choice of studies as in `tasks.make`: otherwise a line does not add up.
        fits = np.where(split == "test", elsewhere, fits)
    # A study that fits and is not used has no truth, or was left out as seen in pretraining: all
    # measured ones of a patient together.
    used = np.zeros(len(index), bool)
    used[task.studies] = True
    # `left_out` holds positions in the index, hence the range of positions.
    seen = int((fits & np.isin(np.arange(len(index)), task.left_out)).sum())
    parts, columns = task.part, task.part_names
    return TaskFlow(
        task=task.name,
        in_store=len(index),
        elsewhere=int((~fits).sum()),
        unlabelled=int((fits & ~used).sum()) - seen,
        seen=seen,
        used={name: int((parts == name).sum()) for name in columns},
        positive={name: int((task.labels[parts == name] == 1).sum()) for name in columns}
        if classes
        else None,
    )


def flow_section(flow: Flow, names: Names) -> Section:
    """Section with the chart of the store, and one line a task."""
    refused = [(f"refused: {code.replace('_', ' ')}", n) for code, n in flow.refused.items()]
    unused = flow.in_store - sum(flow.in_any_task.values())
    chart = FlowChart(
        [
            FlowStep("lines of manifests", flow.in_store + sum(flow.refused.values()), refused),
            FlowStep("studies in the store", flow.in_store, [("in no task", unused)]),
            FlowStep("studies in any task", sum(flow.in_any_task.values())),
        ],
        [FlowStep(_words(part), count) for part, count in flow.in_any_task.items()],
    )
    lines = [
        [
            Cell(names.task(f.task)),
            *(Cell(f"{n:,}") for n in (f.in_store, f.elsewhere, f.unlabelled, f.seen)),
            *(Cell(_count(f, part)) for part in f.used),
        ]
        for f in flow.tasks
    ]
    columns = ["task", "in the store", "other studies", "no truth", "seen in pretraining"]
    columns += [_words(part) for part in flow.in_any_task]
    text = [
        "After STROBE. “Other studies” do not fit the task's `where`, or their split is not used;"
        " “no truth” has no label or mask; “seen in pretraining” are studies that were left"
        " out of what is measured since the encoder has seen their patients. Each line adds up to"
        " the store."
    ]
    return Section("Flow of studies", text, [Table(columns, lines)], [chart], fold=True)


def _words(part: str) -> str:
    return part.replace("_", " ")


def _count(flow: TaskFlow, part: str) -> str:
    positive = "" if flow.positive is None else f" ({flow.positive[part]:,} positive)"
    return f"{flow.used[part]:,}{positive}"
