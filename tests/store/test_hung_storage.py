"""Storage that does not answer: a read that blocks in the kernel ends by `--timeout`.

Nothing in the child can end such a read: no signal handler of Python and no limit of a library. So
the parent has to, and the other lines go on.
"""

import os

import numpy as np
import planted  # noqa: F401 - it adds the engine "here"
from archives import picture

from mmv_jax.readers import read
from mmv_jax.store.ingest import ingest, read_line
from mmv_jax.store.read import Store

HUNG = "hung.png"


def read_from_hung_storage(job):
    """Reads a line in the worker, where one file blocks as soon as it is looked at."""
    look = read.format_of

    def format_of(path):
        if path.name == HUNG:
            # A pipe without a writer: `open` waits in the kernel, as on a server that is gone.
            os.open(path.with_name("server"), os.O_RDONLY)
        return look(path)

    read.format_of = format_of
    try:
        return read_line(job)
    finally:
        read.format_of = look


def test_a_read_that_blocks_ends_by_the_timeout_and_the_others_go_on(tmp_path):
    os.mkfifo(tmp_path / "server")
    names = ("a.png", HUNG, "b.png")
    for n, name in enumerate(names):
        (tmp_path / name).write_bytes(picture(n))
    rows = [f"{name},{name},p{n},train,CXR" for n, name in enumerate(names)]
    header = "study_id,path,patient_id,split,modality"
    (tmp_path / "m.csv").write_text("\n".join([header, *rows, ""]))
    report = ingest(
        [tmp_path / "m.csv"],
        tmp_path / "store",
        workers=1,
        timeout_s=2.0,
        read_fn=read_from_hung_storage,
    )
    assert (report.ingested, dict(report.refused)) == (2, {"timeout": 1})
    assert sorted(Store.open(tmp_path / "store").index["line"]) == [2, 4]
    # The same command reads it once the storage answers.
    again = ingest([tmp_path / "m.csv"], tmp_path / "store", engine="here")
    assert (again.ingested, again.already) == (1, 2)
    assert np.ptp(Store.open(tmp_path / "store").index["line"]) == 2
