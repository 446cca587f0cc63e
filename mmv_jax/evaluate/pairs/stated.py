"""Statements beside the figures of pairs: flow of patients, and what of CLAIM is fulfilled."""

from collections import Counter
from typing import Any

from mmv_jax.evaluate.pairs.find import Pairs
from mmv_jax.evaluate.report.checklists import Held, claim
from mmv_jax.evaluate.tasks.task import SPLITS
from mmv_jax.report.about import Studies
from mmv_jax.report.checklist import (
    NO,
    ChecklistItem,
    as_protocol,
    checklist_section,
    reloaded_section,
)
from mmv_jax.report.flow_chart import FlowChart, FlowStep
from mmv_jax.report.page import Section
from mmv_jax.store.layout import open_root
from mmv_jax.store.quarantine import read_quarantine
from mmv_jax.store.read import Store

NO_CATEGORY = "likeness, subspaces and retrieval are in none of its four categories"


def state_pairs(
    pairs: Pairs, store: Store, studies: Studies, has_maps: bool
) -> tuple[dict[str, Any], list[Section]]:
    """The contents of `protocol.json`, and the sections of flow and checklists."""
    codes = Counter(entry["code"] for entry in read_quarantine(open_root(store.path)))
    by_split = {name: int((pairs.split == name).sum()) for name in SPLITS}
    held = Held(
        studies=studies,
        demographic=False,
        # Neither subgroups nor confounders are looked at.
        robust=False,
        pictures=has_maps,
        tested_elsewhere=False,
        overlap="not counted for pairs; the encoders' own train split is the store's",
    )
    # The 44 items are those of any evaluation; what pairs do not have is answered no.
    items = claim(held)
    reloaded = [ChecklistItem("pairs", "category", NO, NO_CATEGORY)]
    flow = {
        "lines": len(store) + codes.total(),
        "refused": dict(codes.most_common()),
        "in_store": len(store),
        "pairs": dict(pairs.flow),
        **by_split,
    }
    return as_protocol(flow, claim_2024=items, metrics_reloaded=reloaded), [
        _flow_section(pairs, codes, len(store), by_split),
        checklist_section("CLAIM", items),
        reloaded_section(reloaded),
    ]


def _flow_section(pairs: Pairs, codes: Counter, in_store: int, by_split: dict[str, int]) -> Section:
    refused = [(f"refused: {code.replace('_', ' ')}", n) for code, n in codes.most_common()]
    # Lines and studies first, then patients: a pair is of a patient.
    patients, both = pairs.flow["patients in the store"], len(pairs)
    steps = [
        FlowStep("lines of manifests", in_store + codes.total(), refused),
        FlowStep("studies in the store", in_store),
        FlowStep("patients", patients, [("without both modalities", patients - both)]),
        FlowStep("patients with both", both),
    ]
    chart = FlowChart(steps, [FlowStep(name, n) for name, n in by_split.items()])
    text = ["After STROBE. Of a patient with several studies of a modality the first is taken."]
    return Section("Flow of studies", text, figures=[chart], fold=True)
