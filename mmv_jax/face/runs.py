"""`pretrain` and `evaluate` from Python, as the commands of the same names."""

import os
from pathlib import Path
from typing import TypeAlias

from ml_collections import ConfigDict

from mmv_jax.buckets import place
from mmv_jax.config import load_config, to_dict
from mmv_jax.report.progress import say
from mmv_jax.result_folder import only_writer, told_of_other

Config: TypeAlias = ConfigDict | str | os.PathLike


def pretrain(config: Config, workdir: str | os.PathLike) -> int:
    """Train to `config.steps`, from the newest whole checkpoint of `workdir` if there is one.

    Args:
      config: a config, or the path or name of its file.
      workdir: a folder, or a `gs://` or `s3://` address.
    Returns:
      The number of finished steps; it is below `config.steps` if the run was stopped.
    Raises:
      UserError: the config does not fit the store, the devices or the run in `workdir`.
      WorkFailed: the loss was not finite for several steps in a row.
    """
    # Imported here, so that an evaluation loads no training code.
    from mmv_jax.train import loop

    return int(loop.pretrain(_loaded(config), place(workdir)).step)


def evaluate(
    config: Config, checkpoint: str | os.PathLike | None, workdir: str | os.PathLike
) -> str:
    """Evaluate an encoder on images, pairs or mammograms, or a cohort, as the config asks.

    Args:
      config: a config, or the path or name of its file.
      checkpoint: the workdir of a run, or one of its steps; None for a cohort, or for pairs whose
        config names the encoders.
      workdir: where `metrics.json` and `report.html` go.
    Returns:
      The table of all tasks as text, and the path of the report.
    Raises:
      UserError: the config does not fit the store or the checkpoint, or another process writes to
        `workdir`.
    """
    asked, where = _loaded(config), place(workdir)
    weights = None if checkpoint is None else place(checkpoint)
    with only_writer(where, "--workdir"):
        if told := told_of_other(where, to_dict(asked)):
            say(told)
        return _evaluate(asked, weights, where)


def _evaluate(asked: ConfigDict, weights: Path | None, where: Path) -> str:
    # Each kind of evaluation has a key that no other kind has.
    if "mammograms" in asked:
        from mmv_jax.bac.evaluate import evaluate_config as of_mammograms

        return of_mammograms(asked, weights, where)
    if "cohort" in asked:  # a table of areas and outcomes, without images or encoder
        from mmv_jax.outcomes.run import evaluate_config as of_cohort

        return of_cohort(asked, where)
    if "pairs" in asked:  # two modalities of the same patients
        from mmv_jax.evaluate.pairs.run import evaluate_pairs as of_pairs

        return of_pairs(asked, weights, where)
    from mmv_jax.evaluate.run import evaluate as of_tasks

    return of_tasks(asked, weights, where)


def _loaded(config: Config) -> ConfigDict:
    return config if isinstance(config, ConfigDict) else load_config(os.fspath(config))
