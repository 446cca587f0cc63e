"""Preflight: the closed forms against compiled programs, names of topologies, and what a user is
told.
"""

import json
from importlib.util import find_spec
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from nano import nano_config

from mmv_jax import cli
from mmv_jax.errors import UserError
from mmv_jax.objectives.ibot import scoring_parts
from mmv_jax.parallel import make_mesh
from mmv_jax.preflight import estimate as preflight
from mmv_jax.preflight import hlo
from mmv_jax.preflight import topology as places
from mmv_jax.preflight.summary import sheet
from mmv_jax.preflight.topology import CHIPS, parse_topology
from mmv_jax.train.advice import Choice, suggest
from mmv_jax.train.flops import expected_filling, step_flops
from mmv_jax.train.loop import lower_step, make_parts, make_views, row_shape
from mmv_jax.train.memory import step_memory, stored_bytes, working_bytes
from mmv_jax.train.state import shapes_of_state

CONTRACT = {  # the keys that others read
    "parameters",
    "flops_per_step",
    "memory_bytes_per_device",
    "hbm_bytes",
    "fits",
    "collective_bytes_per_step",
    "tokens_per_step",
    "compile_s",
}


def config(remat: bool = False, **weights):
    c = nano_config(**weights)
    # Visible rows longer than a block of attention: of a row that is one block, the compiler
    # unrolls attention into products that are counted.
    c.rows.update({"length": 256, "prefix": 192, "per_step": 8})
    c.encoder.remat = remat
    c.encoder.attention = "auto"
    return c.lock()


@pytest.fixture(autouse=True, scope="module")
def eight_devices():
    """Starts them, before a preflight that is asked for another number would."""
    assert len(jax.devices()) == 8


def state_of(c):
    """Shapes of a config's state on data=8."""
    objective, tx, _ = make_parts(c)
    spec = row_shape(c).spec(c.rows.per_step)
    return shapes_of_state(objective, tx, spec, make_mesh(8, 1), seed=0)


@pytest.fixture(scope="module")
def figures():
    return preflight.preflight(config(True, mae=1.0), None, 8, mfu=0.4)


@pytest.mark.parametrize(
    "name, devices",
    [("v5e:4x4", 16), ("v5p:4x4x8", 128), ("v6e:16x16", 256), ("tpu7x:2x2x1", 8), ("h100:8", 8)],
)
def test_a_topology_is_read_from_its_name(name, devices):
    topology = parse_topology(name)
    assert topology.devices == devices
    assert topology.chip == CHIPS[name.split(":")[0]]


@pytest.mark.parametrize(
    "name", ["v5p", "v5p:4x4", "v5e:4x4x4", "v9:2x2", "v5e:0x4", "v5e:axb", "h100:2x4", ""]
)
def test_what_is_no_topology_is_refused_with_examples(name):
    with pytest.raises(UserError, match=r"v5p:4x4x8"):
        parse_topology(name)


def test_without_the_compiler_one_line_names_the_extra(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(places, "find_spec", lambda name: None)
    file = tmp_path / "nano.py"
    file.write_text("from nano import get_config\n")
    assert cli.main(["preflight", "--config", str(file), "--topology", "v5e:2x2"]) == 2
    said = capsys.readouterr().err
    assert "preflight" in said and "libtpu" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "places_given, change, advice",
    [
        ({"topology": "v5e:2x2", "devices": 8}, {}, "give one"),
        ({"devices": 6}, {"fsdp": 4}, "--config.mesh.fsdp=3"),
        ({"devices": 16}, {}, "Start another"),
    ],
    ids=["two places", "a mesh that does not divide", "more devices than there are"],
)
def test_a_mistake_is_told_with_what_to_do(places_given, change, advice):
    c = config()
    c.mesh.update(change)
    with pytest.raises(UserError, match=advice):
        preflight.preflight(c, places_given.get("topology"), places_given.get("devices"), mfu=0.4)


def test_figures_hold_the_contract_and_are_json(figures):
    found = json.loads(json.dumps(figures.as_json()))
    assert found.keys() >= CONTRACT
    assert found["fits"] is True
    assert found["tokens_per_step"] == 8 * 256
    assert found["mesh"] == {"data": 8, "fsdp": 1}
    state = state_of(config(True, mae=1.0))
    assert found["parameters"] == sum(x.size for x in jax.tree.leaves(state.student))
    assert figures.products_closed == pytest.approx(figures.products_compiled, rel=0.02)
    assert found["collective_bytes_per_step"] > 0


def test_the_sheet_says_what_the_figures_say(figures):
    text = sheet(figures)
    assert "8 virtual devices" in text
    assert f"{figures.tokens_per_step:,} a step" in text
    assert "--config.mesh.data=8 --config.mesh.fsdp=1" in text


MAE, DISTILLATION = {"mae": 1.0}, {"dino": 1.0, "ibot": 1.0, "koleo": 0.1}


@pytest.mark.parametrize(
    "weights, remat",
    [
        pytest.param(DISTILLATION, False, id="distillation-stored", marks=pytest.mark.full),
        pytest.param(MAE, True, id="mae-remat", marks=pytest.mark.full),
        pytest.param(MAE, False, id="mae-stored", marks=pytest.mark.full),
        pytest.param(DISTILLATION, True, id="distillation-remat", marks=pytest.mark.full),
    ],
)
def test_products_agree_with_the_compiled_program(weights, remat):
    c = config(remat, **weights)
    shape = row_shape(c)
    parts = step_flops(make_parts(c)[0], shape, 8, expected_filling(make_views(c.crops), shape))
    counts = hlo.count(lower_step(c, make_mesh(2, 4)).compile().as_text())
    assert sum(part.products for part in parts.values()) == pytest.approx(
        8 * counts.flops, rel=0.02
    )
    assert counts.sent["all-reduce"] > 0


@pytest.mark.parametrize(
    "weights",
    [
        # the short form of the test above too
        pytest.param({"ibot": 1.0}, id="ibot"),
        pytest.param(DISTILLATION, id="distillation", marks=pytest.mark.full),
    ],
)
def test_tokens_that_are_scored_in_parts_are_counted_again(weights):
    c = config(**weights)
    c.unlock()
    c.rows.update({"length": 288, "prefix": 264})  # 66 masked tokens: two parts of 33
    c.objective.prototypes = 16384  # so that the head is much of what the step costs
    shape = row_shape(c)
    assert scoring_parts(shape.masked) == (2, 33)
    parts = step_flops(make_parts(c)[0], shape, 8, expected_filling(make_views(c.crops), shape))
    counts = hlo.count(lower_step(c, make_mesh(2, 4)).compile().as_text())
    assert sum(part.products for part in parts.values()) == pytest.approx(
        8 * counts.flops, rel=0.02
    )
    assert parts["ibot head"].again > 0.05 * 8 * counts.flops  # more than the tolerance above


def test_memory_grows_with_the_rows_and_falls_where_blocks_are_computed_again():
    c = config(dino=1.0, ibot=1.0, mae=1.0)
    objective, shape, state = make_parts(c)[0], row_shape(c), state_of(c)

    def total(rows, fsdp, remat):
        return sum(step_memory(objective, state, shape, rows, fsdp, remat).values())

    held = total(0, 1, False)
    assert held >= sum(
        x.size * x.dtype.itemsize
        for x in jax.tree.leaves((state.student, state.teacher, state.opt_state))
    )
    # From two rows on, one moment is the largest.
    two, four, six = (total(rows, 1, False) for rows in (2, 4, 6))
    assert six - four == pytest.approx(four - two)
    assert total(4, 1, True) < total(4, 1, False)
    assert total(4, 8, False) < total(4, 1, False)


def test_memory_is_that_of_the_largest_moment():
    # Scores are gone when the encoder's backward pass begins.
    c = config(dino=1.0, ibot=1.0, mae=1.0)
    objective, shape, state = make_parts(c)[0], row_shape(c), state_of(c)
    held = step_memory(objective, state, shape, 8, 1, "products")
    given = stored_bytes(objective, shape, 8, "products")
    given |= working_bytes(objective, shape, 8, "products")
    scores = {"ibot scores", "dino scores", "decoder's blocks", "prototypes"}
    backward = {"a block's backward", "entry"}
    assert given.keys() == scores | backward | {"student's blocks", "visible blocks"}
    more = max(scores, backward, key=lambda kinds: sum(given[kind] for kind in kinds))
    assert given.keys() & held.keys() == more | {"student's blocks", "visible blocks"}


def test_a_loop_is_multiplied_out():
    def chain(x, w):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0]

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((16, 64), (5, 64, 64))]
    assert (
        hlo.count(jax.jit(chain).lower(*shapes).compile().as_text()).flops == 5 * 2 * 16 * 64 * 64
    )


# A product of eight pairs of matrices [4, 32] x [32, 16] as TPUs know it: the batch is a window
# over a dilated axis, with one place in eight filled.
BATCHED = """
ENTRY %main (a: f32[8,4,32], b: f32[8,32,16]) -> f32[8,4,16] {
  %a = f32[8,4,32]{2,1,0:T(4,128)} parameter(0)
  %b = f32[8,32,16]{2,1,0:T(8,128)S(1)} parameter(1)
  ROOT %convolution.1 = f32[8,4,16]{2,1,0} convolution(%a, %b), window={size=8 stride=7 pad=0_0 lhs_dilate=8}, dim_labels=0bf_0io->0bf
}
"""  # noqa: E501


def test_empty_places_of_a_batched_product_are_not_counted():
    assert hlo.count(BATCHED).flops == 8 * 2 * 4 * 32 * 16


GATHER = """
%cond (p: (s32[], f32[8,128])) -> pred[] {
  %n = s32[]{:T(128)} constant(3)
  %p = (s32[]{:T(128)}, f32[8,128]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT
}

%body (p: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %p = (s32[], f32[8,128]{1,0}) parameter(0)
  %x = f32[1,128]{1,0} slice(%p)
  %g.1 = (f32[1,128]{1,0}, f32[8,128]{1,0}) all-gather-start(%x), replica_groups=[2,8]<=[16], dimensions={0}
}

ENTRY %main (p: f32[8,128]) -> f32[8,128] {
  %p = (s32[], f32[8,128]{1,0}) parameter(0)
  %w = (s32[], f32[8,128]{1,0}) while(%p), condition=%cond, body=%body
  %r = f32[8,128]{1,0} all-reduce(%p), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
}
"""  # noqa: E501


def test_collectives_are_counted_by_what_a_device_sends_in_a_ring():
    array = 8 * 128 * 4
    assert hlo.count(GATHER).sent == {
        "all-gather": 3 * array * 7 / 8,
        "all-reduce": 2 * array * 3 / 4,
    }


KERNELS = """
ENTRY %main (p: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0} parameter(0)
  %key_kernel.3 = f32[8,128]{1,0} custom-call(%p), custom_call_target="tpu_custom_call"
  %custom-call.7 = f32[8,128]{1,0} custom-call(%p), custom_call_target="__gpu$xla.gpu.triton", metadata={op_name="jit(f)/forward_kernel/pallas_call"}
  ROOT %custom-call.8 = f32[8,128]{1,0} custom-call(%p), custom_call_target="__cublas$gemm", metadata={op_name="jit(f)/dot_general"}
}
"""  # noqa: E501


def test_kernels_are_counted_by_name_on_tpu_and_gpu():
    assert hlo.count(KERNELS).kernels == {"key_kernel": 1, "forward_kernel": 1}


REFUSED = """RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.
  Largest program allocations in hbm:

  1. Size: 4.00G
     Operator: op_name="jit(train_step)/jvp(Encoder)/blocks/while"
     Shape: f32[24,8,4096,1024]{3,2,1,0:T(8,128)}
     Allocation type: HLO temp
     ==========================
"""  # noqa: E501

# Of a program that the compiler refuses before it has a list of allocations.
REFUSED_EARLIER = """RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (18.25G) exceeds available HBM (15.75G)."""  # noqa: E501


def test_what_does_not_fit_is_read_from_the_refusal():
    assert preflight.refused_bytes(REFUSED) == round(20.5 * 2**30)
    assert preflight.refused_bytes(REFUSED_EARLIER) == round(18.25 * 2**30)
    assert preflight.largest_arrays(REFUSED) == [
        "4.00G f32[24,8,4096,1024] jit(train_step)/jvp(Encoder)/blocks/while"
    ]


@pytest.mark.parametrize("name, held", [("v5p:2x2x1", 300), ("h100:8", 700), (None, 700)])
def test_the_peak_counts_where_the_compiler_gives_it(name, held):
    # The TPU's compiler says more temporary arrays than it allocates. Others give no peak of them.
    sizes = {"argument": 100, "output": 50, "alias": 50, "temp": 600, "generated_code": 0}
    named = {f"{kind}_size_in_bytes": size for kind, size in sizes.items()}
    analysis = SimpleNamespace(**named, peak_memory_in_bytes=300)
    assert preflight.compiled_bytes(analysis, name and parse_topology(name)) == held


def test_advice_changes_as_little_as_fits():
    def takes(choice):
        return choice.per_step * (1 if choice.remat else 3) + 800 / choice.fsdp

    now = Choice(remat=False, fsdp=2, per_step=256)
    assert suggest(now, 8, takes, room=700) == [Choice(True, 2, 256), Choice(False, 2, 64)]
    assert suggest(now, 8, takes, room=250) == [Choice(True, 8, 128)]
    assert suggest(now, 8, takes, room=10) == []


@pytest.mark.skipif(
    find_spec("libtpu") is None, reason="libtpu is not installed (extra `preflight`)"
)
def test_a_step_compiles_for_tpus_with_the_kernels_and_agrees_with_the_closed_forms():
    c = config(True, dino=1.0)
    c.unlock()
    c.encoder.dtype = "bfloat16"
    found = preflight.preflight(c, "v5e:2x2", None, mfu=0.4)
    assert found.fits and found.mesh == {"data": 4, "fsdp": 1}
    assert {"forward_kernel", "backward_kernel"} <= found.kernels.keys()
    assert found.products_closed == pytest.approx(found.products_compiled, rel=0.02)
    assert "tokens a second" in sheet(found)
