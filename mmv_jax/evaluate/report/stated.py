"""Statements beside the results: what was evaluated, on which patients, flow of studies,
checklists.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.report.about import (
    AGE,
    SEX,
    about_section,
    cohort_section,
    find_column,
    studies_of,
)
from mmv_jax.evaluate.report.checklists import Held, claim, metrics_reloaded
from mmv_jax.evaluate.report.flow import flow_of, flow_section
from mmv_jax.evaluate.report.names import Names
from mmv_jax.evaluate.report.tables import Findings
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.report.about import About
from mmv_jax.report.checklist import as_protocol, checklist_section, reloaded_section
from mmv_jax.store.read import Store


@dataclass(frozen=True)
class Asked:
    """Facts on an evaluation beside its results.

    Attributes:
      record: where the numbers come from, of `provenance.provenance`.
      groups: of the config, by task.
      folds: of cross-validation; 0 where the store's test was measured.
      notices: that a reader must not miss.
    """

    record: Mapping[str, Any]
    about: About
    groups: Mapping[str, Mapping[str, Any]]
    folds: int = 0
    notices: Sequence[str] = ()


def state(
    findings: Findings, *, store: Store, tasks: Sequence[Task], overlap: str, asked: Asked
) -> tuple[dict[str, Any], Findings]:
    """The contents of `protocol.json`, and the findings with all statements of the page.

    Args:
      overlap: why measured patients of pretraining cannot be counted; "" where they can.
    """
    index, names = store.index, Names.of(tasks, set(store.index["modality"].astype(str)))
    studies = studies_of(
        index, np.unique(np.concatenate([task.studies for task in tasks])), asked.about
    )
    classes = {task.name for task in tasks if KINDS[task.kind].has_classes}
    flow = flow_of(store, tasks, asked.groups, classes)
    held = Held(
        studies=studies,
        demographic=any(find_column(index, columns) for columns in (AGE, SEX)),
        robust=bool(findings.groups or findings.confounded or findings.points),
        pictures=bool(findings.outlined or findings.maps),
        tested_elsewhere=not asked.folds
        and any(group.get("test_where") for group in asked.groups.values()),
        overlap=overlap or "counted",
        folds=asked.folds,
        operating=bool(findings.operating),
    )
    items = claim(held)
    at_threshold = {o.task: ("sensitivity", "specificity") for o in findings.operating}
    reloaded = metrics_reloaded(findings.results, names, at_threshold)
    in_folds = (
        f"Measured on train and val, in {asked.folds} folds by patient: each study by a probe that"
        " has not seen its patient. Test was not looked at."
    )
    stated = replace(
        findings,
        names=names,
        title=asked.about.title,
        about=[about_section(asked.record, studies, len(tasks)), cohort_section(index, tasks)],
        protocol=[
            flow_section(flow, names),
            checklist_section("CLAIM", items),
            reloaded_section(reloaded),
        ],
        folds=asked.folds,
        notices=[*asked.notices, *studies.notices, *([in_folds] if asked.folds else [])],
    )
    protocol = as_protocol(flow.as_json(), claim_2024=items, metrics_reloaded=reloaded)
    return protocol, stated
