"""What every fit has cost: the section of the report, and the numbers of metrics.json."""

from collections.abc import Sequence

from mmv_jax.evaluate.kinds.table import metric_label
from mmv_jax.evaluate.measure import Result
from mmv_jax.evaluate.report.names import Names
from mmv_jax.metrics.intervals import Interval
from mmv_jax.report.page import Cell, Section, Table

TEXT = (
    "All networks have the same budget (`config.fit`). Learning rate and, where an encoder is"
    " fine-tuned, layer decay are chosen on val. The chosen setting is fitted with each seed, and"
    " only these fits are measured. A value is the mean over the seeds ± their standard deviation;"
    " its interval is of the test patients, for a single fit. Curves, subgroups and"
    " predictions.parquet are of the fit in the middle on val. An epoch is a pass over the training"
    " studies; “12 of 22”: val chose epoch 12, and stopped the fit after 22. Processor time is of"
    " all fits together, on the machine that ran them."
)


def budget_sections(results: Sequence[Result], names: Names) -> list[Section]:
    """A line each fitted result; empty where nothing was fitted by gradient descent."""
    lines = []
    for r in results:
        metric, spent = r.kind.headline, r.spent
        if spent is None:
            continue
        # All values, since a standard deviation of three says little of their shape.
        values = ", ".join(f"{fit.metrics[metric].value:.3f}" for fit in r.fits)
        lines.append(
            [
                Cell(names.task(r.task.name)),
                Cell(names.encoder(r.encoder)),
                Cell(spent.setting, f"of {spent.settings}"),
                Cell(values, metric_label(metric)),
                Cell(", ".join(spent.by_seed)),
                Cell(f"{spent.studies:,}"),
                Cell(f"{spent.fits:,}"),
                Cell(f"{spent.epochs:,}"),
                Cell(f"{spent.seconds:,.0f} s"),
            ]
        )
    columns = [
        "task",
        "encoder",
        "chosen on val",
        "seeds",
        "epochs of the seeds",
        "training studies",
        "fits",
        "epochs of all fits",
        "processor time",
    ]
    return [Section("Budgets of the fits", [TEXT], [Table(columns, lines)], fold=True)] * bool(
        lines
    )


def budget_metrics(results: Sequence[Result]) -> list[tuple[str, str, str, Interval]]:
    """(task, encoder, key, value) for `metrics.json`: `fits`, `epochs`, `training_studies` and
    `cpu_seconds`.
    """
    # Counts are known exactly: they have no interval.
    nan = float("nan")
    return [
        (r.task.name, r.encoder, key, Interval(value, nan, nan, r.headline.n, why="a count"))
        for r in results
        if r.spent
        for key, value in (
            ("fits", float(r.spent.fits)),
            ("epochs", float(r.spent.epochs)),
            ("training_studies", float(r.spent.studies)),
            ("cpu_seconds", r.spent.seconds),
        )
    ]
