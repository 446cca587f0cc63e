"""The needs of a run by the accelerator's own compiler: memory, FLOPs, collectives, time.

No accelerator is needed for it.
"""

import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import jax
from ml_collections import ConfigDict

from mmv_jax.errors import UserError
from mmv_jax.parallel import AXES, HOLD_ROWS, holders, make_mesh
from mmv_jax.preflight import hlo
from mmv_jax.preflight.appetite import Appetite, appetite
from mmv_jax.preflight.topology import Topology, devices_of, parse_topology, virtual_devices
from mmv_jax.train.advice import HEADROOM, Choice, Proposal, propose, suggest
from mmv_jax.train.begin import complete
from mmv_jax.train.flops import Filling, expected_filling, step_flops
from mmv_jax.train.loop import lower_step, make_parts, make_views, row_shape
from mmv_jax.train.objective import Objective, with_remat
from mmv_jax.train.room import choice_of, closed_form_of


@dataclass(frozen=True)
class Preflight:
    """Figures of a step; bytes are of one device, FLOPs of all together.

    On virtual devices, figures that need a known chip are None.

    Attributes:
      parameters: number of trained parameters; `parameters_of` has them by module of the student.
      flops_per_step: FLOPs that training needs, the measure of utilisation; `flops_of` has its
        parts.
      products_closed: FLOPs of matrix products outside attention, those computed again included, in
        closed form.
      products_compiled: the same, counted in the compiled program; None where it did not compile.
      memory_bytes_per_device: by the compiler. Where the step does not fit, the bytes it asked for.
        `memory_of` is in closed form, by kind of array.
      hbm_bytes: of the chip; of virtual devices, their share of this machine's memory.
      free: the share of it that is not used.
      collective_bytes_per_step: bytes that a device sends; `collectives` has them by kind.
      kernels: how often a step runs each kernel of our own.
      tokens_per_step: places in the rows, padding included.
      roofline_s: the least seconds that products, memory and interconnect each take. The largest
        bounds the step.
      tokens_per_s, days: of the whole run, at the utilisation `mfu`.
      input: the rows that a host's devices consume at the utilisation `mfu`, and the workers that
        make them.
      proposal: a policy of recomputation that makes the step faster and fits; None where there is
        none.
      largest: the largest arrays, as the compiler names them, where the step does not fit.
      advice: command-line options to try in that case.
    """

    topology: str
    mesh: dict[str, int]
    parameters: int
    parameters_of: dict[str, int]
    flops_per_step: int
    flops_of: dict[str, int]
    products_closed: int
    products_compiled: int | None
    memory_bytes_per_device: int
    memory_of: dict[str, int]
    hbm_bytes: int
    free: float
    fits: bool
    collective_bytes_per_step: int
    collectives: dict[str, int]
    kernels: dict[str, int]
    tokens_per_step: int
    mfu: float
    roofline_s: dict[str, float] | None
    tokens_per_s: float | None
    days: float | None
    input: Appetite | None
    largest: list[str]
    advice: list[str]
    proposal: Proposal | None
    lower_s: float
    compile_s: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def preflight(
    config: ConfigDict,
    topology: str | None,
    devices: int | None,
    *,
    mfu: float,
    worker_rows_per_s: float | None = None,
) -> Preflight:
    """Compile the step of a config, and read its needs from the program.

    It compiles for a topology, or for virtual devices of this machine's processor.
    `config.mesh.fsdp` is kept; `config.mesh.data` follows from the number of devices. Without
    `topology` and `devices` the config's own `topology` is taken. Where it has none, there are as
    many virtual devices as its mesh has.

    Args:
      mfu: the model FLOPs utilisation for the estimate of time.
      worker_rows_per_s: rows a second that one data worker makes; see `appetite`.
    Raises:
      UserError: there is no such topology, its compiler is not installed, or the config does not
        fit its number of devices.
    """
    if topology and devices:
        raise UserError("--topology and --devices are both given; give one of them.")
    topology = topology or (None if devices else config.get("topology"))
    place = parse_topology(topology) if topology else None
    jax.config.update("jax_platforms", "cpu")  # leave this machine's own accelerator alone
    found = (
        devices_of(place)
        if place
        else virtual_devices(devices or holders(config.mesh.to_dict(), AXES))
    )
    config = with_mesh(complete(config), len(found))
    return _figures(config, _compile(config, place, found), mfu, worker_rows_per_s)


@dataclass(frozen=True)
class _Program:
    """A step of a config: lowered, and compiled if it fits, else with the compiler's refusal."""

    place: Topology | None
    lowered: Any
    compiled: Any | None
    refusal: str
    lower_s: float
    compile_s: float


def _compile(config: ConfigDict, place: Topology | None, devices: list) -> _Program:
    started = time.perf_counter()
    lowered = lower_step(config, make_mesh(**config.mesh, devices=devices))
    lowered_at = time.perf_counter()
    compiled, refusal = None, ""
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        # Too little memory is a result, whose message has the figures. Anything else is a fault.
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        refusal = str(error)
    return _Program(
        place=place,
        lowered=lowered,
        compiled=compiled,
        refusal=refusal,
        lower_s=lowered_at - started,
        compile_s=time.perf_counter() - lowered_at,
    )


def with_mesh(config: ConfigDict, devices: int) -> ConfigDict:
    """A copy of a config whose mesh has `devices` devices.

    All axes are kept but `data`; the number of replicas changes.

    Raises:
      UserError: they do not divide the devices.
    """
    fsdp, others = (
        config.mesh.get("fsdp", 1),
        holders(config.mesh.to_dict(), ("tensor", "sequence")),
    )
    if devices % others:
        raise UserError(
            f"config.mesh.tensor × config.mesh.sequence is {others}, which does not divide"
            f" {devices} devices. Lower one of them."
        )
    if devices // others % fsdp:
        fitting = max(n for n in range(1, fsdp + 1) if devices // others % n == 0)
        raise UserError(
            f"config.mesh.fsdp is {fsdp}, which does not divide {devices // others} devices. Set"
            f" --config.mesh.fsdp={fitting}."
        )
    # A copy, which is not locked; the caller's config stays as it was.
    config = ConfigDict(config.to_dict())
    config.mesh.data = devices // (fsdp * others)
    return config


def _figures(
    config: ConfigDict, program: _Program, mfu: float, worker_rows_per_s: float | None
) -> Preflight:
    place, devices = program.place, holders(config.mesh.to_dict(), AXES)
    objective, _, _ = make_parts(config)
    shape, per_step = row_shape(config), config.rows.per_step
    student = objective.learning.shapes(program.lowered.in_avals[0][0].student)
    filling = expected_filling(make_views(config.crops), shape)
    flops = step_flops(objective, shape, per_step, filling)
    needed = sum(part.model for part in flops.values())
    products = sum(part.products for part in flops.values())
    counts = hlo.count(program.compiled.as_text()) if program.compiled else hlo.Counts()
    sent, costs = sum(counts.sent.values()), partial(_done, objective, config, filling)
    memory = _memory(config, program, objective, costs)
    # FLOPs that the chips do, with those that are computed again; `needed` counts each once.
    done = sum(part.done for part in flops.values())
    return Preflight(
        topology=place.name if place else f"{devices} virtual devices",
        mesh=dict(config.mesh),
        parameters=sum(x.size for x in jax.tree.leaves(student)),
        parameters_of={
            name: sum(x.size for x in jax.tree.leaves(module)) for name, module in student.items()
        },
        flops_per_step=needed,
        flops_of={name: part.model for name, part in flops.items()},
        products_closed=products,
        # The compiled program is that of one device.
        products_compiled=round(counts.flops * devices) if program.compiled else None,
        **memory,
        collective_bytes_per_step=round(sent),
        collectives={kind: round(sent) for kind, sent in counts.sent.items()},
        kernels={name: round(times) for name, times in counts.kernels.items()},
        tokens_per_step=per_step * shape.length,
        mfu=mfu,
        **_pace(
            place,
            config,
            needed=needed,
            done=done,
            memory=memory["memory_bytes_per_device"],
            sent=sent,
            mfu=mfu,
            worker_rows_per_s=worker_rows_per_s,
        ),
        lower_s=program.lower_s,
        compile_s=program.compile_s,
    )


def _done(objective: Objective, config: ConfigDict, filling: Filling, choice: Choice) -> int:
    """FLOPs that a step does under a choice, what it computes again included."""
    chosen = with_remat(objective, choice.remat, choice.accumulate)
    flops = step_flops(chosen, row_shape(config), config.rows.per_step, filling)
    return sum(part.done for part in flops.values())


def _memory(
    config: ConfigDict,
    program: _Program,
    objective: Objective,
    costs: Callable[[Choice], float],
) -> dict[str, Any]:
    """The figures of memory: the compiler's, the closed form, advice where the step does not fit,
    and a proposal where memory is free.
    """
    devices = holders(config.mesh.to_dict(), AXES)
    sharing = holders(config.mesh.to_dict(), HOLD_ROWS)
    state = program.lowered.in_avals[0][0]

    closed_form = closed_form_of(config, objective, state, row_shape(config))
    now = choice_of(config, objective)
    memory_of = closed_form(now)
    if program.compiled:
        memory = compiled_bytes(program.compiled.memory_analysis(), program.place)
    else:
        memory = refused_bytes(program.refusal)
    # Virtual devices share the memory of this machine.
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    hbm = program.place.chip.hbm_bytes if program.place else machine // devices
    fits, room = program.compiled is not None and memory <= hbm, (1 - HEADROOM) * hbm
    # The closed form is scaled to the compiler's figure, which makes the advice more precise.
    scale, better = memory / sum(memory_of.values()), []

    def takes(choice: Choice) -> float:
        return scale * sum(closed_form(choice).values())

    remats = objective.encoder.remats
    if not fits or memory > room:
        better = suggest(now, sharing, takes, room, remats=remats)
    return {
        "memory_bytes_per_device": memory,
        "memory_of": memory_of,
        "hbm_bytes": hbm,
        "free": 1 - memory / hbm,
        "fits": fits,
        "largest": largest_arrays(program.refusal),
        "advice": [choice.overrides(now) for choice in better],
        "proposal": propose(now, remats, costs=costs, takes=takes, room=room),
    }


def _pace(
    place: Topology | None,
    config: ConfigDict,
    *,
    needed: int,
    done: int,
    memory: int,
    sent: float,
    mfu: float,
    worker_rows_per_s: float | None,
) -> dict[str, Any]:
    """The figures of time: the bounds of a step, and the speed of a run at the utilisation `mfu`.

    The FLOPs `needed` and `done` are of all devices.
    """
    if place is None:
        return dict.fromkeys(("roofline_s", "tokens_per_s", "days", "input"))
    peak, tokens = place.devices * place.chip.flops, config.rows.per_step * config.rows.length
    # Utilisation is defined by needed FLOPs; the roofline below counts the FLOPs that are done.
    step_s = needed / (mfu * peak)
    # Every byte in use is written and read at least once.
    bounds = {
        "products": done / peak,
        "memory": 2 * memory / place.chip.hbm_bandwidth,
        "interconnect": sent / place.chip.interconnect,
    }
    return {
        "roofline_s": bounds,
        "tokens_per_s": tokens / step_s,
        "days": config.steps * step_s / 86_400,
        "input": appetite(
            config,
            place.chip,
            place.devices,
            step_s=step_s,
            worker_rows_per_s=worker_rows_per_s,
        ),
    }


def compiled_bytes(analysis, place: Topology | None) -> int:
    """The most bytes that a device holds: arguments, results and temporary arrays.

    Results that reuse the memory of an argument are not counted.
    """
    code = analysis.generated_code_size_in_bytes
    # The TPU's compiler gives the peak, by which it also refuses a program. Its sum of temporary
    # arrays is up to a fifth larger (docs/performance.md). Other compilers' peak has none of them.
    if place is not None and place.chip.sides:
        return analysis.peak_memory_in_bytes + code
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
        + code
    )


# The TPU compiler's two ways to say what a step needs.
REFUSALS = r"(?:Used |required for HLO temporaries \()([\d.]+)([KMGT])"


def refused_bytes(refusal: str) -> int:
    """The bytes that a step asked for when it did not fit, from the TPU compiler's message."""
    found = re.search(REFUSALS, refusal)
    assert found is not None, refusal
    return round(float(found[1]) * 2 ** {"K": 10, "M": 20, "G": 30, "T": 40}[found[2]])


def largest_arrays(refusal: str, most: int = 5) -> list[str]:
    """The largest allocations in the TPU compiler's refusal: size, shape, and the operation of the
    array.
    """
    # Each allocation begins with its size and ends with a line of equals signs.
    blocks = re.findall(r"Size: (\S+)(.*?)={5,}", refusal, re.DOTALL)
    found = []
    for size, rest in blocks[:most]:
        shape, made_by = re.search(r"Shape: ([^\s{]+)", rest), re.search(r'op_name="([^"]*)"', rest)
        found.append(f"{size} {shape[1] if shape else ''} {made_by[1] if made_by else ''}".strip())
    return found
