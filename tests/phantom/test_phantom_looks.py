"""Detectors' looks, harder distractors and films' borders: each is there, and known."""

from dataclasses import replace

import numpy as np
import pytest

from mmv_jax.phantom.breast import BreastDials, draw_woman, paint_view
from mmv_jax.phantom.film import bordered
from mmv_jax.phantom.hard import KINDS, distract_hard
from mmv_jax.phantom.looks import LOOKS
from mmv_jax.phantom.write import write_phantoms

SMALL = dict(breast_pixel_mm=0.4, breast_rows=350, breast_columns=250, distractors=0.0)


class Canvas:
    pixel, shape = 0.1, (600, 500)
    nipple = np.array([30.0, 45.0])
    skin_mm = np.full(shape, 20.0)


def painted(**dials):
    chosen = BreastDials(**SMALL, bac=1.0, film=0.0, **dials)
    return paint_view(draw_woman(3, 0, chosen), "L", "CC", chosen)


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_changes_the_picture_and_not_the_truth(look):
    dials = BreastDials(**SMALL, bac=1.0, film=0.0)
    woman = draw_woman(3, 0, dials)
    plain, seen = (paint_view(w, "L", "CC", dials) for w in (woman, replace(woman, look=look)))
    np.testing.assert_array_equal(plain.bac, seen.bac)
    inside = plain.image > 300
    assert np.mean(plain.image[inside] != seen.image[inside]) > 0.5
    assert replace(woman, look=look).vendor == look
    # calcium stays brighter than the breast at large
    assert np.median(seen.image[plain.bac > 0]) > np.median(seen.image[inside])


def test_without_the_dials_a_woman_is_who_she_was():
    before, now = painted(), painted(looks=0.0, hard=0.0, borders=0.0)
    np.testing.assert_array_equal(before.image, now.image)
    a, b = (draw_woman(7, 4, BreastDials(looks=share)) for share in (0.0, 1.0))
    assert (a.age, a.area_mm2, a.film) == (b.age, b.area_mm2, b.film)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_distractor_draws_something_that_is_no_artery(kind):
    signal = np.zeros(Canvas.shape, np.float32)
    KINDS[kind](signal, Canvas(), np.random.default_rng(0), np.array([300, 250]))
    assert signal.max() > 0.05 and (signal > 0).sum() > 10


def test_kinds_do_not_depend_on_each_other_and_come_as_often_as_asked():
    counts = dict.fromkeys(KINDS, 0)
    for seed in range(40):
        signal = np.zeros(Canvas.shape, np.float32)
        for name in distract_hard(signal, Canvas(), np.random.default_rng(seed), 0.5):
            counts[name] += 1
    assert all(8 <= count <= 32 for count in counts.values()), counts  # 20 in 40, sd 3.2
    np.testing.assert_array_equal(painted(hard=1.0).bac, painted().bac)


def test_a_film_s_border_is_light_beyond_a_dark_rim_and_hides_what_is_there():
    image = np.full((300, 200), 1500, np.uint16)
    for seed in range(5):
        out, hidden = bordered(image, 0.1, np.random.default_rng(seed))
        assert (out[hidden] == 4095).all() and 0 < hidden.mean() < 0.6
        assert out[~hidden].min() < 1500  # the rim
        ends = (hidden[0], hidden[-1], hidden[:, 0], hidden[:, -1])
        assert any(end.any() for end in ends)


def test_the_manifest_names_the_kind_of_each_woman_where_there_are_several(tmp_path):
    write_phantoms(
        tmp_path / "some", ["breast"], 3, 1, workers=1, looks=1.0, film=0.5, borders=1.0, **SMALL
    )
    lines = (tmp_path / "some/manifest.csv").read_text().splitlines()
    column = lines[0].split(",").index("vendor")
    kinds = {line.split(",")[column] for line in lines[1:]}
    assert kinds <= {*LOOKS, "film with borders"} and len(kinds) >= 2
    write_phantoms(tmp_path / "plain", ["breast"], 1, 1, workers=1, **SMALL)
    assert "vendor" not in (tmp_path / "plain/manifest.csv").read_text()
