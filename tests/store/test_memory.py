"""Ingest of a large volume holds a few copies of it and no more."""

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

PROGRAM = """
import resource, sys
from mmv_jax.store.ingest import ingest
if __name__ == "__main__":
    for folder in ("small", "large"):
        assert ingest([f"{folder}/manifest.csv"], f"{folder}/store", workers=1).ingested == 1
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def write_volume(folder: Path, voxels: np.ndarray) -> None:
    folder.mkdir()
    nib.save(nib.Nifti1Image(voxels, np.diag([0.8, 0.8, 1.0, 1.0])), folder / "volume.nii")
    (folder / "manifest.csv").write_text(
        "study_id,path,patient_id,split,modality,unit\na,volume.nii,p,train,CT,HU\n"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_a_volume_costs_at_most_four_times_its_size(tmp_path):
    # 80 MiB
    volume = np.broadcast_to(
        (np.arange(512 * 512) % 2000 - 1000).astype(np.int16).reshape(512, 512, 1), (512, 512, 160)
    )
    write_volume(tmp_path / "small", volume[:10, :10, :10])
    write_volume(tmp_path / "large", volume)
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "program.py"]
    done = subprocess.run(
        command, capture_output=True, check=True, text=True, env=environment, cwd=tmp_path
    )
    # the largest worker so far: first that of the small one, then that of the large one
    without, peak = (1024 * int(line) for line in done.stdout.split())
    # About two copies, of the reader, and 100 MiB of shards on their way; Python itself is not
    # counted.
    assert peak - without < 4 * volume.nbytes
