"""The figures of a preflight on one screen."""

from mmv_jax.preflight.appetite import Appetite
from mmv_jax.preflight.estimate import Preflight
from mmv_jax.provenance import versions_in_words
from mmv_jax.train.advice import HEADROOM
from mmv_jax.train.memory import size


def sheet(it: Preflight) -> str:
    """The text for a person: one figure a line, then whether the step fits and what to do."""
    mesh = " x ".join(f"{name} {number}" for name, number in it.mesh.items())
    parameters = (f"{name} {number / 1e6:,.1f} M" for name, number in it.parameters_of.items())
    kernels = ", ".join(f"{name} {times} times" for name, times in it.kernels.items())
    lines = [
        (
            f"{it.topology}: mesh {mesh}; lowered in {it.lower_s:.0f} s, compiled in"
            f" {it.compile_s:.0f} s"
        ),
        f"parameters    {it.parameters / 1e6:,.1f} M ({', '.join(parameters)})",
        f"tokens        {it.tokens_per_step:,} a step",
        f"FLOPs         {it.flops_per_step:.3g} a step ({_percents(it.flops_of)})",
        (
            f"products      {it.products_closed:.4g} outside attention, some computed"
            f" again{_compiled(it)}"
        ),
        (
            f"memory        {size(it.memory_bytes_per_device)} of {size(it.hbm_bytes)} a device:"
            f" {_room(it)}"
        ),
        f"closed form   {size(sum(it.memory_of.values()))} ({_sizes(it.memory_of)})",
        f"software      {versions_in_words()}",
    ]
    seen = [
        (
            f"collectives   {size(it.collective_bytes_per_step)} that a device sends a step"
            f" ({_sizes(it.collectives)})"
        ),
        f"kernels       {kernels or 'none of our own'}",
    ]
    return "\n".join(
        lines + (seen if it.products_compiled else []) + _speed(it) + _faster(it) + _verdict(it)
    )


def _faster(it: Preflight) -> list[str]:
    """What would make the step faster, where memory is free."""
    if it.proposal is None:
        return []
    return [
        (
            f"faster        {it.proposal.overrides} saves {it.proposal.saves:.0%} of the step's"
            f" FLOPs and fits: {size(round(it.proposal.takes))} of {size(it.hbm_bytes)} by the"
            " closed form"
        )
    ]


def _room(it: Preflight) -> str:
    return f"{it.free:.0%} free" if it.free >= 0 else f"{-it.free:.0%} too much"


def _compiled(it: Preflight) -> str:
    if it.products_compiled is None:
        return ""
    return (
        f"; in the program {it.products_compiled:.4g}"
        f" ({it.products_closed / it.products_compiled - 1:+.1%})"
    )


def _speed(it: Preflight) -> list[str]:
    if it.roofline_s is None or it.tokens_per_s is None or it.days is None:
        return ["speed         not known: no chip was named (--topology)"]
    _, bound = max((value, name) for name, value in it.roofline_s.items())
    seconds = ", ".join(f"{name} {value:.3f} s" for name, value in it.roofline_s.items())
    step = it.tokens_per_step / it.tokens_per_s
    return [
        (
            f"roofline      {max(it.roofline_s.values()):.3f} s a step at least, bound by {bound}"
            f" ({seconds})"
        ),
        (
            f"at {it.mfu:.0%} MFU    {step:.3f} s a step, {it.tokens_per_s:,.0f} tokens a second,"
            f" {it.days:.1f} days for the run (published ViT runs reach 23 to 29 %: see --mfu)"
        ),
        *(_input(it.input, it.mfu) if it.input else []),
    ]


def _input(it: Appetite, mfu: float) -> list[str]:
    """Whether the input keeps up: what a host's devices consume, and what its workers make."""
    source = "as given" if it.measured else "measured on one core, docs/performance.md"
    needed = f"{it.workers_needed} workers a host"
    of_host = f" (a host has {it.cores} vCPUs)" if it.cores else ""
    lines = [
        (
            f"input         {it.rows_per_s:,.0f} rows a second on each of {it.hosts} hosts at"
            f" {mfu:.0%} MFU; a worker makes {it.worker_rows_per_s:.3g} ({source}): {needed}"
        )
    ]
    if it.keeps_up:
        return [*lines, f"              It keeps up: config.data.workers is {it.workers}."]
    made = max(it.workers, 1) * it.worker_rows_per_s
    short = f"It falls short: {made:,.0f} rows a second, {made / it.rows_per_s:.0%} of these."
    if it.cores and it.workers_needed > it.cores:
        cure = (
            f"The {it.cores} vCPUs of a host do not make enough: fewer or smaller crops a row"
            " (config.crops), or more hosts."
        )
    else:
        cure = f"Set --config.data.workers={it.workers_needed}{of_host}."
    return [*lines, f"              {short} {cure}"]


def _verdict(it: Preflight) -> list[str]:
    if it.fits and it.free >= HEADROOM:
        return [
            "It fits. The run needs: "
            + " ".join(f"--config.mesh.{name}={number}" for name, number in it.mesh.items())
        ]
    if it.fits:
        return [
            f"It fits, but less than {HEADROOM:.0%} is free. More room, by the closed form:"
            f" {' or '.join(it.advice) or 'more devices'}"
        ]
    # The closed form names kinds of arrays; the compiler's own list below does not.
    largest = sorted(it.memory_of.items(), key=lambda pair: -pair[1])[:3]
    lines = [
        "It does not fit, because of"
        f" {', '.join(f'{name} ({size(held)})' for name, held in largest)}."
    ]
    lines += (
        ["The largest arrays, as the compiler names them:", *(f"  {array}" for array in it.largest)]
        if it.largest
        else []
    )
    hopeless = (
        "No change of rows, fsdp and remat alone would make it fit: use more devices, or a smaller"
        " encoder."
    )
    return [*lines, f"Try {' or '.join(it.advice)}" if it.advice else hopeless]


def _sizes(parts: dict[str, int]) -> str:
    return ", ".join(
        f"{part} {size(held)}" for part, held in sorted(parts.items(), key=lambda pair: -pair[1])
    )


def _percents(parts: dict[str, int]) -> str:
    return ", ".join(f"{part} {flops / sum(parts.values()):.0%}" for part, flops in parts.items())
