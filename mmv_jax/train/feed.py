"""Feeds the loop: from the batches of this host to global arrays on its devices, one ahead. Axes: B
rows.
"""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmv_jax.data.pipeline import BEGIN, Rows
from mmv_jax.data.tokens import RowShape
from mmv_jax.data.wire import decode
from mmv_jax.parallel import devices_here, row_sharding

T = TypeVar("T")


def device_batches(
    rows: Rows, mesh: Mesh, first: int, workers: int
) -> Generator[dict[str, Any], None, None]:
    """Global arrays [B, ...], sharded over the mesh; each process reads the rows of its own devices
    alone. `BEGIN` is the `begin` of a resume behind the batch, see `Rows`.
    """
    sharding = row_sharding(mesh)
    own = devices_here(mesh)
    here = NamedSharding(own, PartitionSpec("rows"))
    decoded = _decoder(rows.shape, here)
    mine = rows_of_this_process(sharding, rows.per_step)
    for sent in rows.batches(first, mine=mine, workers=workers):
        with jax.set_mesh(own):
            made = decoded(jax.device_put(sent, here))
        yield {name: _globally(x, sharding, rows.per_step) for name, x in made.items()} | {
            BEGIN: rows.at
        }


@cache
def _decoder(shape: RowShape, here: NamedSharding) -> Callable[..., dict[str, jax.Array]]:
    """`decode` on this process's devices alone; runs of one process share what is compiled.

    Programs of several processes must start in the same order everywhere, and the loop asks for
    steps while a thread asks for this.
    """
    return jax.jit(partial(decode, shape=shape), in_shardings=here, out_shardings=here)


def _globally(x: jax.Array, sharding: NamedSharding, rows: int) -> jax.Array:
    """The global array [B, ...] of which every process holds its devices' rows."""
    parts = [shard.data for shard in x.addressable_shards]
    return jax.make_array_from_single_device_arrays((rows, *x.shape[1:]), sharding, parts)


def rows_of_this_process(sharding: NamedSharding, rows: int) -> list[int]:
    """The positions in a step of the rows that lie on this process's own devices, ascending; a mesh
    may interleave processes.
    """
    spans = (
        index[0]
        for index in sharding.addressable_devices_indices_map((rows,)).values()
        if index is not None
    )
    return sorted({i for span in spans for i in range(*span.indices(rows))})


@contextmanager
def ahead(made: Generator[T, None, None]) -> Iterator[Iterator[T]]:
    """Makes one item ahead, in a thread, while the last one is used. Leaving the context ends the
    thread and closes the generator.
    """
    # A slot is free when the last item was taken: so no more than one waits in memory.
    slot, left = threading.Semaphore(1), threading.Event()
    ready: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            while slot.acquire() and not left.is_set():
                ready.put((next(made), None))
        except BaseException as error:  # also the end of the items; raised in the loop's thread
            ready.put((None, error))
        finally:
            made.close()

    def items() -> Iterator[T]:
        while True:
            item, error = ready.get()
            slot.release()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item

    thread = threading.Thread(target=work, name="feed", daemon=True)
    thread.start()
    try:
        yield items()
    finally:
        left.set()
        slot.release()
        thread.join()
