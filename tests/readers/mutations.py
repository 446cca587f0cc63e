"""A corpus of small valid files of every format, and ways to break them; read in a process of its
own that may die, hang or swell.
"""

import gzip
import io
import multiprocessing
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import nibabel as nib
import numpy as np
from dicom_files import ct_slice, radiograph, stored_volume
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

SHIPPED = (  # of pydicom's wheel: one or two of each encoding, small
    "CT_small.dcm", "MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm",
    "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm", "JPEG2000.dcm", "JPGExtended.dcm", "JPEG-lossy.dcm",
    "JPEGLSNearLossless_16.dcm", "SC_rgb_jpeg_dcmd.dcm",
    "693_J2KI.dcm", "rtdose.dcm", "SC_rgb_rle.dcm", "image_dfl.dcm",
)  # fmt: skip


LARGEST_SEED = 200_000  # bytes of a library's test file


def shipped_files() -> dict[str, bytes]:
    """Name -> content of every small test file in the wheels of pydicom and nibabel, whether it is
    an image or not.
    """
    folders = {
        "pydicom": Path(get_testdata_file("CT_small.dcm", download=False)).parent,
        "nibabel": Path(nib.__file__).parent / "tests" / "data",
    }
    return {
        f"{library}/{path.name}": path.read_bytes()
        for library, folder in folders.items()
        for path in sorted(folder.iterdir())
        if path.is_file() and 0 < path.stat().st_size <= LARGEST_SEED
    }


def corpus(folder: Path) -> dict[str, bytes]:
    """Name -> content of valid files. `folder` is where libraries that write only to paths may
    write.
    """
    import nrrd
    import SimpleITK as sitk

    files = {name: Path(get_testdata_file(name, download=False)).read_bytes() for name in SHIPPED}
    volume = stored_volume(6, 16, 12) - 1024
    picture = np.tile(np.arange(64, dtype=np.uint16) * 60, (48, 1))
    for name, syntax in (("rle", RLELossless), ("j2k", JPEG2000Lossless), ("jls", JPEGLSLossless)):
        dataset = radiograph(picture)
        dataset.compress(syntax)
        files[f"{name}.dcm"] = _bytes_of(dataset)
    files["deflated.dcm"] = _bytes_of(
        radiograph(picture, TransferSyntaxUID=DeflatedExplicitVRLittleEndian)
    )
    files["ct.dcm"] = _bytes_of(ct_slice(stored_volume(1)[0], 0))
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        files[f"{kind.__name__}.nii"] = kind(
            volume.transpose(), np.diag([-0.7, -0.8, 2.5, 1])
        ).to_bytes()
        files[f"{kind.__name__}.nii.gz"] = gzip.compress(files[f"{kind.__name__}.nii"])
    for suffix in ("mha", "nrrd"):
        for packed in (False, True):
            path = folder / f"volume{packed}.{suffix}"
            sitk.WriteImage(sitk.GetImageFromArray(volume), str(path), useCompression=packed)
            files[path.name] = path.read_bytes()
    nrrd.write(
        str(folder / "p.nrrd"),
        volume,
        {"space": "left-posterior-superior", "space directions": np.eye(3)},
    )
    files["pynrrd.nrrd"] = (folder / "p.nrrd").read_bytes()
    grey = (picture >> 4).astype(np.uint8)
    for name, form, pixels in (
        ("8.png", "PNG", grey),
        ("16.png", "PNG", picture),
        ("8.jpg", "JPEG", grey),
    ):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, form)
        files[name] = buffer.getvalue()
    files["12.jpg"] = imagecodecs.jpeg8_encode(picture, level=95, bitspersample=12)
    files["rgb16.png"] = imagecodecs.png_encode(np.stack([picture] * 3, axis=-1))
    return files


def _bytes_of(dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """One to eight changes, mostly one: bits, bytes, extreme numbers, cuts, insertions, blocks
    moved; half of them within the first 600 bytes.
    """
    out = bytearray(data)
    for _ in range(min(8, rng.geometric(0.6))):
        if len(out) < 8:
            break
        reach = min(600, len(out)) if rng.random() < 0.5 else len(out)
        at = int(rng.integers(0, reach - 4))
        length = int(rng.integers(1, 64))
        kind = rng.integers(0, 8)
        if kind == 0:
            out[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            out[at] = int(rng.integers(0, 256))
        elif kind == 2:
            extreme = (
                b"\xff\xff\xff\xff",
                b"\0\0\0\0",
                b"\xff\xff\xff\x7f",
                b"\0\0\0\x80",
                b"\1\0\0\0",
                b"9999",
            )
            out[at : at + 4] = extreme[rng.integers(0, len(extreme))]
        elif kind == 3:
            del out[at + int(rng.integers(0, max(1, len(out) - at))) :]
        elif kind == 4:
            del out[at : at + length]
        elif kind == 5:
            out[at:at] = rng.bytes(length)
        elif kind == 6:
            out[at : at + length] = bytes(min(length, len(out) - at))
        else:
            source = int(rng.integers(0, len(out)))
            out[at:at] = out[source : source + length]
    return bytes(out)


@dataclass(frozen=True)
class Outcome:
    """What became of a file: "read", a code of Refused, or what must never be: "died", "hung",
    "raised X". `wall_s` counts what a loaded machine does beside it.
    """

    name: str
    word: str
    reason: str
    cpu_s: float
    wall_s: float
    grown_mb: float


def outcomes(
    cases: Iterator[tuple[str, bytes]], folder: Path, limit_s: float = 60.0
) -> Iterator[Outcome]:
    """Reads each case in a worker process; a worker that dies or hangs is replaced, and the case
    keeps the blame.
    """
    context = multiprocessing.get_context("spawn")
    worker = None
    for n, (name, data) in enumerate(cases):
        path = folder / f"case{n}"
        path.write_bytes(data)
        if worker is None:
            here, there = context.Pipe()
            worker = context.Process(target=_worker, args=(there,), daemon=True)
            worker.start()
            there.close()
            here.recv()  # imported and ready: its time is no file's
        try:
            here.send(str(path))
            found = here.recv() if here.poll(limit_s) else ("hung", "", limit_s, limit_s, 0.0)
        except EOFError:
            found = "died", f"exit code {worker.exitcode}", 0.0, 0.0, 0.0
        word = found[0]
        if word in ("hung", "died"):
            worker.kill()
            worker.join()
            worker = None
        else:
            path.unlink()
        yield Outcome(name, *found)
    if worker is not None:
        worker.kill()
        worker.join()


def _worker(pipe) -> None:
    # Imported by the readers when they need it; here before the clock runs.
    import highdicom.spatial  # noqa: F401
    import nrrd  # noqa: F401
    import SimpleITK  # noqa: F401

    from mmv_jax.readers.read import read_study
    from mmv_jax.readers.refused import Refused

    pipe.send("ready")
    while True:
        path = pipe.recv()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began, wall_began = time.process_time(), time.monotonic()
        try:
            study = read_study(path)
            finite = bool(np.isfinite(study.voxels.min()) and np.isfinite(study.voxels.max()))
            word, reason = ("read", "") if finite else ("raised", "voxels that are not finite")
        except Refused as why:
            word, reason = why.code, why.reason
        except BaseException as error:
            word, reason = f"raised {type(error).__name__}", ""
        pipe.send(
            (
                word,
                reason,
                time.process_time() - began,
                time.monotonic() - wall_began,
                (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
            )
        )
