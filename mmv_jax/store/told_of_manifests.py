"""What is refused and told of a manifest before its lines are looked at one by one."""

from collections.abc import Iterator, Mapping, Sequence

from mmv_jax.manifests.manifest import Line, LineRefused
from mmv_jax.store.odd_columns import odd_columns
from mmv_jax.store.personal import TIME_ALONE
from mmv_jax.store.quarantine import OF_MANIFESTS, Quarantine
from mmv_jax.store.report import Report
from mmv_jax.store.task import Refusal, Told
from mmv_jax.store.third_values import third_values


def begin_manifest(
    ordinal: int,
    manifest: tuple[Sequence[Line], Sequence[LineRefused]],
    chosen: tuple[Mapping[str, type], Sequence[str]],
    *,
    report: Report,
    logs: tuple[Quarantine, Quarantine],
) -> None:
    """Notes what is refused and told of a manifest before its lines are looked at one by one."""
    (lines, refused), (columns, left), (quarantine, warnings) = manifest, chosen, logs
    quarantine.forget(ordinal)
    warnings.forget(ordinal, codes=OF_MANIFESTS)
    report.lines += len(lines) + len(refused)
    for number, code, reason in refused:
        report.refuse(Refusal((ordinal, number), code, reason), quarantine)
    for odd in _told_of(ordinal, lines, columns):
        report.tell(odd, warnings)
    for odd in _left_behind(ordinal, lines, left):
        warnings.add(odd)  # the report has a heading of its own for them


def _told_of(ordinal: int, lines: Sequence[Line], columns: Mapping[str, type]) -> Iterator[Told]:
    for number, reason in third_values(lines, columns):
        yield Told((ordinal, number), "third_value", reason)
    for number, code, reason in odd_columns(lines, columns):
        yield Told((ordinal, number), code, reason)


def _left_behind(ordinal: int, lines: Sequence[Line], left: Sequence[str]) -> Iterator[Told]:
    """A warning for each column that stays behind. Its name may name someone, and is not quoted."""
    named = list(dict.fromkeys(name for line in lines for name in line.labels))
    for name in left:
        cells = {line.number: line.labels[name] for line in lines if name in line.labels}
        what = f"column {named.index(name) + 1} of the labels stays behind: it may name someone"
        if all(TIME_ALONE.fullmatch(cell.strip()) for cell in cells.values()):
            what += " by times of day; write durations as numbers"
        yield Told((ordinal, min(cells)), "not_carried", what)
