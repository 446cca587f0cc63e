"""Gram anchoring as the phase after a run: its teacher is the run's, and never moves."""

import jax
import numpy as np
import pytest
from nano import nano_config
from test_begin import config_from
from test_few_weights import begun

from mmv_jax.checkpoint import restore_items
from mmv_jax.commands.phases import phases_of
from mmv_jax.errors import UserError
from mmv_jax.objectives.term import EARLIER
from mmv_jax.train.begin import complete
from mmv_jax.train.loop import pretrain

pytestmark = pytest.mark.usefixtures("fresh_on_one_device")


def test_the_gram_teacher_is_what_the_run_begins_from(store, tmp_path, capfd):
    config = config_from(store)
    # Its gradient is 0 at first: weight decay alone moves the student.
    config.objective.update(mae=0.0, gram=1.0)
    config.optimizer.update(warmup=0.01, weight_decay=5.0)
    config.steps = 3
    config.health = {"every": 1}
    first = begun(complete(config)).student
    jax.tree.map(np.testing.assert_array_equal, first[EARLIER], first["encoder"])
    assert f"{EARLIER}: the encoder, which stays" in capfd.readouterr().err
    state = jax.device_get(pretrain(config, tmp_path / "run"))
    jax.tree.map(np.testing.assert_array_equal, state.student[EARLIER], first[EARLIER])
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)]
    assert not any(getattr(part, "key", "") == EARLIER for path in paths for part in path)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    seen = [float(line.split('"gram": ')[1].split(",")[0]) for line in lines]
    assert seen[0] < 1e-8 < seen[-1]  # the student is its Gram teacher at first
    # The next phase takes the teacher of this one.
    kept, about = restore_items(tmp_path / "run", ("encoder",))
    config.encoder = {**about["encoder"], "patch": (4, 4, 4)}
    config.data.coordinates, config.init = "unit", {"run": str(tmp_path / "run")}
    again = begun(config).student
    jax.tree.map(np.testing.assert_array_equal, again[EARLIER], kept["encoder"])


def test_a_later_phase_may_have_it_and_a_run_without_weights_may_not(tmp_path):
    config = nano_config(dino=1.0)
    config.phases = ({"steps": 4}, {"objective.gram": 2.0, "objective.dino_local": 0.5})
    (one, _), (two, _) = phases_of(config, tmp_path)
    assert "gram" not in one.objective and two.objective.gram == 2.0
    complete(two)
    config.objective.gram = 2.0
    del config.phases
    with pytest.raises(UserError, match="set config.init.folder or config.init.run, or begin it"):
        complete(config)
