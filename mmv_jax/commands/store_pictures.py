"""What `mmv inspect` draws where it is asked to. Its imports are slow, so they come that late."""

from collections.abc import Sequence
from pathlib import Path


def write_report(store: str, path: Path) -> str:
    """Write the page of a store; the line that says where it is."""
    from mmv_jax.store.page import write_page

    return write_page(store, path)


def draw_rows_of(config: str, overrides: Sequence[str], store: str, path: Path) -> str:
    """Draw rows of a store as a config packs them; the line that says where they are."""
    from mmv_jax.commands.keys import load_for
    from mmv_jax.data.row_picture import draw_rows
    from mmv_jax.store.read import Store
    from mmv_jax.train.loop import make_rows

    opened = Store.open(store)
    rows = make_rows(opened, load_for("mmv pretrain", config, overrides))
    return draw_rows(rows, opened.index, path)
