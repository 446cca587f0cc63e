"""Mammograms that may not all be of one woman, or of the breast that they say, are told."""

import numpy as np
import pytest

from mmv_jax.bac.anatomy import BREAST
from mmv_jax.bac.doubts import doubts, wall_of
from mmv_jax.bac.measure import ViewResult


def view(number, woman="w", side="L", date="20200101", examination="e", remark=""):
    return ViewResult(
        number=number,
        woman=woman,
        side=side,
        view="CC",
        remark=remark,
        spacing_mm=(0.1, 0.1),
        pixels=0,
        area_mm2=0.0,
        sure_mm2=0.0,
        date=date,
        examination=examination,
    )


def several(count, studies, days, patient="p17"):
    """What is told of one id with so many mammograms, studies and days."""
    views = [
        view(n, date=f"2020010{n % days}", examination=f"e{n % studies}") for n in range(count)
    ]
    return doubts(views, [patient] * count, {})


@pytest.mark.parametrize(
    "count, studies, days, patient",
    [
        (40, 10, 1, "p17"),  # ten women of one day under one id
        (16, 1, 1, "p17"),  # without studies that tell them apart
        (8, 2, 2, "ANONYMOUS"),
        (8, 2, 2, "Anonymized"),
        (8, 2, 2, "0000"),
    ],
)
def test_an_id_of_several_women_is_told_by_its_hash(count, studies, days, patient):
    (said,) = several(count, studies, days, patient)
    assert said.startswith(f"w has {count} mammograms of {studies} studies")
    assert patient not in said


@pytest.mark.parametrize(
    "count, studies, days, patient",
    [
        (4, 1, 1, "p17"),
        (8, 2, 1, "p17"),  # further views on the same day, as a study of their own
        (24, 6, 6, "p17"),  # six screenings
        (4, 1, 1, "ANONYMOUS"),  # one woman, made anonymous
    ],
)
def test_examinations_of_one_woman_are_not(count, studies, days, patient):
    assert several(count, studies, days, patient) == []


def test_ids_that_differ_in_spelling_are_told():
    views = [view(1, woman="w"), view(2, woman="v")]
    (said,) = doubts(views, ["pid_12", "PID-12"], {})
    assert said.startswith("w and v may be one woman")


def test_views_of_a_breast_with_opposite_chest_walls_are_told():
    views = [view(1), view(2), view(3, side="R"), view(4, side="R")]
    walls = {1: "left", 2: "right", 3: "right", 4: "right"}
    (said,) = doubts(views, ["p"] * 4, walls)
    assert said.startswith("w: of breast L the chest wall is at the left of file 1 and at the")
    # A view that does not count, one whose wall is not seen, another woman's.
    views = [view(1), view(2, remark="spot"), view(3), view(4, woman="v")]
    assert doubts(views, ["p"] * 3 + ["q"], {1: "left", 2: "right", 3: "", 4: "right"}) == []


def test_the_chest_wall_is_where_the_breast_meets_the_edge():
    y, x = np.mgrid[:200, :100]
    breast = ((y - 100) ** 2 / 80**2 + x**2 / 70**2 < 1) * np.uint8(BREAST)
    assert wall_of(breast) == "left" and wall_of(breast[:, ::-1]) == "right"
    # The breast fills the image, or there is none.
    assert wall_of(np.full((200, 100), BREAST, np.uint8)) == "" == wall_of(np.zeros_like(breast))
