"""A synthetic archive of many small studies, ingested by workers or by Ray, killed and gone on.

    nice -n 15 python tests/store/archive.py FOLDER --studies 100000 --workers 2
    nice -n 15 python tests/store/archive.py FOLDER --studies 4000 --engines local,ray

Seven of eight studies are radiographs (DICOM, 64 x 64 pixels), one is a CT (.nii.gz, 24 x 32 x 32
voxels): about the shares of MIMIC-CXR (377,110 images) and CT-RATE (50,188 volumes). With `ray`,
RAY_ADDRESS names a cluster. Prints JSON: rates, also as the store grows, memory, and whether the
engines' stores are equal bit for bit. Ends with 1 if a study is missing or another one than was
written.
"""

import argparse
import csv
import gzip
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "readers"))
from dicom_files import radiograph

COLUMNS = ("study_id", "path", "patient_id", "split", "modality", "unit", "age", "finding")
A_FOLDER = 1000  # files
CT_EVERY = 8
CXR, CT = (64, 64), (24, 32, 32)
WAVES = 6
POLL_S, COUNT_S = 2.0, 60.0
CHECKED = 300  # studies that are read back


def waves(n: int) -> np.ndarray:
    """`[n, WAVES]`: smooth curves along an axis of n voxels, from which pictures are mixed."""
    place = np.linspace(0, np.pi, n)
    return np.stack([np.cos(k * place) for k in range(WAVES)], axis=1)


def voxels_of(n: int) -> np.ndarray:
    """Stored values of study n: a smooth picture, or a volume in HU; no two are alike."""
    rng = np.random.default_rng(n)
    if n % CT_EVERY:
        smooth = waves(CXR[0]) @ rng.normal(size=(WAVES, WAVES)) @ waves(CXR[1]).T
        return np.clip(2000 + 250 * smooth, 0, 4095).astype(np.uint16)
    parts = [waves(side) for side in CT]
    smooth = np.einsum("zi,yj,xk,ijk->zyx", *parts, rng.normal(size=(3 * (WAVES,))), optimize=True)
    return np.clip(20 * smooth - 300, -1000, 1200).astype(np.int16)


class Templates:
    """Files of which only the voxels and the ids are written anew: a hundred times as fast as the
    libraries.
    """

    def __init__(self):
        buffer = io.BytesIO()
        dataset = radiograph(np.zeros(CXR, np.uint16), PatientID="P0000000")
        dataset.save_as(buffer, enforce_file_format=True)
        self.dicom = buffer.getvalue()[: -2 * CXR[0] * CXR[1]]
        # 2.5 mm slices; the affine is in RAS, the axes are i, j, k.
        volume = nib.Nifti1Image(np.zeros(CT[::-1], np.int16), np.diag([-1.5, -1.5, 2.5, 1]))
        self.nifti = volume.to_bytes()[: -2 * int(np.prod(CT))]

    def file(self, n: int) -> tuple[str, bytes]:
        """Ending and content of study n."""
        data = voxels_of(n).tobytes()
        if n % CT_EVERY:
            return ".dcm", self.dicom.replace(b"P0000000", f"P{n // 2:07}".encode()) + data
        return ".nii.gz", gzip.compress(self.nifti + data, 1)


def write_archive(folder: Path, studies: int) -> Path:
    """Files and a manifest, two studies a patient; what is there already is not written again."""
    manifest = folder / f"manifest-{studies}.csv"
    if manifest.exists():
        return manifest
    templates, lines = Templates(), []
    for n in range(studies):
        end, content = templates.file(n)
        path = folder / "files" / str(n // A_FOLDER) / f"{n}{end}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        patient = n // 2
        split = ("train",) * 8 + ("val", "test")
        lines.append(
            (f"s{n}", path.relative_to(folder), f"P{patient:07}", split[patient % 10])
            + (("CXR", "raw") if n % CT_EVERY else ("CT", "HU"))
            + (20 + patient % 60, n % 2)
        )
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(lines)
    return manifest


class Watched:
    """A process and its children: the largest resident memory of each, in MB.

    The workers of a Ray cluster on this machine count as children. `grown` are the seconds, and the
    studies that were in the store by then.
    """

    def __init__(self, command: list[str], store: Path):
        self.store, self.grown = store, list[tuple[int, int]]()
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self.peaks: dict[int, float] = {}
        self.began, self.cpu_before = time.monotonic(), _cpu_of_children()
        self.seconds = self.cpu_s = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while self.process.poll() is None:
            for pid in {*_family(self.process.pid), *_workers_of_ray()}:
                self.peaks[pid] = max(self.peaks.get(pid, 0.0), _resident_mb(pid))
            seconds = time.monotonic() - self.began
            if seconds > COUNT_S * (1 + len(self.grown)):
                self.grown.append((round(seconds), _there(self.store)))
            time.sleep(POLL_S)

    def wait(self) -> str:
        """What it printed."""
        said, _ = self.process.communicate()
        self.seconds = time.monotonic() - self.began
        self.cpu_s = _cpu_of_children() - self.cpu_before
        return said.decode()

    @property
    def memory_mb(self) -> dict[str, float]:
        """Of the main process, and of its largest child."""
        children = [peak for pid, peak in self.peaks.items() if pid != self.process.pid]
        main = self.peaks.get(self.process.pid, 0.0)
        return {"main": round(main), "worker": round(max(children, default=0.0))}


def _cpu_of_children() -> float:
    """Seconds of CPU of the processes that have ended. Those of a Ray cluster are no children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _family(pid: int) -> list[int]:
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(each for word in words for each in _family(int(word)))]


def _workers_of_ray() -> list[int]:
    """Processes that run the tasks of a Ray cluster, and their children."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            is_worker = place.read_bytes().startswith(b"ray::")
        except OSError:
            continue
        found += _family(int(place.parent.name)) if is_worker else []
    return found


def _resident_mb(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in text.splitlines() if line.startswith("VmHWM")]
    return int(found[0]) / 1024 if found else 0.0


def ingest(manifest: Path, store: Path, args, engine: str) -> dict:
    """Ingests, is killed at a share of the studies, and goes on; figures of both."""
    command = [sys.executable, "-m", "mmv_jax", "ingest", str(manifest), "--store", str(store)]
    command += ["--key", str(manifest.parent / "key"), "--timeout", "60"]
    command += ["--workers", str(args.workers), "--engine", engine]
    figures: dict = {"engine": engine, "workers": args.workers, "studies": args.studies}
    if args.kill_at:
        first = Watched(command, store)
        while first.process.poll() is None and _there(store) < args.kill_at * args.studies:
            time.sleep(POLL_S)
        os.killpg(first.process.pid, signal.SIGKILL)
        first.wait()
        figures |= {"killed_at": _there(store), "killed_after_s": round(first.seconds)}
        figures |= _rate("first", figures["killed_at"], first, args.workers)
    rest = Watched(command, store)
    already = figures.get("killed_at", 0)
    figures["said"] = rest.wait().strip().splitlines()
    figures |= _rate("to the end", args.studies - already, rest, args.workers)
    figures["store_mb"] = round(
        sum(p.stat().st_size for p in store.rglob("*") if p.is_file()) / 1e6
    )
    return figures


def _rate(name: str, studies: int, run: Watched, workers: int) -> dict:
    found = {
        "seconds": round(run.seconds, 1),
        "studies a second": round(studies / run.seconds, 1),
        "studies a second by worker": round(studies / run.seconds / workers, 1),
        "CPU ms a study": round(1000 * run.cpu_s / studies, 1),
        "studies in the store by seconds": run.grown,
        "largest memory, MB": run.memory_mb,
    }
    return {name: found}


def _there(store: Path) -> int:
    """Studies of the finished parts."""
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in store.glob("parts/*/index-*.parquet"))


def wrong_studies(store: Path, studies: int) -> list[str]:
    """What is not as it was written: counts, and voxels of a sample."""
    from mmv_jax.store.read import Store

    opened = Store.open(store)
    if len(opened) != studies:
        return [f"{len(opened)} of {studies} studies"]
    lines = opened.index["line"].to_numpy()
    chosen = np.random.default_rng(0).choice(studies, min(CHECKED, studies), replace=False)
    return [
        f"study {lines[i] - 2} has other voxels"
        for i in chosen
        if not np.array_equal(opened.read_study(i).voxels.squeeze(), voxels_of(int(lines[i]) - 2))
    ]


def differing_files(one: Path, other: Path) -> list[str]:
    """Files of two stores that are not equal bit for bit."""
    names = [{p.relative_to(s) for p in s.rglob("*") if p.is_file()} for s in (one, other)]
    return sorted(
        str(name)
        for name in names[0] | names[1]
        if name.name != "ingest.lock"
        and not (
            name in names[0]
            and name in names[1]
            and (one / name).read_bytes() == (other / name).read_bytes()
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--studies", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--engines", default="local", help="comma separated: local, ray")
    parser.add_argument("--kill-at", type=float, default=0.0, help="share of the studies")
    args = parser.parse_args()
    began = time.monotonic()
    manifest = write_archive(args.folder, args.studies)
    print(f"archive: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    runs, stores, wrong = [], [], []
    for engine in args.engines.split(","):
        store = args.folder / f"store-{args.studies}-{engine}"
        shutil.rmtree(store, ignore_errors=True)
        runs.append(ingest(manifest, store, args, engine))
        print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
        wrong += wrong_studies(store, args.studies)
        stores.append(store)
    for other in stores[1:]:
        wrong += [f"{name} differs" for name in differing_files(stores[0], other)]
    print(json.dumps({"runs": runs, "equal_stores": len(stores), "wrong": wrong}, indent=1))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
