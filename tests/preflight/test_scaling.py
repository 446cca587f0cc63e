"""Weak scaling on paper, from made-up figures of compiled steps."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from mmv_jax.chips import CHIPS
from mmv_jax.preflight import scaling

CHIP = replace(CHIPS["v5p"], flops=1e12, interconnect=3e9, sides=3)  # 1 GB/s along a side


def found(chips: int, pairs: float = 0.0, sent: float = 0.0) -> dict:
    """A chip's step needs 1 TFLOP without KoLeo's pairs."""
    return {
        "chips": chips,
        "fsdp": 4,
        "flops_per_step": chips * (1e12 + pairs),
        "flops_of": {"koleo": chips * pairs},
        "products_closed": chips * 1e12,
        "products_compiled": chips * 1.01e12,
        "memory_bytes_per_device": 2**30,
        "memory_of": {"student": 2**29},
        "collectives": {"all-gather": sent, "all-reduce": 0.0},
        "compile_s": 1.0,
    }


def test_a_step_takes_its_products_and_what_its_chips_send():
    assert scaling.seconds_of(found(8), CHIP, 0.5) == (2.0, 0.0)
    # Pairs count six times; a gigabyte takes a second.
    assert scaling.seconds_of(found(8, pairs=1e12, sent=2e9), CHIP, 0.5) == (14.0, 2.0)
    assert scaling.seconds_of(found(64, pairs=1e12, sent=2e9), CHIP, 0.5) == (14.0, 2.0)


def test_the_table_sets_efficiency_beside_the_smallest_slice():
    each = [found(8, sent=0.5e9), found(64, sent=2e9)]
    columns = scaling.table(each, CHIP, 0.5)
    assert list(columns) == ["8 chips, compiled", "64 chips, compiled"]
    assert columns["8 chips, compiled"]["efficiency, nothing overlaps"] == {"text": "100 %"}
    assert columns["64 chips, compiled"]["efficiency, nothing overlaps"] == {
        "text": "62.5 %"
    }  # 2.5 by 4
    assert columns["64 chips, compiled"]["efficiency, all overlaps"] == {"text": "100 %"}
    assert columns["64 chips, compiled"]["rows of a step"] == {"value": 64 * scaling.ROWS_A_CHIP}
    closed = columns["8 chips, compiled"]["products, compiler beside closed form"]
    assert closed == {"text": "+1.00 %"}


def test_larger_slices_follow_from_two_that_were_compiled():
    few, many = found(8, pairs=8e6), found(64, pairs=64e6)
    few["collectives"] = {"all-gather": 100 + 8.0, "all-reduce": 50.0}
    # A gather of 64 chips is written as a sum.
    many["collectives"] = {"all-gather": 100.0, "all-reduce": 64.0 + 50.0}
    more = scaling.grown(few, many, 4096)
    assert more["flops_per_step"] == pytest.approx(4096 * (1e12 + 4096e6))
    assert more["flops_of"]["koleo"] == pytest.approx(4096 * 4096e6)
    assert sum(more["collectives"].values()) == pytest.approx(150 + 4096)
    assert "4,096 chips" in scaling.table([few, many, more], CHIP, 0.5)
    # In groups of rows pairs grow with the chips, and a chip sends no more of them.
    more = scaling.grown(found(8, pairs=1e6, sent=101.0), found(64, pairs=1e6, sent=100.0), 4096)
    assert more["flops_per_step"] == pytest.approx(4096 * (1e12 + 1e6))
    assert sum(more["collectives"].values()) == 100


@pytest.mark.filterwarnings("ignore")  # of matplotlib's import
def test_the_picture_is_svg_and_the_same_each_time():
    each = [found(8), found(64, sent=2e9)]
    drawn = scaling.picture(each, CHIP, 0.25)
    assert ET.fromstring(drawn).tag.endswith("svg")
    assert drawn == scaling.picture(each, CHIP, 0.25)
