"""When a run has had enough of steps that are not finite."""

from mmv_jax.errors import WorkFailed

STEPS = 3  # in a row that may be not finite, before a run stops


class Patience:
    """Counts them. `advice`: a sentence on what to change."""

    def __init__(self, advice: str):
        self._advice, self._in_a_row = advice, 0

    def see(self, step: int, *, skipped: bool) -> None:
        """
        Raises:
          WorkFailed: this was the last of `STEPS` in a row.
        """
        self._in_a_row = self._in_a_row + 1 if skipped else 0
        if self._in_a_row >= STEPS:
            raise WorkFailed(
                f"the loss or its gradient was not finite for {STEPS} steps in a row (to step"
                f" {step}). No weight was touched by them. {self._advice} The same command goes on"
                " from the last checkpoint."
            )
