"""Lines of grey writing are told; markers of the side and anatomy are not."""

from pathlib import Path

import numpy as np
import pytest
from dicom_files import radiograph, save
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from mmv_jax.manifests.manifest import read_manifest
from mmv_jax.phantom.write import write_phantoms
from mmv_jax.readers.lettering import text_of
from mmv_jax.readers.read import read_study
from mmv_jax.readers.refused import Refused

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
WORDS = "DOE JOHN 12.03.1956"


@pytest.fixture(scope="module")
def films() -> list[np.ndarray]:
    return [film(seed) for seed in range(3)]


def film(seed: int, side: int = 384) -> np.ndarray:
    """12 bits of what a chest has of edges: two lungs, ribs, a wire, a border, and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    lungs = sum(((x - c) / 0.16) ** 2 + ((y - 0.5) / 0.33) ** 2 < 1 for c in (0.3, 0.7))
    ribs = np.sin(40 * y + 12 * np.abs(x - 0.5) + seed) > 0.5
    values = 2600 - 1400 * ndimage.gaussian_filter(lungs.astype(float), 3) + 260 * ribs * lungs
    wire = np.abs(y - 0.3 - 0.1 * np.sin(9 * x + seed)) < 0.004
    values = ndimage.gaussian_filter(np.where(wire, 4000, values), 0.8) + rng.normal(0, 25, y.shape)
    values[:, : side // 20] = 60  # the collimator
    return values.clip(0, 4095).astype(np.uint16)


def read_phantoms(out: Path, kind: str, studies: int) -> list[np.ndarray]:
    manifest = write_phantoms(out, [kind], studies, 0, workers=1)
    paths = [line.path for line in read_manifest(manifest).lines]
    return [read_study(path, burnt_in="refuse").voxels[0] for path in paths]


def written(pixels: np.ndarray, words: str, grey: float, size: int, at: tuple[int, int]):
    """`pixels` with words in a share `grey` of their range."""
    letters = Image.new("L", pixels.shape[::-1])
    ImageDraw.Draw(letters).text(at, words, fill=255, font=ImageFont.load_default(size))
    cover = np.asarray(letters) / 255
    low, high = pixels.min(), pixels.max()
    return ((1 - cover) * pixels + cover * (low + grey * (high - low))).astype(pixels.dtype)


def test_clean_films_have_no_writing(films):
    assert not any(text_of(film) is not None for film in films)


@pytest.mark.parametrize("size", [12, 16, 22])
def test_planted_writing_is_found(films, size):
    for film in films:
        # In black over the brightest row of the middle, and in white over the darkest.
        middle = film[40:-40].mean(axis=1)
        for grey, row in ((0.0, 40 + middle.argmax()), (1.0, 40 + middle.argmin())):
            at = (film.shape[1] // 2 - 5 * size, int(row) - size // 2)
            text = written(film, WORDS, grey, size, at)
            strokes = text_of(text)
            assert strokes is not None, (film.shape, size, grey)
            assert np.mean(strokes) < 0.05


@pytest.mark.parametrize("marker", ["L", "R", "AP", "LMLO"])
def test_a_marker_of_the_side_is_no_line(films, marker):
    assert not any(text_of(written(film, marker, 1.0, 24, (60, 12))) is not None for film in films)


def test_noise_is_not_searched():
    noise = np.random.default_rng(0).integers(0, 4000, (256, 256)).astype(np.uint16)
    assert text_of(noise) is None


@pytest.mark.parametrize("end", ["png", "dcm"])
def test_what_is_asked_for_is_done(tmp_path, films, end):
    clean = films[0].astype(np.uint16)
    pixels = written(clean, WORDS, 1.0, 16, (30, 20))
    path = tmp_path / f"a.{end}"
    if end == "png":
        Image.fromarray(pixels).save(path)
    else:
        save(radiograph(pixels, BitsStored=16), path)
    for how in (None, "warn"):
        study = read_study(path, burnt_in=how)
        assert [code for code, _ in study.told] == ["burnt_in"]
        assert "DOE" not in study.told[0][1]
    with pytest.raises(Refused, match="burnt_in"):
        read_study(path, burnt_in="refuse")
    masked = read_study(path, burnt_in="mask").voxels[0]
    assert text_of(masked) is None
    letters = np.abs(pixels.astype(int) - clean) > 0.3 * np.ptp(clean)
    assert np.abs(masked.astype(int) - clean)[letters].max() < 0.3 * np.ptp(clean)


@pytest.mark.full
@pytest.mark.parametrize("kind, studies, count", [("breast", 2, 8), ("thorax-cxr", 8, 8)])
def test_clean_phantoms_are_taken_in_and_planted_ones_found(tmp_path, kind, studies, count):
    """They have lead letters, such as L and LMLO, tubes, and calcified arteries."""
    films = read_phantoms(tmp_path, kind, studies)
    assert len(films) == count
    for film in films:
        size = max(12, film.shape[0] // 50)
        at = (film.shape[1] // 3, film.shape[0] // 2)
        beneath = film[at[1] : at[1] + size, at[0] : at[0] + 10 * size]
        grey = 0.0 if beneath.mean() > (film.min() + film.max()) / 2 else 1.0
        assert text_of(written(film, WORDS, grey, size, at)) is not None


@pytest.mark.full
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared studies are not here")
def test_no_shared_radiograph_is_refused_for_its_writing():
    paths = [*sorted(SHARED.glob("cxr/*.jpg")), *sorted(SHARED.glob("cxr_seg/seg-???.png"))]
    told = [[code for code, _ in read_study(path).told] for path in paths]
    # 136 were told. All but 11 were looked at, and have words (PORTABLE, SUPINE, a date).
    assert 120 < sum("burnt_in" in codes for codes in told) < 150
