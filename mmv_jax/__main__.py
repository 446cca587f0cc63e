"""`python -m mmv_jax` is `mmv`."""

import sys

from mmv_jax.cli import main

sys.exit(main())
