"""Archives for tests: packed with any member, also those that no packer writes."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from dicom_files import stored_volume, write_series
from PIL import Image
from test_volume import VOXELS, nifti, write

ENDS = ("zip", "tar", "tar.gz")


def picture(seed: int = 0) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 20), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pack(path: Path, members: dict[str, bytes]) -> Path:
    """An archive of these members, of the kind that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return path
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def files_below(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def studies(folder: Path) -> dict[str, bytes]:
    """A series, a volume with its mask, and a picture, by their paths in `folder`."""
    write_series(folder / "ct", stored_volume(), PatientID="p1")
    write(nifti(), folder / "v.nii.gz")
    write(nifti(np.uint8(VOXELS > 0)), folder / "v_seg.nii.gz")
    (folder / "sub-07").mkdir()
    (folder / "sub-07" / "a.png").write_bytes(picture())
    return files_below(folder)


def encrypted(path: Path) -> Path:
    """A zip whose first member says that it is encrypted, in both of its headers."""
    data = bytearray(pack(path, {"a.png": picture()}).read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    return path


def smaller(path: Path) -> Path:
    """A zip whose first member declares a tenth of its size."""
    data = bytearray(pack(path, {"a.png": picture()}).read_bytes())
    size = (len(picture()) // 10).to_bytes(4, "little")
    at = data.index(b"PK\x01\x02")
    data[22:26], data[at + 24 : at + 28] = size, size
    path.write_bytes(data)
    return path


def linked(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    return path


def long_header(path: Path) -> Path:
    """A gzipped tar whose extended header declares 32 MiB of zeros."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 32 << 20
    with gzip.open(path, "wb", 1) as file:
        file.write(info.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(33):
            file.write(bytes(1 << 20))
    return path
