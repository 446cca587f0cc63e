"""Which examination of a woman counts, and which views show her whole breast."""

from dataclasses import dataclass

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from mmv_jax.bac.examination import (
    A_MAN,
    COMPUTED,
    EARLIER,
    LATER,
    NO_READING,
    NOT_INDEX,
    OTHER_SIDE,
    PART,
    SAID_PART,
    UNORDERED,
    of_one_examination,
    special,
)
from mmv_jax.outcomes.cox import cox
from mmv_jax.readers.values import planar_spacing


@dataclass(frozen=True)
class Seen:
    woman: str
    date: str = ""
    examination: str = ""
    remark: str = ""


def remarks(views, index_dates=None):
    return [view.remark for view in of_one_examination(views, index_dates)]


TWO = [Seen("a", "20110101", "1"), Seen("a", "20120101", "2"), Seen("b", "20150101", "3")]


def test_the_latest_counts_of_what_a_woman_has_and_the_earliest_of_what_may_become_of_her():
    assert remarks(TWO) == [EARLIER, "", ""]
    assert remarks(TWO, {}) == ["", LATER, ""]


def test_the_examination_on_the_index_date_counts_and_no_other():
    assert remarks(TWO, {"a": "20120101"}) == [NOT_INDEX, "", ""]
    # an examination after the event would have predicted what was known
    assert remarks(TWO, {"a": "20111231", "b": "20150101"}) == [NOT_INDEX, NOT_INDEX, ""]


@pytest.mark.parametrize("index_dates", [None, {}], ids=["bac", "cohort"])
def test_examinations_without_order_do_not_count(index_dates):
    undated = [Seen("a", "", "1"), Seen("a", "", "2"), Seen("b", "", "3"), Seen("b", "", "3")]
    assert remarks(undated, index_dates) == [UNORDERED, UNORDERED, "", ""]
    half = [Seen("a", "20110101", "1"), Seen("a", "", "2"), Seen("c")]
    assert remarks(half, index_dates) == [UNORDERED, UNORDERED, ""]


def test_what_did_not_count_before_keeps_its_reason():
    views = [Seen("a", "20110101", "1", "an implant"), Seen("a", "20120101", "2")]
    assert remarks(views) == ["an implant", ""]


def test_the_latest_examination_would_predict_what_had_to_happen_first():
    """Immortal time: areas grow, and only who lives without the outcome is examined again. An area
    without any effect seems to protect by the latest examination, and not by the earliest.
    """
    rng = np.random.default_rng(0)
    women = 2000
    first = rng.exponential(10.0, women)
    ends, left = rng.exponential(15.0, women), rng.uniform(1.0, 12.0, women)
    time = np.minimum(ends, left)
    views, areas = [], []
    for woman in range(women):
        for year in range(0, int(np.ceil(time[woman])), 2):
            views.append(Seen(str(woman), f"{2000 + year}0101", f"{woman}.{year}"))
            areas.append(first[woman] + 3.0 * year)
    ratios = {}
    for name, index_dates in (("latest", None), ("earliest", {})):
        kept = [not view.remark for view in of_one_examination(views, index_dates)]
        area = np.array(areas)[kept]
        assert len(area) == women
        ratios[name] = cox(time, ends <= left, {"area": area}).effects()["area"]
    assert ratios["latest"].ci95[1] < 0.98
    assert ratios["earliest"].ci95[0] < 1 < ratios["earliest"].ci95[1]


def tags(*modifiers, **values):
    view = Dataset()
    view.ViewModifierCodeSequence = Sequence([Dataset() for _ in modifiers])
    for item, code in zip(view.ViewModifierCodeSequence, modifiers):
        item.CodeValue = code
    dataset = Dataset()
    dataset.ViewCodeSequence = Sequence([view])
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


VIEWS = {
    "routine": (tags(), ""),
    "nipple in profile": (tags("442581004"), ""),
    "spot compression": (tags("399055006"), PART),
    "tangential, by its older code": (tags("R-102C2"), PART),
    "a modifier that nobody knows": (tags("442581004", "1234"), PART),
    "partial": (tags(PartialView="YES"), PART),
    "whole": (tags(PartialView="NO", ImageType=["ORIGINAL", "PRIMARY"]), ""),
    "generated": (tags(ImageType=["DERIVED", "PRIMARY", "", "GENERATED_2D"]), COMPUTED),
    "C-View": (tags(SeriesDescription="L CC C-View"), COMPUTED),
    "a man": (tags(PatientSex="M"), A_MAN),
    "a woman": (tags(PatientSex="F"), ""),
    "the other side": (tags(SeriesDescription="R CC", ImageLaterality="L"), OTHER_SIDE),
    "the other side, by its series": (tags(SeriesDescription="LMLO", Laterality="R"), OTHER_SIDE),
    "its own side": (tags(SeriesDescription="RIGHT MLO", ImageLaterality="R"), ""),
    "both sides": (tags(SeriesDescription="R CC, L CC", ImageLaterality="L"), ""),
}
DESCRIBED = {  # as vendors and archives write them
    SAID_PART: (
        *("L CC ID", "RMLO-ID", "LMCC", "R MMLO", "LSMLO", "L CC M", "R CC RL", "L MLO TAN"),
        *("L CC MAG", "LCC CV", "L CC post clip", "R CC wire localization", "cropped images"),
        "ROI mask images",
    ),
    COMPUTED: (
        *("L CC i2D", "R MLO S-View", "Insight 2D L-CC", "L CC Intelligent 2D", "V-Preview"),
        *("ROUTINE3D_SLICE_0012", "L CC Tomosynthesis Reconstruction", "R MLO 3D Slice 12"),
        *("L CC DBT", "L CC slab"),
    ),
    NO_READING: ("L CC REJECTED", "ACR Phantom QC"),
    "": (
        *(
            "L CC",
            "LCC",
            "R MLO",
            "RMLO",
            "L-MLO",
            "RIGHT CC",
            "full mammogram images",
            "MG Screening",
        ),
        *(
            "L CC Tomo HD Combo 2D",
            "R MLO 2D + 3D",
            "Mammo Screening Bilat",
            "Standard Mammography",
        ),
        *("L CC CEM Low Energy", "Digital Mammo Diagnostic 4 views", "Screening - tomo"),
    ),
}


@pytest.mark.parametrize(
    "words, remark", [(words, remark) for remark, each in DESCRIBED.items() for words in each]
)
def test_a_description_takes_out_what_is_no_routine_view_and_nothing_else(words, remark):
    assert special(tags(SeriesDescription=words)) == remark


def test_the_name_of_a_protocol_speaks_of_all_images_of_its_examination():
    assert special(tags(ProtocolName="3D Screening", SeriesDescription="L CC")) == ""


@pytest.mark.parametrize("dataset, remark", VIEWS.values(), ids=VIEWS.keys())
def test_a_view_counts_where_nothing_says_that_it_is_special(dataset, remark):
    assert special(dataset) == remark


DISTANCES = {
    "contact": (660, 660, 0.1),
    "magnification": (660, 363, 0.055),
    "impossible": (660, 100, 0.1),
    "not known": (660, 0, 0.1),
}


@pytest.mark.parametrize("detector, patient, mm", DISTANCES.values(), ids=DISTANCES.keys())
def test_distances_say_how_much_a_mammogram_is_magnified(detector, patient, mm):
    dataset = tags(ImagerPixelSpacing=[0.1, 0.1], Modality="MG")
    dataset.DistanceSourceToDetector, dataset.DistanceSourceToPatient = detector, patient
    assert planar_spacing(dataset)[1:] == pytest.approx((mm, mm))
    dataset.Modality = "DX"  # where patients do not lie on the support
    assert planar_spacing(dataset)[1:] == pytest.approx((0.1, 0.1))
