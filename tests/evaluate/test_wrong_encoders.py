"""Encoders of a plug-in that give something else than they must: each is one sentence."""

from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import write_store

from mmv_jax.data.crops import Geometry, whole_crops
from mmv_jax.data.occupancy import kept_tokens
from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.base import Encoded
from mmv_jax.evaluate.encoders.checked import encode_checked
from mmv_jax.store.read import Store

D = 6


def but(**values):
    """A change of the features of one study; arrays of any shape, which the class would refuse."""

    def changed(own):
        out = replace(own)
        for name, value in values.items():
            object.__setattr__(out, name, value(getattr(own, name)))
        return [out]

    return changed


def crash(own):
    raise KeyError("weights")


@dataclass(frozen=True)
class Odd:
    """Constant features but for those of one study."""

    change: object
    fingerprint: str = "odd"

    def views(self, geometry):
        crops = whole_crops(geometry, {2: (1, 48, 48), 3: (12, 24, 24)}, (4, 8, 8))
        return crops, kept_tokens(geometry, crops)

    def encode(self, store, studies):
        kept = self.views(Geometry.of(store.index)[studies])[1]
        for n, study in reversed(list(enumerate(studies.tolist()))):
            patches = np.ones((int(kept[n].sum()), D), np.float32)
            own = Encoded(study, np.ones(D, np.float32), patches, patches[None][:0])
            yield from self.change(own) if n == 1 else [own]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store.open(write_store(tmp_path_factory.mktemp("store") / "store", n=4))


WRONG = {
    "missing": (lambda own: [], "no features of 1 of 8 studies"),
    "twice": (lambda own: [own, own], "gives a study twice"),
    "another study": (lambda own: [replace(own, study=99)], "was not asked for"),
    "a tuple": (lambda own: [(own.study, own.cls)], "gives a tuple"),
    "a batch of one": (but(cls=lambda x: x[None]), r"shapes \(1, 6\) and"),
    "a grid": (but(patches=lambda x: x[None]), r"give \[D\] and \[n, D\]"),
    "a token less": (but(patches=lambda x: x[:-1]), "its `views` keep"),
    "no token": (but(patches=lambda x: x[:0]), "without patch tokens"),
    "narrower CLS": (but(cls=lambda x: x[:4]), "2 different widths"),
    "narrower tokens": (but(patches=lambda x: x[:, :4]), "2 different widths"),
    "layers": (but(early=lambda x: np.ones((1, 2, D), np.float32)), "Encoded.early"),
    "blocks without CLS": (but(before=lambda x: np.ones((1, 2, D), np.float32)), "Encoded.before"),
    "NaN": (but(cls=lambda x: x * np.nan), "features of 1 of 8 studies are not finite"),
    "huge": (
        but(cls=lambda x: x.astype(np.float64) * 1e300),
        "features of 1 of 8 studies are not finite",
    ),
    "objects": (but(cls=lambda x: x.astype(object)), "of the type object"),
    "a crash": (crash, "plug-in failed while it encoded: KeyError: 'weights'"),
}


@pytest.mark.parametrize("change, said", WRONG.values(), ids=list(WRONG))
def test_what_is_no_encoding_is_one_sentence(store, change, said):
    with pytest.raises(UserError, match=said):
        encode_checked(Odd(change), store, np.arange(8), tokens=True, deep=False)


def test_arrays_of_other_libraries_in_any_order_are_taken(store):
    found = encode_checked(Odd(but(cls=jnp.asarray)), store, np.arange(8), tokens=True, deep=True)
    assert sorted(found) == list(range(8))
    assert {type(own.cls) for own in found.values()} == {np.ndarray}
    wide = but(cls=lambda x: np.ones(9, np.float32))
    with pytest.raises(UserError, match="CLS is 9 wide and its patch tokens 6: readouts join"):
        encode_checked(Odd(wide), store, np.arange(8), tokens=True, deep=True)
    # Vectors alone need no view.
    fewer = but(patches=lambda x: x[:-1])
    assert len(encode_checked(Odd(fewer), store, np.arange(8), tokens=False, deep=False)) == 8
