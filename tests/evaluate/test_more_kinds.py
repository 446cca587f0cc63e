"""Several findings, several classes and survival, against scikit-learn, lifelines and our Cox."""

import numpy as np
import pandas as pd
import pytest
from lifelines.utils import concordance_index
from sklearn.metrics import roc_auc_score

from mmv_jax.errors import UserError
from mmv_jax.evaluate.fewshot import few_shot
from mmv_jax.evaluate.kinds.multiclass import Multiclass
from mmv_jax.evaluate.kinds.multilabel import Multilabel, macro_auroc
from mmv_jax.evaluate.kinds.survival import Survival, fit_cox, weighted_concordance
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.measure import compare, measure
from mmv_jax.evaluate.predictions import predictions
from mmv_jax.evaluate.tasks.make import make_task
from mmv_jax.metrics.intervals import interval
from mmv_jax.outcomes.cox import cox
from mmv_jax.outcomes.discrimination import concordance

N = 240


def index_of(**labels) -> pd.DataFrame:
    columns = {
        "study": [f"s{n}" for n in range(N)],
        "patient": [f"p{n}" for n in range(N)],
        "split": np.repeat(["train", "val", "test"], N // 3),
        "masks": "",
        "ndim": 2,
    }
    return pd.DataFrame({**columns, **{f"label_{name}": v for name, v in labels.items()}})


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(N, 8))


@pytest.fixture(scope="module")
def findings(x) -> pd.DataFrame:
    """Two findings, each of a feature; the second is not known of every fifth study."""
    noise = np.random.default_rng(1).normal(size=(N, 2))
    a, b = (x[:, :2] + 0.7 * noise > 0).T.astype(float)
    b[::5] = np.nan
    return index_of(a=a, b=b)


def test_macro_auroc_is_scikit_learns_over_what_is_known(x, findings):
    task = make_task(findings, "t", kind="multilabel", label=("a", "b"))
    (result,) = measure("trained", {"": x}, [task])
    theirs = [
        roc_auc_score(t[~np.isnan(t)], p[~np.isnan(t)])
        for t, p in zip(result.truth.T, result.predicted.T)
    ]
    found = result.headline
    assert found.value == pytest.approx(np.mean(theirs))
    assert 0.75 < found.low < found.value < found.high
    (other,) = measure("random", {"": x[:, 2:]}, [task])
    assert other.headline.value < 0.65
    (told,) = compare([result, other], "trained", ("random",))
    assert told.verdict.startswith("better")
    table = predictions([result], findings)
    np.testing.assert_array_equal(table["predicted_1"], result.predicted[:, 1])
    assert table["predicted"].isna().all()


def test_one_finding_with_four_positive_patients_gives_no_interval():
    truth = np.zeros((60, 2))
    truth[:30, 0], truth[:4, 1] = 1, 1
    found = interval(
        macro_auroc, truth, np.random.default_rng(0).normal(size=(60, 2)), np.arange(60)
    )
    assert np.isfinite(found.value) and np.isnan(found.low)
    assert found.why == "fewer than 5 patients of a class"


def test_probabilities_of_classes_add_up_and_the_curve_rises(x):
    names = np.array(["left", "middle", "right"])[np.digitize(x[:, 0], [-0.4, 0.4])]
    names[3] = ""
    task = make_task(index_of(place=names), "t", kind="multiclass", label="place")
    own = x[np.arange(N) != 3]
    assert len(task) == len(own)
    (result,) = measure("trained", {"": own}, [task])
    np.testing.assert_allclose(result.predicted.sum(axis=1), 1)
    assert result.headline.value == pytest.approx(
        roc_auc_score(result.truth.argmax(axis=1), result.predicted, multi_class="ovr")
    )
    assert result.metrics["accuracy"].value > 0.5
    curve = few_shot("trained", own, task, shares=(0.1, 1.0), draws=2)
    assert curve[0].value.value < curve[1].value.value


def test_a_class_column_is_one_column_of_some_values():
    with pytest.raises(UserError, match="ask for kind 'multilabel'|Ask for kind 'multilabel'"):
        Multiclass().read_many(pd.DataFrame({"a": ["1"], "b": ["2"]}), task="t", positive=1)
    with pytest.raises(UserError, match="has 0 different values that 3 studies"):
        Multiclass().read_many(pd.DataFrame({"a": ["1", ""]}), task="t", positive=1)
    with pytest.raises(UserError, match="reads one column"):
        make_task(index_of(a=1.0, b=0.0), "t", kind="regression", label=("a", "b"))


@pytest.fixture(scope="module")
def followed(x) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    time = np.round(rng.exponential(np.exp(-x[:, 0])) * 10) + 1  # rounded, so that there are ties
    end = np.round(rng.uniform(2, 40, N))
    return np.minimum(time, end), (time <= end).astype(float)


def test_the_concordance_is_lifelines_and_that_of_repeated_studies(x, followed):
    time, event = followed
    truth = np.stack(followed, axis=1)
    risk = np.round(x[:, 0] + x[:, 3], 1)
    weights = np.random.default_rng(3).integers(0, 3, N).astype(float)
    ours = weighted_concordance(truth, risk, np.stack([np.ones(N), weights]))
    assert ours[0] == pytest.approx(concordance_index(time, -risk, event))
    assert ours[0] == pytest.approx(concordance(time, event.astype(int), risk).value)
    again = np.repeat(np.arange(N), weights.astype(int))
    assert ours[1] == pytest.approx(
        concordance_index(time[again], -risk[again], event[again]), abs=2e-3
    )


def test_a_weak_penalty_gives_the_partial_likelihoods_maximum(x, followed):
    time, event = followed
    apart = time + np.linspace(0, 0.4, N)  # without ties Breslow's and Efron's are one
    ours = fit_cox(x[:, :3], apart, event == 1, 1e6)
    theirs = cox(apart, event == 1, {str(n): x[:, n] for n in range(3)}).log_ratios
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    assert np.abs(fit_cox(x[:, :3], apart, event == 1, 1e-5)).max() < 1e-2


def test_a_survival_is_probed_and_has_a_curve(x, followed):
    time, event = followed
    task = make_task(index_of(t=time, e=event), "death", kind="survival", label=("t", "e"))
    (result,) = measure("trained", {"": x}, [task])
    found = result.metrics["c_index"]
    assert found.value > 0.65
    assert found.low < found.value < found.high
    (curve,) = few_shot("trained", x, task, shares=(1.0,), draws=1)
    assert curve.key == "c_index@train=100%" and curve.value.value > 0.6
    moved = make_task(
        index_of(t=np.where(np.arange(N) < 160, time, time[::-1]), e=event),
        "death",
        kind="survival",
        label=("t", "e"),
    )
    (other,) = measure("trained", {"": x}, [moved])
    np.testing.assert_array_equal(other.predicted, result.predicted)  # test chooses nothing
    with pytest.raises(UserError, match="two columns, the time and the event"):
        make_task(index_of(t=time), "death", kind="survival", label="t")
    with pytest.raises(UserError, match="times must be above 0"):
        make_task(index_of(t=0.0, e=event), "death", kind="survival", label=("t", "e"))
    # a decimal comma, or a word: such a study must not fall out in silence
    for wrong in (np.where(time > np.median(time), "8,2", "7"), np.where(event == 1, "dead", "1")):
        with pytest.raises(UserError, match="values of 't' are no finite numbers"):
            make_task(index_of(t=wrong, e=event), "death", kind="survival", label=("t", "e"))


def test_every_kind_has_one_file_and_is_in_the_table():
    assert list(KINDS) == [
        "classification",
        "multiclass",
        "multilabel",
        "regression",
        "survival",
        "segmentation",
        "localisation",
    ]
    assert isinstance(KINDS["survival"], Survival) and isinstance(KINDS["multilabel"], Multilabel)
