"""A mask task of an evaluation in nnU-Net's folders, and nnU-Net's masks scored as all others are.

  python nnunet_task.py export --config experiments/eval_heads.py --task pneumothorax_mask \
      --out nnunet/raw/Dataset501_Pneumothorax
  python nnunet_task.py score --config experiments/eval_heads.py --task pneumothorax_mask \
      --masks nnunet/masks --beside runs/heads/evaluate --out runs/heads/nnunet
"""

import argparse
import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

from mmv_jax.config import load_config, to_dict
from mmv_jax.data.crops import Geometry
from mmv_jax.errors import UserError
from mmv_jax.evaluate.kinds.mask_scores import Segmented, join, score_mask
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.measure import as_json, result_of_masks
from mmv_jax.evaluate.run import chosen_tasks
from mmv_jax.evaluate.tasks.make import make_task
from mmv_jax.metrics.intervals import bounds_text, paired
from mmv_jax.provenance import provenance, write_metrics
from mmv_jax.store.read import Store

ENDING = ".nii.gz"


def read_task(config, name):
    """The store and the task of a config.

    Raises:
      UserError: the task is no segmentation, or its structures may overlap in a voxel.
    """
    store = Store.open(config.data.store)
    groups = chosen_tasks(config)
    if name not in groups:
        raise UserError(f"--task: there is no task {name!r}. There are: {', '.join(groups)}.")
    task = make_task(store.index, name, **groups[name])
    if not KINDS[task.kind].is_mask or KINDS[task.kind].locates:
        raise UserError(f"--task: {name!r} is a {task.kind}, but must be a segmentation.")
    if task.flags and len(task.parts()) > 1:
        raise UserError(
            f"--task: structures of {name!r} are bits, which may overlap in a voxel. A label of"
            " nnU-Net cannot. Ask for a task with one of them."
        )
    return store, task


def export(store, task, out):
    """Write images of all splits, masks of train and val, and the split itself."""
    geometry, units = Geometry.of(store.index), store.index["unit"].to_numpy(str)
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for study, split in zip(task.studies.tolist(), task.split):
        # The keyed hash of the study: a name that says nothing of the patient.
        case, affine = str(store.index["study"].iloc[study]), _affine(geometry, study)
        voxels = store.read_study(study).voxels.astype(np.float32)
        folder = "imagesTs" if split == "test" else "imagesTr"
        _write(out / folder / f"{case}_0000{ENDING}", voxels, affine)
        if split != "test":
            _write(out / "labelsTr" / f"{case}{ENDING}", _labels(store, task, study), affine)
    names = store.index["study"].to_numpy(str)[task.studies]
    train, val = (names[task.split == part].tolist() for part in ("train", "val"))
    # nnU-Net takes this split for its fold 0, so that val chooses for it too.
    (out / "splits_final.json").write_text(json.dumps([{"train": train, "val": val}]))
    # A channel of this name is clipped and scaled as a CT, any other by its mean and deviation.
    channel = "CT" if set(units[task.studies]) == {"HU"} else "image"
    dataset = {
        "channel_names": {"0": channel},
        "labels": {"background": 0} | {key: n for n, key in enumerate(task.parts(), start=1)},
        "numTraining": len(train) + len(val),
        "file_ending": ENDING,
        "overwrite_image_reader_writer": "NibabelIO",
    }
    (out / "dataset.json").write_text(json.dumps(dataset, indent=1))


def score(store, task, masks, called="nnunet"):
    """The result of predicted masks on the test studies, on the studies' own voxels."""
    geometry, test = Geometry.of(store.index), task.studies[task.split == "test"]
    parts = {key: [] for key in task.parts()}
    shown = {key: [] for key in parts}
    for study in test.tolist():
        path = masks / f"{store.index['study'].iloc[study]}{ENDING}"
        if not path.exists():
            raise UserError(f"--masks: {path.name} is missing. Predict all of imagesTs.")
        # NIfTI has x first, the store z.
        found, truth = np.asarray(nibabel.load(path).dataobj).T, _labels(store, task, study)
        if found.shape != truth.shape:
            raise UserError(f"--masks: {path.name} has {found.shape} voxels, not {truth.shape}.")
        spacing = tuple(geometry.spacing_mm[study].tolist())
        for label, key in enumerate(parts, start=1):
            parts[key].append(score_mask(truth == label, found == label, spacing))
            shown[key].append(found == label)
    return result_of_masks(
        called,
        join(
            {
                key: Segmented(
                    shown[key],
                    {name: np.array([one[name] for one in own]) for name in own[0]},
                    "as nnU-Net chose",
                )
                for key, own in parts.items()
            }
        ),
        task,
    )


def compare(result, evaluated):
    """Lines of text: the mean Dice minus that of each encoder of an evaluation, study by study."""
    table = pd.read_parquet(evaluated / "predictions.parquet")
    table = table[table["task"] == result.task.name]
    patients = result.task.patients[result.task.split == "test"]
    for name, own in table.groupby("encoder", sort=False):
        # The test studies of a task have one order in every file.
        other = own["dice"].to_numpy()
        if len(other) != len(result.truth) or (np.isnan(other) != np.isnan(result.truth)).any():
            raise UserError(f"--beside: {name} was measured on other studies. Evaluate it again.")
        there = ~np.isnan(other)
        both = (result.truth[there], other[there])
        found = paired("mean", both[0], *both, patients[there])
        yield f"minus {name}: {found.value:+.3f} {bounds_text(found)}, p {found.p:.3g}"


def _labels(store, task, study):
    """The structures as labels 1, 2, … [z, y, x]."""
    z, y, x = Geometry.of(store.index).voxels[study].tolist()
    mask = store.read_box(study, (0, 0, 0), (z, y, x), mask=task.mask)
    labels = np.zeros((z, y, x), np.uint8)
    for label, part in enumerate(task.parts().values(), start=1):
        labels[part.structure(mask)] = label
    return labels


def _affine(geometry, study):
    z, y, x = geometry.spacing_mm[study].tolist()
    return np.diag([x, y, z, 1.0])


def _write(path, voxels, affine):
    nibabel.save(nibabel.Nifti1Image(voxels.T, affine), path)


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("export", "score"))
    parser.add_argument("--config", required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--masks", type=Path, help="what nnUNetv2_predict wrote")
    parser.add_argument("--beside", type=Path, help="the workdir of an evaluation")
    # `--config.data.store=...` and its like change the config, as for `mmv evaluate`.
    asked, changes = parser.parse_known_args(words)
    config = load_config(asked.config, changes)
    store, task = read_task(config, asked.task)
    if asked.what == "export":
        export(store, task, asked.out)
        return
    result = score(store, task, asked.masks)
    record = provenance("nnunet_task.py", config=to_dict(config), data=store.provenance())
    asked.out.mkdir(parents=True, exist_ok=True)
    write_metrics(asked.out, as_json([result]), record)
    for metric, found in result.metrics.items():
        print(f"{metric}: {found.value:.3f} {bounds_text(found)}")
    for line in compare(result, asked.beside) if asked.beside else ():
        print(line)


if __name__ == "__main__":
    main()
