"""Checkpoints: whole, sealed, restored to the last bit, and never used when altered."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmv_jax.checkpoint import SEALS, STEPS, Checkpoints, find_fault, restore_encoder, step_folders
from mmv_jax.errors import UserError

CONFIG = {"seed": 1, "pretraining": {"patients": ["00ff"]}}


def make_state(scale=1.0):
    x = scale * jax.random.normal(jax.random.key(0), (8, 16))
    return {
        "encoder": {"kernel": x},
        "state": {"step": jnp.int32(3), "opt": ({"mu": 2 * x}, jnp.uint32(7))},
    }


def write(workdir, steps=(2, 4), keep=3):
    with Checkpoints(workdir, CONFIG, every=2, keep=keep) as checkpoints:
        for step in steps:
            checkpoints.save_if_due(step, make_state(step))


def restore(workdir, state=None):
    with Checkpoints(workdir, CONFIG, every=2, keep=3) as checkpoints:
        return checkpoints.restore_newest(state or make_state())


def test_what_was_saved_comes_back_to_the_last_bit(tmp_path):
    write(tmp_path)
    step, items = restore(tmp_path)
    assert step == 4
    jax.tree.map(np.testing.assert_array_equal, items, make_state(4))


def test_an_empty_workdir_gives_the_state_back(tmp_path):
    state = make_state()
    assert restore(tmp_path, state) == (0, state)


def test_only_the_newest_are_kept_and_each_has_a_seal(tmp_path):
    write(tmp_path, steps=(2, 4, 6), keep=2)
    assert sorted(step_folders(tmp_path)) == [4, 6]
    assert sorted(path.stem for path in (tmp_path / SEALS).glob("*.json")) == ["4", "6"]


def test_every_kind_of_damage_is_noticed_and_the_step_before_is_used(tmp_path):
    write(tmp_path)
    rng = np.random.default_rng(0)
    kept = tmp_path / "copy"
    shutil.copytree(tmp_path / STEPS / "4", kept)
    files = sorted(
        path.relative_to(kept) for path in kept.rglob("*") if path.is_file() and path.stat().st_size
    )
    for trial in range(60):
        shutil.rmtree(tmp_path / STEPS / "4")
        shutil.copytree(kept, tmp_path / STEPS / "4")
        victim = tmp_path / STEPS / "4" / files[rng.integers(len(files))]
        data = bytearray(victim.read_bytes())
        if trial % 3 == 0:
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
            victim.write_bytes(data)
        elif trial % 3 == 1:
            victim.write_bytes(data[: rng.integers(len(data))])
        else:
            victim.unlink()
        assert find_fault(tmp_path, 4) is not None, (trial, victim)
    with pytest.warns(UserWarning, match="Checkpoint 4 is not whole"):
        step, items = restore(tmp_path)
    assert step == 2
    jax.tree.map(np.testing.assert_array_equal, items, make_state(2))


def cut_item(step):
    shutil.rmtree(step / "state")


def cut_mark(step):
    (step / "commit_success.txt").unlink()


def cut_array(step):
    largest = max((step / "state").rglob("d/*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def cut_all(step):
    shutil.rmtree(step)
    step.mkdir()


@pytest.mark.parametrize("cut", [cut_item, cut_mark, cut_array, cut_all])
def test_a_cut_off_copy_without_a_seal_is_named_and_the_one_before_used(tmp_path, cut):
    write(tmp_path)
    for seal in (tmp_path / SEALS).glob("*.json"):
        seal.unlink()
    assert find_fault(tmp_path, 4) is None  # killed between Orbax's rename and the seal
    cut(tmp_path / STEPS / "4")
    with pytest.warns(UserWarning, match="Checkpoint 4 is not whole .it has no seal"):
        step, items = restore(tmp_path)
    assert step == 2
    jax.tree.map(np.testing.assert_array_equal, items, make_state(2))
    # leaving a run seals what is whole, and never the copy
    assert [path.stem for path in (tmp_path / SEALS).glob("*.json")] == ["2"]


def test_a_damaged_step_is_replaced_when_the_run_comes_to_it_again(tmp_path):
    write(tmp_path)
    victim = next(
        path
        for path in sorted((tmp_path / STEPS / "4").rglob("*"))
        if path.is_file() and path.stat().st_size
    )
    victim.write_bytes(victim.read_bytes()[:-1])
    with Checkpoints(tmp_path, CONFIG, every=2, keep=3) as checkpoints:
        with pytest.warns(UserWarning, match="Checkpoint 4 is not whole"):
            assert checkpoints.restore_newest(make_state())[0] == 2
        checkpoints.save_if_due(4, make_state(40))
    step, items = restore(tmp_path)
    assert step == 4
    jax.tree.map(np.testing.assert_array_equal, items, make_state(40))


SIX = {  # what is done to step 4, what is said of it, and the step that is used
    "cut": (lambda step: cut_array(step), "was altered", 2),
    "missing item": (lambda step: cut_item(step), "is missing", 2),
    "no seal": (lambda step: seal_of(step).unlink(), None, 4),
    "flipped bit": (lambda step: flip(step), "was altered", 2),
    "a seal that is cut": (lambda step: seal_of(step).write_text("{"), "4.json cannot be read", 2),
    "empty": (lambda step: cut_all(step), "is missing", 2),
}


def seal_of(step):
    return step.parents[1] / SEALS / f"{step.name}.json"


def flip(step):
    victim = max((step / "encoder").rglob("d/*"), key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 4
    victim.write_bytes(data)


@pytest.mark.parametrize("what", SIX)
def test_six_broken_checkpoints_are_named_and_the_right_step_is_used(tmp_path, what, recwarn):
    damage, said, used = SIX[what]
    write(tmp_path)
    damage(tmp_path / STEPS / "4")
    step, items = restore(tmp_path)
    assert step == used
    jax.tree.map(np.testing.assert_array_equal, items, make_state(used))
    words = [str(w.message) for w in recwarn if "is not whole" in str(w.message)]
    assert len(words) == (said is not None) and (said is None or said in words[0])


def test_each_of_several_processes_hashes_a_share_and_together_they_see_all(tmp_path):
    write(tmp_path)
    flip(tmp_path / STEPS / "4")
    found = [find_fault(tmp_path, 4, index=n, count=3) for n in range(3)]
    assert sum(fault is not None for fault in found) == 1
    assert [find_fault(tmp_path, 2, index=n, count=3) for n in range(3)] == [None] * 3


def test_a_run_that_goes_back_writes_the_later_steps_anew(tmp_path):
    write(tmp_path, steps=(2, 4, 6))
    with Checkpoints(tmp_path, CONFIG, every=2, keep=3) as checkpoints:
        step, items = checkpoints.restore_newest(make_state(), not_after=3)
        assert step == 2 and sorted(step_folders(tmp_path)) == [2]
        checkpoints.save_if_due(4, make_state(40))
    step, items = restore(tmp_path)
    assert step == 4 and find_fault(tmp_path, 4) is None
    jax.tree.map(np.testing.assert_array_equal, items, make_state(40))


def test_no_whole_checkpoint_is_an_error_and_not_a_fresh_start(tmp_path):
    write(tmp_path, steps=(2,))
    for path in (tmp_path / STEPS / "2" / "encoder").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="not whole"),
        pytest.raises(UserError, match="none of its 1 checkpoints is whole"),
    ):
        restore(tmp_path)


@pytest.mark.parametrize(
    "state, says",
    [
        ({**make_state(), "encoder": {"kernel": jnp.zeros((8, 17))}}, "encoder.kernel"),
        ({**make_state(), "encoder": {"kernel": jnp.zeros((8, 16), jnp.bfloat16)}}, "bfloat16"),
        ({**make_state(), "encoder": {"other": jnp.zeros((8, 16))}}, "another model"),
    ],
    ids=["shape", "dtype", "name"],
)
def test_another_model_is_refused(tmp_path, state, says):
    write(tmp_path)
    with pytest.raises(UserError, match=says):
        restore(tmp_path, state)


def test_evaluation_restores_the_encoder_and_the_config_alone(tmp_path, monkeypatch):
    write(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    for directory in ("run", tmp_path / "run", tmp_path / "run" / STEPS / "4"):
        params, config = restore_encoder(directory)
        assert config == CONFIG
        np.testing.assert_array_equal(params["kernel"], make_state(4)["encoder"]["kernel"])


def test_a_folder_without_checkpoints_is_named(tmp_path):
    with pytest.raises(UserError, match="no finished checkpoint"):
        restore_encoder(tmp_path)


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_eight_devices_restore_onto_fewer_exactly(tmp_path, devices):
    def place(tree, count, spec):
        mesh = jax.make_mesh(
            (count,),
            ("fsdp",),
            axis_types=(jax.sharding.AxisType.Auto,),
            devices=jax.devices()[:count],
        )
        return jax.tree.map(
            lambda x: jax.device_put(x, NamedSharding(mesh, spec if x.ndim else PartitionSpec())),
            tree,
        )

    with Checkpoints(tmp_path, CONFIG, every=1, keep=1) as checkpoints:
        checkpoints.save_if_due(1, place(make_state(), 8, PartitionSpec("fsdp")))
    for spec in (PartitionSpec(), PartitionSpec(None, "fsdp")):
        target = place(make_state(0.0), devices, spec)
        _, items = restore(tmp_path, target)
        jax.tree.map(np.testing.assert_array_equal, items, make_state())
        assert items["encoder"]["kernel"].sharding == target["encoder"]["kernel"].sharding
