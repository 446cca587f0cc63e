"""Our own checkpoints as named encoders, beside the evaluated one."""

from collections.abc import Mapping
from typing import Any

from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.source import EncoderSource
from mmv_jax.evaluate.encoders.trained import TrainedEncoder, restore


def load_own(group: Mapping[str, Any]) -> TrainedEncoder:
    """Load the encoder of `group["checkpoint"]`: the workdir of a run, or one of its steps.

    Args:
      group: also has `rows` and `view` of the evaluation, as `trained.restore` takes them.
    Raises:
      UserError: there is no whole checkpoint, or its encoder does not encode whole studies.
    """
    try:
        return restore(group["checkpoint"], group["rows"], group["view"])[0]
    except UserError as error:
        # The error names a command-line option, but the user must correct the config.
        words = str(error).removeprefix(f"--checkpoint {group['checkpoint']}: ")
        raise UserError(f"config.encoders: checkpoint {group['checkpoint']}: {words}") from error


OWN = EncoderSource(load_own)
