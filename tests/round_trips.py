"""Measures how far the tokens of each export are from our encoder's; writes the table's JSON.

  python tests/round_trips.py docs/measured/exports.json

Needs the extras torch and onnx. The networks and studies are those of test_export_round_trips.py.
"""

import json
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
import onnxruntime
import torch
import transformers
from test_export_round_trips import INPUTS, make, studies

from mmv_jax.export.shipped import load_numpy, load_torch
from mmv_jax.export.write import export

NETWORKS = {
    "nano": "nano, 1 register",
    "mini": "mini, 4 registers",
    "other": "SwiGLU, QK norm, no bias, no registers",
}


def main(out: str) -> None:
    """Measures all networks and writes `out`."""
    metrics = {}
    for name, words in NETWORKS.items():
        with tempfile.TemporaryDirectory() as folder:
            found = differences(*make(name, Path(folder)))
        # In millionths: a table shows decimals, and not exponents.
        cells = {kind: {"value": round(most * 1e6, 1)} for kind, most in found.items()}
        metrics[words] = {kind: {"in 10⁻⁶": cell} for kind, cell in cells.items()}
        print(words, found, flush=True)
    record = {
        "command": f"python tests/round_trips.py {out}",
        "date": str(date.today()),
        "machine": "two cores, no accelerator",
        "source": versions(),
        "head": ["network", "largest difference"],
        "metrics": metrics,
    }
    Path(out).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def differences(folder: Path, rows: dict, expected: dict) -> dict[str, float]:
    """The largest absolute difference of a token, by kind of export."""
    weights = folder / "encoder.safetensors"
    in_numpy, in_torch = load_numpy.load(weights), load_torch.load(weights)
    export(folder / "run", "stablehlo", folder / "encoder.stablehlo")
    program = jax.export.deserialize(bytearray((folder / "encoder.stablehlo").read_bytes()))
    export(folder / "run", "onnx", folder / "encoder.onnx")
    session = onnxruntime.InferenceSession(str(folder / "encoder.onnx"))
    model, processor = in_transformers(folder)
    most: dict[str, float] = {}
    for name, row in rows.items():
        inputs = processor(*voxels_of(name))
        n = inputs["kinds"].shape[1]
        found = {
            "NumPy": load_numpy.encode(*in_numpy, *row),
            "PyTorch": load_torch.encode(*in_torch, *map(torch.from_numpy, row)).numpy(),
            "Hugging Face, from voxels": model(**inputs).last_hidden_state.detach().numpy(),
            "ONNX": session.run(None, dict(zip(INPUTS, row)))[0],
            "StableHLO": np.asarray(program.call(*row)),
        }
        for kind, tokens in found.items():
            # transformers' row has no padding.
            ours = expected[name][:, : n if kind.startswith("Hugging") else None]
            most[kind] = max(most.get(kind, 0.0), float(np.abs(tokens - ours).max()))
    return most


def in_transformers(folder: Path):
    """The model and the image processor of a Hugging Face folder of the checkpoint."""
    export(folder / "run", "huggingface", folder / "folder")
    options = {"trust_remote_code": True}
    model = transformers.AutoModel.from_pretrained(folder / "folder", **options).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder / "folder", **options)

    def prepare(voxels, spacing_mm, unit):
        return processor(voxels, spacing_mm=spacing_mm, unit=unit)

    return model, prepare


def voxels_of(name: str):
    """Voxels, spacing and unit of a study, as the image processor takes them."""
    study = studies()[name]
    if study.ndim == 2:
        return study.voxels[0], study.spacing_mm[1:], study.unit
    return study.voxels, study.spacing_mm, study.unit


def versions() -> str:
    """The packages that were compared."""
    names = ("jax", "numpy", "torch", "transformers", "jax2onnx", "onnxruntime")
    return ", ".join(f"{name} {version(name)}" for name in names)


if __name__ == "__main__":
    main(*sys.argv[1:])
