"""Measured patients that the encoder was pretrained on, by the keyed hashes in its checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from mmv_jax.errors import UserError
from mmv_jax.evaluate.tasks.make import check
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.store.read import Store


@dataclass(frozen=True)
class Overlap:
    """The patients of pretraining; None where they cannot be compared with the store's, for
    `reason`.

    Attributes:
      uncounted: encoders of others of whose training nothing is known.
      notices: of patients of pretraining that the store no longer has.
    """

    patients: frozenset[str] | None
    reason: str = ""
    uncounted: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Mapping, key_fingerprint: str) -> "Overlap":
        """The patients in a checkpoint's config, for a store with this fingerprint of its key."""
        carried = config.get("pretraining")
        if not carried:
            return cls(None, "the checkpoint does not say which patients it was trained on")
        if carried["key_fingerprint"] != key_fingerprint:
            return cls(
                None,
                "its store and this one were named with different keys, so a patient has two names",
            )
        patients = set(carried["patients"])
        # A distilled encoder has also learnt from the patients that its teachers have seen.
        # So has one that began from the weights of others.
        for card in (*carried.get("teachers", ()), *carried.get("init", ())):
            if card["patients"] == "unknown":
                return cls(None, f"it has learnt from {card['name']}, whose patients are not known")
            patients |= set(() if card["patients"] == "none" else card["patients"])
        return cls(frozenset(patients))

    @classmethod
    def in_store(cls, config: Mapping, store: Store) -> "Overlap":
        """As `of`; with a notice where the store of pretraining has lost patients since.

        After ids were merged or split, a patient that pretraining has seen has another name there.
        """
        found = cls.of(config, store.key_fingerprint)
        trained_on = _name_of(str(config.get("data", {}).get("store", "")))
        if found.patients is None or trained_on != _name_of(store.path):
            return found
        # Of its own store: its teachers and the run that it began from may have had others.
        own = {*config["pretraining"]["patients"]}
        gone = own - {*store.index["patient"]}
        if not gone:
            return found
        told = (
            f"{len(gone)} of {len(own)} patients of pretraining are no longer in the"
            f" store {trained_on}. If they were renamed, their studies count as unseen."
        )
        return replace(found, notices=(told,))

    def joined(self, other: "Overlap") -> "Overlap":
        """The patients of either; None where those of one cannot be compared."""
        both = (*self.uncounted, *other.uncounted)
        notices = tuple(dict.fromkeys((*self.notices, *other.notices)))
        if self.patients is None or other.patients is None:
            return Overlap(None, self.reason or other.reason, both, notices=notices)
        return Overlap(self.patients | other.patients, uncounted=both, notices=notices)

    def count(self, task: Task) -> tuple[int, int | None]:
        """Numbers of a task's measured patients, and of those that pretraining has seen (None:
        unknown).
        """
        test = np.unique(task.patients[task.split == "test"])
        return len(test), (
            None
            if self.patients is None
            else sum(patient in self.patients for patient in test.tolist())
        )

    def without(self, task: Task) -> Task:
        """The task without the test studies of pretraining patients; in folds, without any study
        of theirs, as all are measured.

        Raises:
          UserError: too few studies remain, or the patients cannot be compared.
        """
        if self.patients is None:
            raise UserError(
                "config.exclude_overlap: which patients the encoder was pretrained on cannot be"
                f" told: {self.reason}. Ingest with the --key of the pretraining store, or set"
                " it to False."
            )
        seen = np.array([patient in self.patients for patient in task.patients.tolist()])
        # Train and val may overlap with pretraining; only what is measured must be unseen.
        gone = seen & ((task.split == "test") != bool(task.folds))
        left = task[~gone]
        # Check again: without these studies the test split may be empty or have one class.
        if not task.folds:
            check(left)
        return replace(left, left_out=task.studies[gone])


def _name_of(path: str) -> str:
    # By its name alone: a store may have been moved since.
    return path.rstrip("/").rpartition("/")[2]
