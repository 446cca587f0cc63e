"""The config of an evaluation that names only labels; their values decide the kind of each task."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
from ml_collections import ConfigDict

from mmv_jax.checkpoint import restore_items
from mmv_jax.errors import UserError
from mmv_jax.evaluate.tasks.columns import column, plain, unknown_of_two
from mmv_jax.released import read_weights, weights_file
from mmv_jax.report.progress import say
from mmv_jax.store.read import Store

ROW = 1024  # the fewest tokens of a row, as in the package's configs
YES = ("1", "true", "yes", "positive", "present")  # values that count as the positive class


def config_of_labels(store: str, labels: Sequence[str], checkpoint: str) -> ConfigDict:
    """Make the config with one task a label, beside the floors of random weights and of pixels.

    It prints the kind of task that it chose for each label.

    Args:
      labels: columns of the store. One with two values is a classification, one with more numbers a
        regression.
      checkpoint: its config gives the length of the rows, which its views need.
    Raises:
      UserError: no manifest has the label, or it has no value, only one, or more than two that are
        not numbers.
    """
    index = Store.open(store).index
    # No item is named, so the config is read without the weights.
    file = weights_file(checkpoint)
    trained = read_weights(file)[1] if file else restore_items(checkpoint, ())[1]
    config = ConfigDict({"seed": 1, "exclude_overlap": False, "plugins": ()})
    config.data = {"store": store}
    config.view = {"planar": None, "volume": None}
    config.rows = {"length": max(ROW, trained.get("rows", {}).get("length", 0)), "rows": 4}
    config.encoders = {}
    config.tasks = {}
    for label in dict.fromkeys(labels):
        values = column(index, label, f"--label {label}")
        config.tasks[label] = {"label": label, **task_of(label, values)}
    return config


def task_of(label: str, values: pd.Series) -> dict[str, Any]:
    # An empty cell is an unknown label, not a further value.
    known = values[~unknown_of_two(values)]
    there = sorted(known.unique().tolist())
    if len(there) < 2:
        told = f"all {len(known)} studies that have it say {there[0]!r}" if there else "it is empty"
        raise UserError(f"--label {label}: {told}, so there is nothing to predict.")
    if len(there) == 2:
        # Without such a word the larger value is positive, as 1 is among 0 and 1.
        positive = next((x for x in there if plain(x).lower() in YES), there[1])
        other = next(x for x in there if x != positive)
        told = f"{plain(positive)} against {plain(other)}"
        say(f"{label}: classification of {told}, {len(known)} studies")
        return {"kind": "classification", "positive": positive}
    if pd.api.types.is_numeric_dtype(known):
        say(f"{label}: regression, from {there[0]:g} to {there[-1]:g}, {len(known)} studies")
        return {"kind": "regression"}
    raise UserError(
        f"--label {label} has {len(there)} values that are no numbers"
        f" ({', '.join(map(repr, there[:4]))}, ...). Write a config with a task a value:"
        f" c.tasks[NAME] = {{'kind': 'classification', 'label': {label!r}, 'positive':"
        f" {there[0]!r}}} (see `mmv configs`)."
    )


@contextmanager
def in_terms_of(labels: Sequence[str]) -> Iterator[None]:
    """Says of a label what a message says of its task, which the user never wrote.

    Raises:
      UserError: as it was raised inside, in these words.
    """
    try:
        yield
    except UserError as error:
        words = str(error)
        for label in sorted(labels, key=len, reverse=True):  # "age at scan" before "age"
            own = rf"config\.tasks\.{re.escape(label)}(\.(label|positive))?"
            # A label may hold backslashes, which a replacement would read.
            words = f"--label {label}".join(re.split(f"(?:{own})", words)[::3])
        raise UserError(words.replace("the task", "the label")) from None
