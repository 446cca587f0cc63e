"""What the processes of a run tell each other: their beats and why they end, by the key-value store
of JAX's coordination service.

The service lives in process 0, so that process ends last.
"""

import itertools
import json
import socket
from collections.abc import Mapping
from typing import Any

import jax

# Several runs of one sweep share the service; all processes count them alike.
_RUNS = itertools.count()


class Peers:
    """The processes of one run. A call may wait for ever where process 0 is stuck: make it in a
    thread that nothing waits for.

    Args:
      client: of JAX's coordination service.
      index, count: of this process, and of all.
    """

    def __init__(self, client: Any, index: int, count: int):
        self.index, self.count = index, count
        self._client, self._root = client, f"mmv/{next(_RUNS)}"

    def beat(self, words: Mapping[str, Any]) -> None:
        """Says that this process lives, and what it does."""
        self._set(f"beats/{self.index}", words)

    def beats(self) -> dict[int, dict[str, Any]]:
        """The last beat of each process that has one. Process 0 reads all and the others read that
        of process 0: thousands of processes that read all would keep the service busy.
        """
        if self.index:
            found = self._get("beats/0")
            return {} if found is None else {0: found}
        return self._all("beats")

    def complain(self, words: str, code: int) -> None:
        """Tells process 0 why this process ends."""
        self._set(f"complaints/{self.index}", {"words": words, "code": code})

    def complaint(self) -> tuple[str, int] | None:
        """The first process's complaint that there is, to be read by process 0."""
        found = self._all("complaints")
        first = found[min(found)] if found else None
        return None if first is None else (first["words"], first["code"])

    def end(self, words: str, code: int) -> None:
        """Process 0 tells all others to end, and why."""
        self._set("end", {"words": words, "code": code})

    def told_to_end(self) -> tuple[str, int] | None:
        """What process 0 said with `end`."""
        found = self._get("end")
        return None if found is None else (found["words"], found["code"])

    def leave(self) -> None:
        """Says that this process ends now."""
        self._set(f"left/{self.index}", {})

    def left(self) -> set[int]:
        """The processes that have said `leave`."""
        return set(self._all("left"))

    def _set(self, key: str, words: Mapping[str, Any]) -> None:
        value = json.dumps(words)
        self._client.key_value_set(f"{self._root}/{key}", value, allow_overwrite=True)

    def _get(self, key: str) -> Any:
        try:
            return json.loads(self._client.key_value_try_get(f"{self._root}/{key}"))
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" in str(error):
                return None
            raise

    def _all(self, folder: str) -> dict[int, Any]:
        pairs = self._client.key_value_dir_get(f"{self._root}/{folder}/")
        return {int(key.rsplit("/", 1)[1]): json.loads(value) for key, value in pairs}


def find_peers() -> Peers | None:
    """The processes of this run; None where this is the only one."""
    if jax.process_count() == 1:
        return None
    # JAX offers the key-value store under no public name.
    from jax._src.distributed import global_state

    return Peers(global_state.client, jax.process_index(), jax.process_count())


def host_name() -> str:
    """As `hostname` prints it."""
    return socket.gethostname()
