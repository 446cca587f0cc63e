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
    assert ingest([sys.argv[1]], sys.argv[2], workers=1).ingested == 1
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_bytes(folder: Path, voxels: np.ndarray) -> int:
    """Of the worker that ingests these voxels as a NIfTI file."""
    folder.mkdir()
    nib.save(nib.Nifti1Image(voxels, np.diag([0.8, 0.8, 1.0, 1.0])), folder / "volume.nii")
    (folder / "manifest.csv").write_text(
        "study_id,path,patient_id,split,modality,unit\na,volume.nii,p,train,CT,HU\n"
    )
    (folder / "program.py").write_text(PROGRAM)
    command = [
        sys.executable,
        str(folder / "program.py"),
        str(folder / "manifest.csv"),
        str(folder / "store"),
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return 1024 * int(
        subprocess.run(command, capture_output=True, check=True, text=True, env=environment).stdout
    )


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_a_volume_costs_at_most_four_times_its_size(tmp_path):
    # 80 MiB
    volume = np.broadcast_to(
        (np.arange(512 * 512) % 2000 - 1000).astype(np.int16).reshape(512, 512, 1), (512, 512, 160)
    )
    without = peak_bytes(tmp_path / "small", volume[:10, :10, :10])
    # About two copies, of the reader, and 100 MiB of shards on their way; Python itself is not
    # counted.
    assert peak_bytes(tmp_path / "large", volume) - without < 4 * volume.nbytes
