"""Whether a mesh can share out the rows of a step, their tokens and the heads evenly."""

from collections.abc import Iterator
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmv_jax.errors import UserError
from mmv_jax.models.dense import hidden_width
from mmv_jax.objectives.mae import DecoderTerm
from mmv_jax.objectives.term import STUDENT, TEACHER, VISIBLE, Work
from mmv_jax.parallel import HOLD_ROWS, holders
from mmv_jax.train.objective import Objective


def check_rows(config: ConfigDict, mesh: Mesh) -> None:
    """
    Raises:
      UserError: the rows of a step, or of one of its parts, cannot be shared out evenly.
    """
    per_step, parts = config.rows.per_step, config.rows.get("accumulate", 1)
    sharing = holders(mesh, HOLD_ROWS)
    if not isinstance(parts, int) or isinstance(parts, bool) or parts < 1:
        raise UserError(
            f"config.rows.accumulate is {parts!r}, but is the number of parts of a step. Set a"
            " whole number from 1 on."
        )
    if per_step < 1 or per_step % sharing:
        raise UserError(
            f"config.rows.per_step is {per_step}, but {sharing} devices share the rows of a step"
            f" evenly. Set --config.rows.per_step={max(1, round(per_step / sharing)) * sharing}."
        )
    if per_step // sharing % parts:
        own = per_step // sharing
        fitting = max(n for n in range(1, min(parts, own) + 1) if own % n == 0)
        raise UserError(
            f"config.rows.accumulate is {parts}, but does not divide the {own} rows of a device"
            f" (config.rows.per_step={per_step}). Set --config.rows.accumulate={fitting}."
        )


def check_split(objective: Objective, work: Work, mesh: Mesh) -> None:
    """
    Args:
      work: of any number of rows.
    Raises:
      UserError: the axes `tensor` and `sequence` do not divide heads, hidden channels or tokens.
    """
    tensor, sequence = mesh.shape["tensor"], mesh.shape["sequence"]
    for name, heads, hidden in _stacks(objective):
        for axis, size in (("tensor", tensor), ("sequence", tensor * sequence)):
            if heads % size:
                product = f" × tensor={tensor}" if axis == "sequence" and tensor > 1 else ""
                own = [
                    n
                    for n in range(1, mesh.shape[axis])
                    if heads % (size // mesh.shape[axis] * n) == 0
                ]
                raise UserError(
                    f"config.mesh.{axis}={mesh.shape[axis]}{product} does not divide the {heads}"
                    f" heads of {name}. Set --config.mesh.{axis}={max(own, default=1)}."
                )
        if hidden % tensor:
            fitting = max(n for n in range(1, tensor) if hidden % n == 0 and heads % n == 0)
            raise UserError(
                f"config.mesh.tensor={tensor} does not divide the {hidden} hidden channels of"
                f" {name}. Set --config.mesh.tensor={fitting}."
            )
    for name, tokens in _lengths(objective, work):
        if tokens % sequence:
            fitting = max(n for n in range(1, sequence) if tokens % n == 0)
            raise UserError(
                f"config.mesh.sequence={sequence} does not divide the {tokens} tokens of {name}."
                f" Set --config.mesh.sequence={fitting}, or change that number."
            )


def _stacks(objective: Objective) -> Iterator[tuple[str, int, int]]:
    """Name, heads and hidden channels of each stack of blocks whose heads are known."""
    encoder: Any = objective.encoder
    if hasattr(encoder, "heads"):
        mlp, chosen = getattr(encoder, "mlp", "gelu"), getattr(encoder, "mlp_hidden", None)
        yield "config.encoder", encoder.heads, hidden_width(encoder.width, mlp, chosen)
    for term in objective.terms.values():
        if isinstance(term, DecoderTerm):
            hidden = hidden_width(term.decoder_width, "gelu")
            yield "config.objective.decoder_heads", term.decoder_heads, hidden


def _lengths(objective: Objective, work: Work) -> Iterator[tuple[str, int]]:
    """Name and number of the tokens of each kind of row that passes through blocks."""
    needs = objective.needs
    if STUDENT in needs:
        yield "config.rows.length", work.length
    if TEACHER in needs:
        yield "config.rows.prefix", work.prefix
    if VISIBLE in needs:
        yield "a row's visible part (config.rows.visible_tokens)", work.visible
    for term in objective.terms.values():
        if isinstance(term, DecoderTerm):
            yield "a row that is decoded", term.decoded(work)
