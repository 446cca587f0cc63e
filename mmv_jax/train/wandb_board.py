"""Weights & Biases: an extra board for the numbers of a run (extra `wandb`)."""

import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmv_jax.buckets import BucketPath
from mmv_jax.errors import UserError
from mmv_jax.files import write_whole


@dataclass(frozen=True)
class LogOptions:
    """The group `log` of a config: boards beside metrics.jsonl and TensorBoard.

    Attributes:
      wandb: the project in Weights & Biases; empty for none. With WANDB_MODE=offline everything
        stays in the workdir until `wandb sync`.
    """

    wandb: str = ""

    def __post_init__(self) -> None:
        """Check that the package `wandb` is installed, if a project is named.

        Raises:
          UserError: it is not.
        """
        if self.wandb and find_spec("wandb") is None:
            raise UserError(
                "config.log.wandb needs the package wandb, which is not installed: pip install"
                " 'mmv_jax[wandb]', or leave it empty."
            )


class WandbBoard:
    """A run of Weights & Biases in `workdir/wandb`; a resume continues it.

    Only numbers and the config leave the machine: no code, no output, no system metrics.

    Args:
      config: JSON types.
    """

    def __init__(self, project: str, workdir: Path, config: Mapping[str, Any]):
        # Not at the top of the file: the package is an optional extra.
        import wandb

        settings = wandb.Settings(
            console="off", disable_git=True, disable_code=True, x_disable_stats=True, silent=True
        )
        self._run = wandb.init(
            project=project,
            # It appends to its files: in a bucket only the run's id is kept.
            dir=tempfile.mkdtemp() if isinstance(workdir, BucketPath) else str(workdir),
            id=_run_id(workdir / "wandb" / "run_id"),
            name=workdir.name,
            config=dict(config),
            resume="allow",
            settings=settings,
        )
        # W&B's own step counter may not go back, so it would drop the steps that a resume repeats.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, numbers: Mapping[str, float | int]) -> None:
        """Send the numbers of a step."""
        self._run.log({"step": step, **numbers})

    def close(self) -> None:
        """Wait until everything is written."""
        self._run.finish()


def _run_id(path: Path) -> str:
    # The id is kept in the workdir, so that a resume continues the same run of W&B.
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, secrets.token_hex(4))
    return path.read_text()
