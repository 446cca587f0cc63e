"""What the forward pass of a stack of blocks stores for the backward pass, by name.

From the most memory to the least, and from the fewest computed products to the most: "none",
"products", "every_K" with a falling K, "full".
"""

import difflib
import re

from mmv_jax.errors import UserError

# In the order in which memory falls. Any "every_K" from K = 1 on is allowed beside these.
LADDER = ("none", "products", "every_4", "every_3", "every_2", "full")
# How older configs say it.
OLDER = {False: "products", True: "full"}
EVERY = re.compile(r"every_([1-9]\d*)")


def remat_name(remat: bool | str) -> str:
    """The name of a policy, as `config.encoder.remat` gives it.

    Raises:
      UserError: there is no such policy; the message has the nearest one.

    Example:
      >>> remat_name(True), remat_name("every_6")
      ('full', 'every_6')
    """
    if isinstance(remat, bool):
        return OLDER[remat]
    # Any value may stand in a config.
    name = str(remat)
    if name in LADDER or EVERY.fullmatch(name):
        return name
    close = difflib.get_close_matches(name, LADDER, n=1, cutoff=0.4)
    known = f"There are: {', '.join(LADDER)}; and any other every_K."
    raise UserError(
        f"config.encoder.remat is {remat!r}, which is no policy."
        f" {f'Did you mean {close[0]}?' if close else ''} {known}".replace("  ", " ")
    )


def recomputed_blocks(remat: bool | str, depth: int) -> int:
    """The number of blocks that the backward pass computes again as a whole.

    Example:
      >>> [recomputed_blocks(name, 12) for name in ("none", "products", "every_5", "full")]
      [0, 0, 3, 12]
    """
    every = group_of(remat)
    return -(-depth // every) if every else 0


def group_of(remat: bool | str) -> int:
    """K where the first of every K blocks is computed again; 0 where none is."""
    name = remat_name(remat)
    if found := EVERY.fullmatch(name):
        return int(found[1])
    return 1 if name == "full" else 0
