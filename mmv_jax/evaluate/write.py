"""What an evaluation leaves: `metrics.json`, `comparisons.json`, `protocol.json`, the predictions
and the report.
"""

from typing import TYPE_CHECKING

from mmv_jax.evaluate.fewshot import labels_read
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.measure import as_json, compare, compare_pairs, comparisons_as_json
from mmv_jax.evaluate.operating import measure_operating, measure_rates, operating_metrics
from mmv_jax.evaluate.predictions import predictions
from mmv_jax.evaluate.report.budgets import budget_metrics
from mmv_jax.evaluate.report.stated import Asked, state
from mmv_jax.evaluate.report.subspaces import subspace_sections
from mmv_jax.evaluate.report.tables import Findings, table_of, write_report
from mmv_jax.evaluate.shifts import corrected, shift_metrics
from mmv_jax.evaluate.subgroups import (
    as_comparisons,
    as_metrics,
    measure_confounders,
    measure_groups,
)
from mmv_jax.evaluate.tasks.overlap import Overlap
from mmv_jax.evaluate.variants import pairs_of
from mmv_jax.files import write_json
from mmv_jax.provenance import write_metrics, write_table
from mmv_jax.result_folder import clear_results

if TYPE_CHECKING:  # `run.py` imports this file
    from mmv_jax.evaluate.run import Evaluation


def write_results(
    evaluation: "Evaluation", overlap: Overlap, rivals: tuple[str, ...], asked: Asked
) -> str:
    """Write all files; return the table of all tasks and the path of the report.

    Args:
      rivals: the encoders that the trained one is compared with.
    """
    results, points, workdir = evaluation.results, evaluation.points, evaluation.workdir
    groups, confounded = measure_groups(results), measure_confounders(results)
    operating, rates = measure_operating(results), measure_rates(results)
    shifted, order = corrected(evaluation.shifted), list(KINDS)
    # Stable: within a task the encoders stay in the order in which they were measured.
    results.sort(key=lambda result: (order.index(result.task.kind), result.task.name))
    comparisons = compare(results, "trained", rivals)
    # A family of its own: its many pairs do not weaken the main comparisons in Holm's correction.
    of_variants = compare_pairs(results, pairs_of(results))
    metrics = as_json(
        results,
        [
            *as_metrics(groups, confounded),
            *operating_metrics(operating, rates),
            *((p.task, p.encoder, p.key, p.value) for p in points),
            *labels_read(points),
            *budget_metrics(results),
            *shift_metrics(shifted),
        ],
    )
    index = evaluation.store.index
    # Same order as the rows of `means`: both are of the sorted studies.
    modality = index["modality"].iloc[evaluation.studies].to_numpy(str)
    findings = Findings(
        results=results,
        comparisons=comparisons,
        overlaps={task.name: overlap.count(task) for task in evaluation.tasks},
        why_no_overlap=overlap.reason,
        uncounted=overlap.uncounted,
        outlined=evaluation.outlined,
        maps=evaluation.maps,
        record=asked.record,
        points=points,
        groups=groups,
        confounded=confounded,
        operating=operating,
        rates=rates,
        shifted=shifted,
        variants=of_variants,
        subspaces=subspace_sections(evaluation.means, modality),
    )
    protocol, findings = state(
        findings,
        store=evaluation.store,
        tasks=evaluation.tasks,
        overlap=overlap.reason,
        asked=asked,
    )
    # Everything is computed: from here on files are written.
    clear_results(workdir)
    write_table(workdir / "predictions.parquet", predictions(results, index), asked.record)
    paired = comparisons_as_json([*comparisons, *of_variants])
    write_json(workdir / "comparisons.json", [*paired, *as_comparisons(groups, confounded)])
    write_json(workdir / "protocol.json", protocol)
    write_report(report := workdir / "report.html", findings)
    write_metrics(workdir, metrics, asked.record)
    return f"{table_of(results, comparisons)}\n\nreport: {report}"
