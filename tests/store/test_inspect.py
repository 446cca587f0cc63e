"""What inspect says of a store, and what it shows."""

import numpy as np
import pytest
from PIL import Image
from planted import store_of, study_of

from mmv_jax.store.inspect import contact_sheet, describe, summary, verify
from mmv_jax.store.read import Store


@pytest.fixture
def store(tmp_path) -> Store:
    rng = np.random.default_rng(0)
    studies = [
        study_of(rng.integers(-1000, 1000, (n, 40, 50)).astype(np.int16), "HU") for n in (20, 30)
    ]
    studies += [
        study_of(rng.integers(0, 255, (1, 60, 50)).astype(np.uint8)),
        study_of(np.ones((8, 8, 8), np.uint8), "shape"),
    ]
    masks = [{}, {"organ": (rng.random((30, 40, 50)) < 0.1).astype(int)}, {}, {}]
    return store_of(tmp_path / "store", studies, masks)


def test_the_summary_counts_and_measures(store):
    lines = summary(store).set_index("unit")
    assert lines["studies"].to_dict() == {"HU": 2, "raw": 1, "shape": 1}
    assert lines.loc["HU", "grid (z, y, x)"] == "20–30 × 40 × 50"
    assert lines.loc["raw", "spacing mm (z, y, x)"] == "unknown × 0.5 × 0.5"
    assert lines.loc["HU", "masks"] == "organ"


def damaged(store: Store) -> list[str]:
    return [fault.split()[1] for fault in verify(store.path)]


def test_the_description_tells_counts_and_refusals(store, tmp_path):
    (tmp_path / "store" / "quarantine.jsonl").write_text(
        '{"manifest": 1, "line": 9, "code": "truncated", "reason": "short"}\n'
    )
    text = describe(store.path)
    assert "4 studies of 4 patients" in text
    assert "refused: 1 truncated" in text
    assert "20–30 × 40 × 50" in text


def test_verify_names_the_studies_that_are_damaged_and_no_other(store, tmp_path):
    assert verify(store.path) == []
    [planar] = (tmp_path / "store" / "parts" / "part-2d" / "blocks" / "c").rglob("0/0/0/0")
    content = bytearray(planar.read_bytes())
    content[100] ^= 1
    planar.write_bytes(content)
    assert verify(store.path) == [
        f"study {store.index['study'][2]} (manifest 1, line 4): blocks in parts/part-2d are damaged"
        " or gone"
    ]


def test_verify_reads_masks_too(store, tmp_path):
    [volumes] = (tmp_path / "store" / "parts" / "part-3d" / "blocks" / "c").rglob("0/0/0/0")
    content = bytearray(volumes.read_bytes())
    offset, _ = np.frombuffer(content[-(128 * 16 + 4) : -4], "<u8").reshape(128, 2)[
        store.index["mask_blocks"][1][0]
    ]
    content[int(offset) + 20] ^= 1
    volumes.write_bytes(content)
    assert damaged(store) == [store.index["study"][1]]


def test_verify_survives_a_part_without_its_array(store, tmp_path):
    (tmp_path / "store" / "parts" / "part-3d" / "blocks" / "zarr.json").unlink()
    assert damaged(store) == store.index["study"][[0, 1, 3]].tolist()


def test_the_sheet_shows_every_study_once(store, tmp_path):
    contact_sheet(store.path, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
    tiles = np.split(sheet, 4, axis=1)
    assert all(tile.std() > 10 for tile in tiles)
    reddish = [bool(((tile[..., 0] - tile[..., 2]) > 60).any()) for tile in tiles]
    assert reddish == [False, True, False, False]  # the one mask is tinted


def test_the_head_is_up(tmp_path):
    volume = np.zeros((20, 20, 20), np.int16) - 1000
    volume[15:] = 1000  # bright at the head
    contact_sheet(
        store_of(tmp_path / "store", [study_of(volume, "HU")]).path, tmp_path / "sheet.png"
    )
    coronal = np.asarray(Image.open(tmp_path / "sheet.png").convert("L"))[4:172, 176:344].astype(
        float
    )
    columns = coronal[:, 84]
    assert columns[:84].mean() > columns[84:].mean() + 50
