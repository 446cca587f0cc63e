"""`load_encoder` and `encode`: what they say is what `mmv embed` says of the same files."""

import subprocess
import sys
import warnings

import jax
import nibabel as nib
import numpy as np
import pandas as pd
import planted  # noqa: F401 - it adds the engine "here"
import pytest
from dicom_files import ct_slice, save, stored_volume
from PIL import Image

import mmv_jax
from mmv_jax.checkpoint import Checkpoints
from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.embed import embed
from mmv_jax.evaluate.encoders.trained import fresh_params
from mmv_jax.export.write import export
from mmv_jax.models.sizes import make_encoder
from mmv_jax.store.ingest import ingest

GROUP = {"size": "nano", "patch": [4, 8, 8], "registers": 1}
CROPS = {"planar": {"global_grid": [4, 64, 64]}, "volume": {"global_grid": [16, 32, 32]}}
CONFIG = {"encoder": GROUP, "rows": {"length": 256}, "crops": CROPS, "data": {}}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    params = fresh_params(make_encoder(**GROUP | {"patch": (4, 8, 8)}), seed=3)
    with Checkpoints(folder, CONFIG, every=1, keep=1) as checkpoints:
        checkpoints.save_if_due(1, {"encoder": params, "state": {"step": np.int32(1)}})
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A CT of more than a million voxels, which has a coarser level, and a picture."""
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    hounsfield = rng.normal(0, 300, (128, 128, 80)).clip(-1000, 1500).astype(np.int16)
    hounsfield[:40] = -1000
    volume = nib.Nifti1Image(hounsfield, np.diag([2.0, 2.0, 3.0, 1.0]))
    volume.header.set_xyzt_units("mm")
    nib.save(volume, folder / "ct.nii.gz")
    Image.fromarray(rng.integers(0, 255, (90, 70), dtype=np.uint8)).save(folder / "film.png")
    lines = {
        "study_id": ["a", "b"],
        "path": ["ct.nii.gz", "film.png"],
        "patient_id": ["a", "b"],
        "split": ["train", "train"],
        "modality": ["CT", "CXR"],
        "unit": ["HU", ""],
        "spacing_mm": ["", "4.0"],
    }
    pd.DataFrame(lines).to_csv(folder / "manifest.csv", index=False)
    return folder


def test_a_file_is_encoded_as_embed_encodes_it_in_a_store(workdir, files, tmp_path):
    assert ingest([files / "manifest.csv"], tmp_path / "store", engine="here").ingested == 2
    embed(workdir, tmp_path / "store", tmp_path / "out")
    expected = pd.read_parquet(tmp_path / "out" / "features.parquet")
    encoder = mmv_jax.load_encoder(workdir)
    seen = [
        encoder.encode(files / "ct.nii.gz", unit="HU"),
        encoder.encode(files / "film.png", spacing_mm=4.0),
    ]
    for line, own in zip(expected.itertuples(), seen):
        np.testing.assert_allclose(own.cls, line.cls, atol=1e-5)
        np.testing.assert_allclose(own.patches.mean(axis=0), line.patch_mean, atol=1e-5)
        assert own.coords_mm.shape == (len(own.patches), 3)
    # 80 slices of 3 mm and 128 pixels of 2 mm: no centre lies outside
    assert np.abs(seen[0].coords_mm).max() <= 128
    assert np.ptp(seen[0].coords_mm[:, 0]) > 100


@pytest.mark.parametrize("where", ("step", "safetensors"))
def test_weights_are_the_same_from_wherever_they_come(where, workdir, files, tmp_path):
    film = files / "film.png"
    expected = mmv_jax.load_encoder(workdir).encode(film, spacing_mm=4.0)
    export(workdir, "safetensors", tmp_path / "encoder.safetensors")
    place = {"step": workdir / "checkpoints" / "1", "safetensors": tmp_path / "encoder.safetensors"}
    found = mmv_jax.load_encoder(str(place[where])).encode(film, spacing_mm=4.0)
    np.testing.assert_array_equal(found.cls, expected.cls)
    np.testing.assert_array_equal(found.patches, expected.patches)


def test_arrays_studies_and_lists_are_encoded_as_files_are(workdir, files):
    encoder = mmv_jax.load_encoder(workdir)
    study = mmv_jax.read_study(files / "ct.nii.gz", unit="HU")
    mm = study.spacing_mm
    paths = [study, (study.voxels, mm), files / "ct.nii.gz"]
    first = encoder.encode(paths[0])
    second = encoder.encode(study.voxels, spacing_mm=mm, unit="HU")
    third, fourth = encoder.encode([paths[2], study], unit="HU")
    for other in (second, third, fourth):
        np.testing.assert_array_equal(other.cls, first.cls)
        np.testing.assert_array_equal(other.coords_mm, first.coords_mm)


def test_a_picture_without_spacing_is_encoded_at_the_nominal_width_and_says_so(workdir, files):
    encoder = mmv_jax.load_encoder(workdir)
    with pytest.warns(UserWarning, match="encoded as 350 mm wide"):
        without = encoder.encode(files / "film.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        given = encoder.encode(files / "film.png", spacing_mm=350 / 70)
    np.testing.assert_allclose(without.cls, given.cls, atol=1e-6)


@pytest.mark.parametrize(
    "voxels, options, says",
    [
        (np.ones((4, 4)), {"spacing_mm": 1.0}, "unit='HU' for Hounsfield units"),
        (np.ones((4, 4)), {"unit": "raw"}, "Give spacing_mm"),
        (np.ones((4, 4, 4)), {"unit": "raw", "spacing_mm": (1, 1)}, "one for each axis"),
        (np.ones(4), {"unit": "raw", "spacing_mm": 1}, "is no study"),
        (np.eye(4), {"unit": "raw", "spacing_mm": 1000}, "not plausible"),
        (np.eye(4), {"unit": "HU", "spacing_mm": 1.0}, "not_hu"),
    ],
)
def test_an_array_that_does_not_say_enough_is_refused_with_what_to_give(
    voxels, options, says, workdir
):
    with pytest.raises(UserError, match=says):
        mmv_jax.load_encoder(workdir).encode(voxels, **options)


@pytest.mark.parametrize("read", ("encode", "read_study"))
def test_a_folder_of_several_series_is_refused_with_what_to_give(read, workdir, tmp_path):
    for n in range(2):  # a topogram beside a CT, as scanners export them
        for k in range(3):
            slice_ = ct_slice(stored_volume(3)[k], k, SeriesInstanceUID=f"1.2.{n}")
            save(slice_, tmp_path / f"{n}{k}.dcm")
    encoder = mmv_jax.load_encoder(workdir)
    call = mmv_jax.read_study if read == "read_study" else encoder.encode
    with pytest.raises(UserError, match="holds 2 series: move the files of each into a folder"):
        call(tmp_path)


def test_unknown_weights_are_named(tmp_path):
    (tmp_path / "other.safetensors").write_bytes(b"no tensors")
    for place, says in (("nowhere", "nothing at"), ("other.safetensors", "no safetensors file")):
        with pytest.raises(UserError, match=says):
            mmv_jax.load_encoder(tmp_path / place)
    with pytest.raises(UserError, match="no finished checkpoint"):
        mmv_jax.load_encoder(tmp_path)


def test_the_import_is_light_and_lists_its_names():
    code = "import sys, mmv_jax; print('jax' in sys.modules, 'numpy' in sys.modules, dir(mmv_jax))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.startswith("False False")
    for name in mmv_jax.__all__:
        assert name in out.stdout
        assert getattr(mmv_jax, name)
    assert jax.__version__  # the package's own is that of its metadata
    with pytest.raises(AttributeError, match="no attribute 'encode'"):
        _ = mmv_jax.encode
