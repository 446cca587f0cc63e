"""How others read a crop of a CT: nibabel, MONAI's PersistentDataset, nnU-Net's Blosc2.

Each function takes a folder, the volume [z, y, x] and the crop, writes what its reader needs, and
returns the reader: from a start (z, y, x) to float32 voxels.
"""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

Grid = tuple[int, int, int]  # z, y, x
Reader = Callable[[np.ndarray], np.ndarray]

# nnU-Net's rule (`comp_blosc2_params`) for crops of 64 x 128 x 128 of float32: a block fills 80 %
# of 32 KiB of cache, a chunk 80 % of 1.4 MB.
BLOSC2_BLOCK, BLOSC2_CHUNK = (16, 16, 16), (80, 64, 64)


def nibabel_reader(folder: Path, voxels: np.ndarray, crop: Grid) -> Reader:
    """nibabel on a .nii.gz: it has to inflate everything before the end of the box."""
    path = folder / "volume.nii.gz"
    # NIfTI's order is x, y, z.
    nibabel.save(nibabel.Nifti1Image(voxels.transpose(), np.eye(4)), path)

    def read(start: np.ndarray) -> np.ndarray:
        box = _box(start, crop)[::-1]
        return np.asarray(nibabel.load(path).dataobj[box], np.float32).transpose()  # type: ignore[attr-defined]

    return read


def monai_reader(folder: Path, voxels: np.ndarray, crop: Grid) -> Reader:
    """MONAI's PersistentDataset: the loaded volume is cached on disk, and read whole for each crop.

    It is cached in int16, which is half as large as MONAI's default.
    """
    # Not at the top of the file: MONAI is no dependency, and imports PyTorch.
    from monai.data import PersistentDataset
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

    path, at = folder / "volume_of_monai.nii.gz", {"start": np.zeros(3, int)}
    nibabel.save(nibabel.Nifti1Image(voxels.transpose(), np.eye(4)), path)

    # What is no `Transform` of MONAI's counts as random: what stands before it is cached.
    def cropped(item: dict[str, Any]) -> Any:
        return item["image"][(0, *_box(at["start"], crop)[::-1])]

    steps: list[Any] = [LoadImaged("image", dtype=np.int16), EnsureChannelFirstd("image"), cropped]
    data = PersistentDataset(
        [{"image": str(path)}], transform=Compose(steps), cache_dir=folder / "monai"
    )

    def read(start: np.ndarray) -> np.ndarray:
        at["start"] = start
        return np.asarray(data[0], np.float32).transpose()

    return read


def blosc2_reader(folder: Path, voxels: np.ndarray, crop: Grid) -> Reader:
    """Blosc2 as nnU-Net writes and reads it: float32, zstd at level 8, mapped into memory, one
    thread.

    Source: `nnUNetDatasetBlosc2` (Isensee et al., arXiv 2404.09556).
    """
    import blosc2

    path = str(folder / "volume.b2nd")
    fits = {
        name: (1, *map(min, sides, voxels.shape))
        for name, sides in (("blocks", BLOSC2_BLOCK), ("chunks", BLOSC2_CHUNK))
    }
    options: dict[str, Any] = {"codec": blosc2.Codec.ZSTD, "clevel": 8}
    # The first axis is nnU-Net's channel.
    blosc2.asarray(voxels[None].astype(np.float32), urlpath=path, cparams=options, **fits)

    def read(start: np.ndarray) -> np.ndarray:
        # Opened for each case, as nnU-Net's loader does.
        opened = blosc2.open(path, mode="r", mmap_mode="r", dparams={"nthreads": 1})
        return opened[(0, *_box(start, crop))]

    return read


PEERS = {
    "nibabel, .nii.gz": ("nibabel", nibabel_reader),
    "MONAI's PersistentDataset": ("monai", monai_reader),
    "nnU-Net's Blosc2": ("blosc2", blosc2_reader),
}


def crop_readers(
    folder: Path, voxels: np.ndarray, crop: Grid
) -> tuple[dict[str, Reader], list[str]]:
    """The readers of all peers that are installed, and a sentence for each that is not."""
    readers, absent = dict[str, Reader](), list[str]()
    for name, (package, make) in PEERS.items():
        if find_spec(package) is None:
            absent.append(f"{name} is left out: the package {package} is not installed.")
        else:
            readers[name] = make(folder, voxels, crop)
    return readers, absent


def bytes_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    if path.is_dir():
        return sum(bytes_of(Path(entry)) for entry in os.scandir(path))
    return path.stat().st_size


def _box(start: np.ndarray, crop: Grid) -> tuple[slice, ...]:
    return tuple(slice(low, low + size) for low, size in zip(start.tolist(), crop, strict=True))
