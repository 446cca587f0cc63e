"""The loop of every training: a step a batch, its numbers a step late, its checkpoint."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from mmv_jax.train.log import one_behind

State = TypeVar("State")
Given = TypeVar("Given")


def take_steps(
    take: Callable[[int, State, Given], tuple[State, dict[str, Any]]],
    state: State,
    batches: Iterable[tuple[int, Given]],
    *,
    write: Callable[[int, dict[str, Any]], None],
    save: Callable[[int, State, Callable[[], None]], bool],
) -> State:
    """The state after a step for each of `batches`, or after the step at which `save` ended it.

    Args:
      take: (number of the step, state, batch) -> (state, numbers). It may use up the old state.
      batches: the number of each step and its batch.
      write: gets the numbers of a step while the next one is computed, as the device must not wait
        for the log. What it raises ends the loop.
      save: called after each step with its number, the state, and a function that has `write` take
        the step's numbers now, which waits for the device; True ends the loop.

    Example:
      >>> saved = lambda step, state, flush: state >= 3
      >>> take_steps(
      ...     lambda step, state, batch: (state + batch, {"sum": state + batch}),
      ...     0,
      ...     enumerate([1, 2, 4]),
      ...     write=lambda step, numbers: print(step, numbers),
      ...     save=saved,
      ... )
      0 {'sum': 1}
      1 {'sum': 3}
      3
    """
    with one_behind(write) as report:
        for step, batch in batches:
            state, numbers = take(step, state, batch)
            report(step, numbers)
            if save(step, state, report.flush):
                break
    return state
