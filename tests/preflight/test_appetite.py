"""Whether the input keeps up: rows that a host consumes, workers that make them, and the words."""

from dataclasses import replace

import pytest
from nano import nano_config

from mmv_jax import cli
from mmv_jax.chips import CHIPS
from mmv_jax.config import load_config
from mmv_jax.preflight.appetite import WORKER_TOKENS_PER_S, Appetite, appetite, flops_of_step
from mmv_jax.preflight.summary import _input

V5P = CHIPS["v5p"]


def of(config, step_s=0.5, one=None, devices=64):
    return appetite(config, V5P, devices, step_s=step_s, worker_rows_per_s=one)


def test_a_host_consumes_its_share_of_a_step_and_needs_whole_workers():
    c = nano_config(mae=1.0)
    c.rows.per_step, c.rows.length = 1024, 256
    found = of(c, one=3.0)
    assert found.hosts == 16  # of four chips
    assert found.rows_per_s == 1024 / 0.5 / 16
    assert found.workers_needed == 43  # 128 / 3, rounded up
    assert found.measured
    assert replace(found, workers=43).keeps_up and not replace(found, workers=42).keeps_up
    assert of(c, devices=2).hosts == 1  # a part of a host is one


def test_without_a_measurement_a_worker_makes_the_stated_tokens():
    c = nano_config(mae=1.0)
    c.rows.length = 500
    found = of(c)
    assert not found.measured
    assert found.worker_rows_per_s == WORKER_TOKENS_PER_S / 500


def test_a_faster_step_needs_more_workers():
    c = nano_config(mae=1.0)
    c.rows.per_step = 1024
    assert of(c, step_s=0.1).workers_needed > of(c, step_s=1.0).workers_needed


FED = Appetite(
    hosts=16,
    rows_per_s=100.0,
    worker_rows_per_s=2.0,
    measured=False,
    workers_needed=50,
    workers=12,
    cores=208,
)


@pytest.mark.parametrize(
    "changed, said",
    [
        ({}, "24 rows a second, 24% of these. Set --config.data.workers=50"),
        ({"workers": 50}, "It keeps up"),
        ({"workers": 0}, "2 rows a second"),  # a thread makes them
        ({"cores": 40}, "do not make enough"),
        ({"cores": None}, "--config.data.workers=50"),
        ({"measured": True}, "as given"),
    ],
    ids=["too few", "enough", "none", "more than there are", "cores not known", "measured"],
)
def test_the_sheet_says_by_how_much_it_falls_short(changed, said):
    assert said in "\n".join(_input(replace(FED, **changed), mfu=0.4))


def test_the_pod_of_the_main_run_consumes_what_its_flops_say():
    c = load_config("vitb_mimic_ctrate")
    step_s = flops_of_step(c) / (0.4 * 64 * V5P.flops)
    assert step_s == pytest.approx(0.243, abs=0.001)
    assert of(c, step_s=step_s).rows_per_s == pytest.approx(263, abs=1)


@pytest.mark.parametrize("given", ["0", "-1", "inf", "nan", "many"])
def test_rows_of_a_worker_that_are_no_number_above_zero_are_refused(given, capsys):
    with pytest.raises(SystemExit):
        cli.main(["preflight", "--config", "demo", "--worker-rows", given])
    assert "--worker-rows" in capsys.readouterr().err
