"""The table of kinds of task, in the order in which results are listed."""

from mmv_jax.evaluate.kinds.classification import Classification
from mmv_jax.evaluate.kinds.kind import Kind
from mmv_jax.evaluate.kinds.localisation import Localisation
from mmv_jax.evaluate.kinds.multiclass import Multiclass
from mmv_jax.evaluate.kinds.multilabel import Multilabel
from mmv_jax.evaluate.kinds.regression import Regression
from mmv_jax.evaluate.kinds.segmentation import Segmentation
from mmv_jax.evaluate.kinds.survival import Survival
from mmv_jax.registry import Registry

KINDS: Registry[Kind] = Registry("kind of task")
KINDS.register("classification", Classification())
KINDS.register("multiclass", Multiclass())
KINDS.register("multilabel", Multilabel())
KINDS.register("regression", Regression())
KINDS.register("survival", Survival())
KINDS.register("segmentation", Segmentation())
KINDS.register("localisation", Localisation())


def metric_label(metric: str) -> str:
    """The name of a metric of any kind in the report."""
    return next((k.labels[metric] for _, k in KINDS.items() if metric in k.labels), metric)


def is_lower_better(metric: str) -> bool:
    """Whether less is better of this metric, of any kind."""
    return any(metric in kind.lower_is_better for _, kind in KINDS.items())
