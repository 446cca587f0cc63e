"""A folder of this machine whose files are put into a bucket while they grow."""

import contextlib
import shutil
import tempfile
import threading
from pathlib import Path

EVERY_S = 10.0  # between two looks at the files
# A file that grows is put anew each time, so a log goes on in another one from here on.
PART_BYTES = 1 << 20


class Mirror:
    """Copies of the files of `folder` at the target, at most `EVERY_S` old.

    A bucket that cannot be reached for a while keeps nobody waiting: the next look puts what has
    grown since. `push` and `close` do wait, and raise.

    Args:
      target: a folder in a bucket.
    """

    def __init__(self, target: Path):
        self.folder = Path(tempfile.mkdtemp(prefix="mmv-"))
        self._target = target
        self._sizes: dict[Path, int] = {}  # as they were put
        self._lock, self._over = threading.Lock(), threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def push(self) -> None:
        """Puts the files that have grown.

        Raises:
          Unreachable: the bucket does not answer.
        """
        with self._lock:
            for file in sorted(path for path in self.folder.rglob("*") if path.is_file()):
                content = file.read_bytes()
                if content and self._sizes.get(file) != len(content):
                    (self._target / file.relative_to(self.folder)).write_bytes(content)
                    self._sizes[file] = len(content)

    def close(self) -> None:
        """Puts what is left and removes the folder."""
        self._over.set()
        try:
            self.push()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _look(self) -> None:
        while not self._over.wait(EVERY_S):
            with contextlib.suppress(OSError):
                self.push()
