import numpy as np
import pytest
from scipy import ndimage

from mmv_jax.bac.view import ViewFrame
from mmv_jax.errors import UserError
from mmv_jax.phantom.breast import BreastDials, draw_woman, paint_view
from mmv_jax.phantom.film import scanned

GRID = {"breast_pixel_mm": 0.25, "breast_rows": 560, "breast_columns": 400}
PLAIN, FILM = BreastDials(bac=1.0, film=0.0, **GRID), BreastDials(bac=1.0, film=1.0, **GRID)


def view(dials: BreastDials, side: str = "L"):
    return paint_view(draw_woman(2, 6, dials), side, "CC", dials)


def test_film_changes_the_image_and_not_the_truth():
    plain, film = view(PLAIN), view(FILM)
    assert (plain.bac >= film.bac).all() and film.bac.sum() > 0.9 * plain.bac.sum()
    assert (plain.image != film.image).mean() > 0.9
    assert film.image.dtype == np.uint16 and film.image.max() <= 4095


def test_air_is_fogged_and_the_breast_is_found_all_the_same():
    plain, film = view(PLAIN), view(FILM)
    corner = np.s_[-60:-20, -60:-20]
    assert np.median(plain.image[corner]) < 10 < np.median(film.image[corner])
    breasts = [ViewFrame.of(shot.image, (0.25, 0.25)).breast for shot in (plain, film)]
    assert (breasts[0] == breasts[1]).mean() > 0.97


def test_the_scanner_leaves_lines_from_border_to_border_and_specks_that_are_bright():
    flat = np.full((400, 300), 1000, np.uint16)
    seen = [
        scanned(flat, 0.1, np.random.default_rng(seed))[0][100:300, 100:200].astype(float)
        for seed in range(12)
    ]
    columns = [np.abs(np.median(image, axis=0) - np.median(image)) for image in seen]
    lines = [line.max() > 60 for line in columns]
    assert 2 < sum(lines) < 12
    assert all((columns[n] > 60).sum() <= 4 for n in range(12) if lines[n])
    assert max((image > np.median(image) + 600).sum() for image in seen) < 0.03 * seen[0].size
    assert np.mean([(image > np.median(image) + 600).any() for image in seen]) > 0.8


def test_light_past_the_border_hides_what_is_under_it():
    """At the borders alone, in most films; what it hides is as bright as it is, whatever was
    there.
    """
    dark, bright = (np.full((400, 300), value, np.uint16) for value in (200, 1000))
    some = 0
    for seed in range(12):
        (image, hidden), (other, also) = (
            scanned(flat, 0.1, np.random.default_rng(seed)) for flat in (dark, bright)
        )
        inside = hidden[80:-80, 80:-80]
        assert not inside.any() and (hidden >= also).all()
        assert not also.any() or (image == other)[also].mean() > 0.95  # but for the scanner's lines
        some += bool(also.any())
    assert some > 6


def test_lint_is_longer_than_dust():
    longest = []
    for seed in range(12):
        image, _ = scanned(np.full((400, 300), 1000, np.uint16), 0.1, np.random.default_rng(seed))
        inside = image[100:300, 100:200].astype(float)
        labels, _ = ndimage.label(inside > np.median(inside) + 250, np.ones((3, 3)))
        sides = [max(s.stop - s.start for s in box) for box in ndimage.find_objects(labels)]
        longest.append(max(sides, default=0))
    assert sum(side > 15 for side in longest) >= 4  # 1.5 mm


def test_the_same_seed_gives_the_same_film():
    flat = np.full((200, 200), 1000, np.uint16)
    np.testing.assert_array_equal(
        *(scanned(flat, 0.1, np.random.default_rng(5))[0] for _ in range(2))
    )


def test_a_share_of_women_is_on_film_and_no_other_figure_of_them_depends_on_it():
    women = [
        [draw_woman(3, n, BreastDials(film=share)) for n in range(60)] for share in (0.0, 0.3, 1.0)
    ]
    assert [sum(w.film for w in some) for some in women][::2] == [0, 60]
    assert 8 < sum(w.film for w in women[1]) < 30
    assert [w.area_mm2 for w in women[0]] == [w.area_mm2 for w in women[2]]


def test_an_impossible_share_is_refused():
    with pytest.raises(UserError, match="film"):
        BreastDials(film=1.5)
