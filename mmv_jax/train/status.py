"""A run at a glance, in words and as a picture: progress, speed, learning, and the next command."""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from mmv_jax.buckets import BucketPath
from mmv_jax.checkpoint import find_fault, step_folders
from mmv_jax.errors import UserError
from mmv_jax.files import write_whole
from mmv_jax.objectives.table import TERMS, weights_of
from mmv_jax.report.figures import STYLE
from mmv_jax.report.plots import COLOURS
from mmv_jax.train.goodput import in_words
from mmv_jax.train.health import LOW_RANK, LOW_STD, Health
from mmv_jax.train.log import read_metrics
from mmv_jax.train.log_files import metrics_files
from mmv_jax.train.running import FILE, Process, process_of, read_words

PICTURE = "status.png"
EARLY = 20  # steps; with fewer, no trend is reported
Numbers = Sequence[dict[str, float | int]]


def status(workdir: Path) -> str:
    """Status of the run in `workdir`, on one screen.

    Writes `workdir/status.png`: loss, rank and std of the features.

    Raises:
      UserError: there is no run, or its first step is not finished.
    """
    if not metrics_files(workdir) or not (workdir / "config.json").is_file():
        raise UserError(
            f"{workdir}: no run has written anything there yet. Give the --workdir of `mmv"
            " pretrain`."
        )
    config, lines = json.loads((workdir / "config.json").read_text()), read_metrics(workdir)
    if not lines:
        raise UserError(
            f"{workdir}: the run has not finished its first step yet. Look again in a minute."
        )
    draw(lines, workdir / PICTURE)
    # Steps count from 0 in the log, so step n there is the (n + 1)th that is done.
    done, planned, seconds = int(lines[-1]["step"]) + 1, config["steps"], step_seconds(lines)
    idle = _idle(workdir, lines)
    process = process_of(workdir)
    alive = process.is_alive if process else None
    # Where the lock cannot be seen, the age of the log decides.
    beats = idle < max(120.0, 20 * (seconds or 0.0))
    running = done < planned and (beats if alive is None else alive)
    verdict, advice = judge(lines, config)
    pause = "" if running or done >= planned else f"; stopped: the last was {_duration(idle)} ago"
    rows = {
        "steps": f"{done} of {planned} ({done / planned:.0%}){pause}",
        "loss": _loss(lines),
        "speed": _speed(lines, config, seconds, planned - done),
        "features": _features(lines),
        "neighbours": _neighbours(lines, config["health"].get("knn") or {}),
        "mfu": _utilisation(lines),
        "time": _time(lines, read_words(workdir / FILE).get("hosts", {})),
        "verdict": verdict,
        "process": _process(process, running, idle),
        "checkpoint": _checkpoint(workdir, done),
        "next": advice or _next(workdir, done, planned, running),
        "picture": str(workdir / PICTURE),
    }
    return "\n".join(f"{name:<11} {words}" for name, words in rows.items())


def _idle(workdir: Path, lines: Numbers) -> float:
    """Seconds since the last step."""
    if isinstance(workdir, BucketPath):
        # The clock of the machine that trains, which may differ by seconds.
        return max(0.0, time.time() - lines[-1].get("time", 0.0))
    # The log gets a line each step, so its age is the time since the last step.
    return time.time() - metrics_files(workdir)[-1].stat().st_mtime


def judge(lines: Numbers, config: dict) -> tuple[str, str]:
    """Whether the run learns, in words that begin with the answer; then advice, empty if none is
    needed.
    """
    objective = config["objective"]
    warnings = _warnings(lines, objective)
    skipped = sum(line.get("skipped", 0) for line in lines[-100:])
    if any("COLLAPSE" in words for words in warnings):
        return f"collapsed. {warnings[-1]}", "stop the run and begin another with the change above"
    # One step may fail by chance. Two of the last hundred point to wrong settings.
    if skipped > 1:
        words = "Lower config.optimizer.peak_lr, or set config.encoder.qk_norm=True"
        return (
            (
                f"unstable: {skipped:.0f} of the last {min(100, len(lines))} steps were not finite"
                " and were left out"
            ),
            words,
        )
    if len(lines) < EARLY:
        return f"too early to tell ({len(lines)} steps)", ""
    # A quarter of the log at most, so that the first and the last window never overlap.
    window = max(EARLY // 4, min(100, len(lines) // 4))
    # A loss with a moving target, such as distillation's, says little by itself.
    told = {name: TERMS[name].told_as for name in weights_of(objective) if TERMS[name].told_as}
    name, called = next(iter(told.items()), ("loss", "whole"))
    first, last = _mean(lines[:window], name), _mean(lines[-window:], name)
    ranks = [line["rank"] for line in lines if "rank" in line]
    grown = len(ranks) > 1 and ranks[-1] > 1.1 * ranks[0]
    if warnings:
        return f"in doubt. {warnings[-1]}", ""
    # A loss with a moving target may stay level; then a growing rank counts as learning.
    if last < 0.99 * first or (not told and grown):
        return (
            (f"learning: the {called} loss went from {first:.4f} to {last:.4f}"),
            "",
        )
    advice = "let the warm-up pass; after it, change config.optimizer.peak_lr by a factor of 3"
    return f"not learning: the loss was {first:.4f} at first and is {last:.4f}", advice


def step_seconds(lines: Numbers) -> float | None:
    """Median seconds a step over the latest steps; None where the log has no times."""
    times = [line["time"] for line in lines[-101:] if "time" in line]
    # Where a resume repeats steps, a newer line precedes an older one: that gap is negative and is
    # left out. The median also ignores pauses for checkpoints.
    gaps = [after - before for before, after in zip(times, times[1:]) if after > before]
    return statistics.median(gaps) if gaps else None


def draw(lines: Numbers, path: Path) -> None:
    """Draw loss, rank and std over the steps."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.2), layout="constrained")
        loss, rank, std = figure.subplots(1, 3)
        steps = [line["step"] for line in lines]
        loss.plot(
            steps, [line["loss"] for line in lines], color=COLOURS[0], alpha=0.3, linewidth=0.8
        )
        window = max(1, len(lines) // 40)
        # A centred moving mean, with a shorter window at both ends.
        smooth = [
            _mean(lines[max(0, n - window) : n + window + 1], "loss") for n in range(len(lines))
        ]
        loss.plot(steps, smooth, color=COLOURS[0], linewidth=2)
        looked = [line for line in lines if "rank" in line]
        for axes, name, low in ((rank, "rank", LOW_RANK), (std, "std", LOW_STD)):
            axes.plot(
                [line["step"] for line in looked],
                [line[name] for line in looked],
                "o-",
                color=COLOURS[3],
                markersize=4,
            )
            axes.axhspan(0, low, color=COLOURS[5], alpha=0.25, linewidth=0)
            axes.set_xlim(0, 1.02 * max(steps[-1], 1))
            axes.set_ylim(0, None)
        for axes, title in (
            (loss, "loss"),
            (rank, "rank of the features"),
            (std, "std of the features (1: a full sphere)"),
        ):
            axes.set_title(title, fontsize=10.5, loc="left")
            axes.set_xlabel("step")
            axes.grid(color="#eeeeee", linewidth=0.6)
        std.text(
            0.99,
            0.02,
            "collapse",
            color=COLOURS[5],
            ha="right",
            fontsize=9,
            transform=std.transAxes,
        )
        write_whole(path, lambda file: figure.savefig(file, dpi=110, format="png"))


def _warnings(lines: Numbers, objective: Mapping[str, Any]) -> list[str]:
    """The verdict of the health check on the latest features, after all earlier ones."""
    health, words = Health(objective), []
    for line in lines:
        if "rank" in line:
            words = health.verdict(line, {name: line[name] for name in ("rank", "std")})
    return words


def _loss(lines: Numbers) -> str:
    window = max(1, min(100, len(lines) // 4))
    now, before = (
        _mean(lines[-window:], "loss"),
        _mean(lines[-2 * window : -window] or lines[:1], "loss"),
    )
    # Relative to the absolute loss before: a loss such as KoLeo's can be negative.
    change = (now - before) / abs(before) if before else 0.0
    trend = (
        "steady"
        if abs(change) < 0.005
        else (
            f"{'falling' if change < 0 else 'rising'}, {change:+.1%} against the {window} steps"
            " before"
        )
    )
    return f"{now:.4f} over the last {window} steps: {trend}"


def _speed(lines: Numbers, config: dict, seconds: float | None, left: int) -> str:
    if seconds is None:
        return "not known: the log has no times"
    row_tokens = config["rows"]["per_step"] * config["rows"]["length"]
    tokens = statistics.fmean(line.get("tokens", row_tokens) for line in lines[-100:])
    full = f" ({tokens / row_tokens:.0%} of the rows is full)" if "tokens" in lines[-1] else ""
    remaining = f"; {_duration(left * seconds)} left at this rate" if left > 0 else ""
    return f"{1 / seconds:.3g} steps/s, {tokens / seconds:,.0f} tokens/s{full}{remaining}"


def _features(lines: Numbers) -> str:
    looked = [line for line in lines if "rank" in line]
    if not looked:
        return "not computed yet"
    last, words = looked[-1], ""
    if len(looked) > 1:
        words = (
            f" (at step {looked[0]['step']:.0f}: {looked[0]['rank']:.1f} and"
            f" {looked[0]['std']:.2f})"
        )
    more = "".join(
        f", {name.replace('_', ' ')} {last[name]:.3g}"
        for name in ("teacher_entropy", "prototypes_used")
        if name in last
    )
    return (
        f"rank {last['rank']:.1f}, std {last['std']:.2f} of 1 at step"
        f" {last['step']:.0f}{words}{more}"
    )


def _neighbours(lines: Numbers, labels: Mapping[str, str]) -> str:
    """Scores of the kNN probe for each modality, at first and now."""
    words = []
    for modality, label in labels.items():
        seen = [line for line in lines if f"knn_{modality}" in line]
        if seen:
            first, last = seen[0], seen[-1]
            before = (
                f" (at step {first['step']:.0f}: {first[f'knn_{modality}']:.3f})"
                if len(seen) > 1
                else ""
            )
            words.append(f"{label} of {modality} {last[f'knn_{modality}']:.3f}{before}")
    return ", ".join(words) or (
        "not computed yet" if labels else "not asked for (config.health.knn)"
    )


def _utilisation(lines: Numbers) -> str:
    shares = [line["mfu"] for line in lines[-101:] if "mfu" in line]
    if not shares:
        return "not known: the log has none (the peak of these devices is unknown, or it is old)"
    return f"{statistics.median(shares):.1%} of the peak, the median of {len(shares)} steps"


def _time(lines: Numbers, hosts: Mapping[str, str]) -> str:
    """What the wall time went into, and which process keeps the others waiting."""
    known = [line for line in lines if "wall_s" in line]
    if not known:
        return "not known: an old log"
    words, last = in_words(known[-1]), known[-1].get("straggler")
    if last is None:
        return words
    host = hosts.get(f"{last:.0f}")
    return f"{words}; process {last:.0f}{f' on {host}' if host else ''} waits longest"


def _process(process: Process | None, running: bool, idle: float) -> str:
    """The process that trains there, or the last that did."""
    last = f"the last step was {_duration(idle)} ago"
    if process is None:
        return f"not known: no process has written its name; {last}"
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(process.since))
    if process.is_alive:
        return f"{process.name} trains here since {began}; {last}"
    if process.is_alive is None:
        seems = "it seems to train" if running else "it seems to have ended"
        return f"{process.name}, which cannot be asked from here: {seems}; {last}"
    return f"none: {process.name}, of {began}, has ended; {last}"


def _checkpoint(workdir: Path, done: int) -> str:
    """The newest whole checkpoint, the damaged ones, and the number of steps that are not saved."""
    damaged: list[int] = []
    # From the newest down, so that every damaged step found is later than the first whole one.
    for step in sorted(step_folders(workdir), reverse=True):
        fault = find_fault(workdir, step)
        if fault is None:
            broken = "".join(f"; step {later} is not" for later in damaged)
            lost = f"; {done - step} of {done} trained steps are not saved" if done > step else ""
            return f"step {step}, whole{broken}{lost}"
        damaged.append(step)
    return f"none of {len(damaged)} is whole" if damaged else "none yet"


def _next(workdir: Path, done: int, planned: int, running: bool) -> str:
    if done >= planned:
        return (
            f"mmv evaluate --config experiments/eval_X.py --checkpoint {workdir} --workdir"
            f" {workdir}/evaluate"
        )
    return (
        "it is running: wait"
        if running
        else "the same `mmv pretrain` command goes on from the checkpoint"
    )


def _mean(lines: Numbers, name: str) -> float:
    """The mean over finite values."""
    values = [line[name] for line in lines if abs(line[name]) < float("inf")]  # False for NaN too
    return statistics.fmean(values) if values else float("nan")


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
