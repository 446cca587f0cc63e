"""Counts from a compiled program's text: FLOPs of matrix products, and bytes through collectives.

Loops are multiplied out. `compiled.cost_analysis()` counts the body of a loop once, and a scan over
blocks is a loop.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "s16": 2,
    "u16": 2,
    "bf16": 2,
    "f16": 2,
    "s32": 4,
    "u32": 4,
    "f32": 4,
    "s64": 8,
    "u64": 8,
    "f64": 8,
}
# `name = type opcode(operands), attributes`.
# The type may be a tuple with spaces in it, so the shortest match is taken.
INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>.+?)"
    r" (?P<opcode>[a-z][\w\-]*)\((?P<operands>[^)]*)\)(?P<rest>.*)$"
)
# `ENTRY %name (parameters) -> type {`: the lines up to the closing brace belong to it.
COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\) -> .*\{$")
# Such as `bf16[8,128]`; a scalar has empty brackets.
SHAPE = re.compile(r"\b(\w+)\[([\d,]*)\]")
CALLED = re.compile(
    r"\b(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)|branch_computations=\{([^}]*)\}"
)
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
KERNEL_CALLS = ("tpu_custom_call", "__gpu$xla.gpu.triton")  # what Pallas compiles to
# The TPU's compiler writes a reduce-scatter as a computation of this name: an all-reduce, and a
# slice of its result. Its chips send what a reduce-scatter sends.
SCATTERED = "all-reduce-scatter"
# Bytes that one device sends in a ring of g devices, in units of the N bytes that the operation's
# result has on each device.
COLLECTIVES: dict[str, Callable[[int], float]] = {
    "all-gather": lambda g: (g - 1) / g,
    "all-reduce": lambda g: 2 * (g - 1) / g,
    "reduce-scatter": lambda g: g - 1,
    "all-to-all": lambda g: (g - 1) / g,
    "collective-permute": lambda g: 1,
}


@dataclass
class Counts:
    """Counts of one device.

    Attributes:
      flops: of matrix products.
      sent: bytes that a device sends, by the kind of collective.
      kernels: how often each custom kernel runs, by its name.
      unknown: loops whose length the compiler does not know, such as attention written as loops.
        Their content is not counted.
    """

    flops: float = 0.0
    sent: dict[str, float] = field(default_factory=dict)
    kernels: dict[str, float] = field(default_factory=dict)
    unknown: int = 0

    def add(self, other: "Counts", times: int | float) -> None:
        self.flops += times * other.flops
        self.unknown += other.unknown
        for ours, theirs in ((self.sent, other.sent), (self.kernels, other.kernels)):
            for name, value in theirs.items():
                ours[name] = ours.get(name, 0.0) + times * value


@dataclass
class Instruction:
    """One instruction of a computation.

    Shapes are [(dtype, dimensions)], several where the result is a tuple. The operand of a constant
    is its value.
    """

    name: str
    opcode: str
    shapes: list[tuple[str, tuple[int, ...]]]
    operands: list[str]
    rest: str


def count(text: str) -> Counts:
    """Counts of a program's text, `compiled.as_text()`."""
    computations, entry = parse(text)
    done: dict[str, Counts] = {}

    def total(name: str) -> Counts:
        # Several calls may share a computation: it is counted once, and added at each call.
        if name not in done:
            done[name] = Counts()
            for instruction in computations.get(name, {}).values():
                if instruction.opcode == "while":
                    _add_loop(done[name], instruction, computations, total)
                elif name.startswith(SCATTERED) and instruction.opcode == "all-reduce":
                    _add_scattered(done[name], instruction)
                else:
                    _add(done[name], instruction, computations[name], total)
        return done[name]

    return total(entry)


def parse(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
    """The computations of a module's text by name, and the name of the entry computation.

    A computation is a dict of instructions by name.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", {}
    for line in text.splitlines():
        if head := COMPUTATION.match(line):
            current = computations.setdefault(head["name"], {})
            entry = head["name"] if head["entry"] else entry
        elif found := INSTRUCTION.match(line):
            # Keep its value: the bound of a loop is a constant (`known_trips`).
            constant = found["opcode"] == "constant"
            operands = (
                [found["operands"]] if constant else re.findall(r"%([\w.\-]+)", found["operands"])
            )
            current[found["name"]] = Instruction(
                name=found["name"],
                opcode=found["opcode"],
                shapes=shapes_of(found["type"]),
                operands=operands,
                rest=found["rest"],
            )
    return computations, entry


def shapes_of(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """The arrays in the text of a type, as (dtype, dimensions).

    Example:
      >>> shapes_of("(bf16[8,128]{1,0:T(8,128)}, f32[])")
      [('bf16', (8, 128)), ('f32', ())]
    """
    return [
        (dtype, tuple(int(n) for n in sides.split(",") if n))
        for dtype, sides in SHAPE.findall(text)
        if dtype in BYTES
    ]


def size_bytes(shapes: list[tuple[str, tuple[int, ...]]]) -> int:
    return sum(BYTES[dtype] * math.prod(sides) for dtype, sides in shapes)


def _add_loop(
    counts: Counts,
    it: Instruction,
    computations: dict[str, dict[str, Instruction]],
    total: Callable[[str], Counts],
) -> None:
    condition, body = (
        re.search(rf"\b{word}=%?([\w.\-]+)", it.rest) for word in ("condition", "body")
    )
    assert condition is not None and body is not None
    trips = known_trips(it.rest, computations.get(condition[1], {}))
    # A loop without a known length adds nothing, and is reported as unknown.
    counts.unknown += trips is None
    counts.add(total(body[1]), trips or 0)


def known_trips(rest: str, condition: dict[str, Instruction]) -> int | None:
    """Number of turns of a loop; None where it is not known.

    Either the compiler wrote it down, or the condition compares with a constant. A scan counts from
    0 in steps of 1.
    """
    if written := TRIPS.search(rest):
        return int(written[1])
    for it in condition.values():
        bounds = [
            condition[name]
            for name in it.operands
            if name in condition and condition[name].opcode == "constant"
        ]
        if it.opcode == "compare" and "direction=LT" in it.rest and bounds:
            return int(bounds[0].operands[0])
    return None


def _add(
    counts: Counts,
    it: Instruction,
    neighbours: dict[str, Instruction],
    total: Callable[[str], Counts],
) -> None:
    called = [
        name
        for one, many in CALLED.findall(it.rest)
        for name in ([one] if one else re.findall(r"[\w.\-]+", many))
    ]
    # An asynchronous collective is a pair of instructions; its "-done" must not count again.
    kind = it.opcode.removesuffix("-start")
    if it.opcode == "conditional":
        # Only one branch runs; which one is not known, so the most expensive one counts.
        counts.add(max((total(name) for name in called), key=lambda c: c.flops), 1)
    elif kind in COLLECTIVES:
        _add_collective(counts, kind, it)
    elif it.opcode in ("fusion", "call", "async-start") and called:
        counts.add(total(called[0]), 1)
    elif it.opcode == "dot":
        counts.flops += dot_flops(it, neighbours)
    elif it.opcode == "convolution":
        counts.flops += convolution_flops(it, neighbours)
    elif it.opcode == "custom-call" and any(target in it.rest for target in KERNEL_CALLS):
        # A GPU's program names its calls by number alone; the metadata has the kernel's name.
        named = re.search(r"(\w+)/pallas_call", it.rest)
        kernel = named[1] if named else re.sub(r"[.\d]*$", "", it.name)
        counts.kernels[kernel] = counts.kernels.get(kernel, 0.0) + 1


def _add_collective(counts: Counts, kind: str, it: Instruction) -> None:
    group = group_size(it.rest)
    # A started operation returns (operand, result, ...); a plain one returns one or more results.
    shapes = (
        it.shapes[len(it.shapes) // 2 :]
        if it.opcode.endswith("-start") and kind in ("all-gather", "collective-permute")
        else it.shapes
    )
    counts.sent[kind] = counts.sent.get(kind, 0.0) + COLLECTIVES[kind](group) * size_bytes(shapes)


def _add_scattered(counts: Counts, it: Instruction) -> None:
    kind, group = "reduce-scatter", group_size(it.rest)
    own = size_bytes(it.shapes) / group
    counts.sent[kind] = counts.sent.get(kind, 0.0) + COLLECTIVES[kind](group) * own


def group_size(rest: str) -> int:
    """Number of devices that one collective joins.

    Example:
      >>> group_size("replica_groups=[16,8]<=[128], dimensions={0}")
      8
      >>> group_size("replica_groups={{0,1},{2,3}}")
      2
      >>> group_size("replica_groups=mesh['a'=4,'b'=8], device_ids=([8,4]T(1,0)) {'b'}, dimensions")
      8
    """
    # The axes of a mesh along which devices join; of one that is cut, "(before)size" of the part.
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        joined = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named[2])
        return math.prod(int(part) if part else sizes[name] for name, part in joined)
    # "[16,8]<=[128]" means 16 groups of 8 devices.
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(iota[1])
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", rest)
    # A permutation lists pairs and no groups; the bytes it sends do not depend on the size.
    return listed[1].count(",") + 1 if listed else 2


def dot_flops(it: Instruction, neighbours: dict[str, Instruction]) -> int:
    """FLOPs of a matrix product, two a multiply-add: the result's elements times the contracted
    ones.
    """
    # Operands are only names: the instruction that makes an array has its shape.
    left = neighbours[it.operands[0]].shapes[0][1]
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", it.rest)
    return (
        2
        * math.prod(it.shapes[0][1])
        * math.prod(
            left[int(i)] for i in (contracted[1].split(",") if contracted and contracted[1] else ())
        )
    )


def convolution_flops(it: Instruction, neighbours: dict[str, Instruction]) -> int:
    """FLOPs of a convolution, two a multiply-add. TPU programs write matrix products as
    convolutions.

    A batched product has its batch as a dilated window; most places of that window are empty and
    cost nothing.
    """
    left, right, out = (
        shape
        for shape in (
            neighbours[it.operands[0]].shapes[0][1],
            neighbours[it.operands[1]].shapes[0][1],
            it.shapes[0][1],
        )
    )
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", it.rest)
    assert labels is not None
    a, b, c = labels.groups()
    window = window_of(it.rest)
    places = 1
    for axis in (label for label in c if label.isdigit()):
        # Digits in `dim_labels` are spatial axes;
        # b, f, i and o are batch, features, inputs and outputs.
        places *= _places(
            left[a.index(axis)],
            right[b.index(axis)],
            out=out[c.index(axis)],
            window=window,
            axis=int(axis),
        )
    groups = re.search(r"batch_group_count=(\d+)", it.rest)
    inputs = right[b.index("i")] // (int(groups[1]) if groups else 1)
    return 2 * places * out[c.index("b")] * out[c.index("f")] * inputs


def window_of(rest: str) -> dict[str, list[str]]:
    found = re.search(r"window=\{([^}]*)\}", rest)
    return (
        {key: value.split("x") for key, value in re.findall(r"(\w+)=([\w\-]+)", found[1])}
        if found
        else {}
    )


def _places(left: int, right: int, out: int, window: dict[str, list[str]], axis: int) -> int:
    """Pairs of a place of the result and a place of the window that meet an element of the left
    operand.
    """

    def field_of(name: str, default: str) -> str:
        return window[name][axis] if name in window else default

    stride, spread, step = (
        int(field_of(name, "1")) for name in ("stride", "lhs_dilate", "rhs_dilate")
    )
    low = int(field_of("pad", "0_0").split("_")[0])
    pairs = 0
    for place in range(out):
        start = place * stride - low
        pairs += sum(
            1
            for w in range(right)
            # Between its elements the dilated operand has spread - 1 holes, which cost nothing.
            if (at := start + w * step) >= 0 and at % spread == 0 and at // spread < left
        )
    return pairs
