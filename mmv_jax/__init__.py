"""mmv_jax: one vision encoder for 2D and 3D medical studies, and an honest measure of what it is
worth.

Example:
  import mmv_jax

  encoder = mmv_jax.load_encoder("runs/chest")
  seen = encoder.encode("scan.nii.gz")
  seen.cls, seen.patches, seen.coords_mm
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what an editor sees; at run time each comes when it is first asked for
    from mmv_jax.face.encoder import load_encoder
    from mmv_jax.face.runs import evaluate, pretrain
    from mmv_jax.readers.read import read_study
    from mmv_jax.store.read import Store

    __version__: str

__all__ = ["Store", "__version__", "evaluate", "load_encoder", "pretrain", "read_study"]

# JAX alone takes a second to import, so nothing is imported before it is used.
_PLACES = {
    "load_encoder": "mmv_jax.face.encoder",
    "read_study": "mmv_jax.readers.read",
    "Store": "mmv_jax.store.read",
    "pretrain": "mmv_jax.face.runs",
    "evaluate": "mmv_jax.face.runs",
}


def __getattr__(name: str):
    if name == "__version__":
        from importlib.metadata import version

        return version("mmv_jax")
    # AttributeError and no other: `hasattr` and `from ... import` rely on it.
    if name not in _PLACES:
        raise AttributeError(f"module 'mmv_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
