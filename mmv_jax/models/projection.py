"""The projection head of self-distillation (DINO on CLS tokens, iBOT on masked patches)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmv_jax.models.dense import dense
from mmv_jax.parallel import as_stored


def unit(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Unit vectors in float32; a zero vector stays zero, with a finite gradient."""
    x = x.astype(jnp.float32)
    # Added below the root: the derivative of the length at 0 would be infinite.
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


class ProjectionHead(nn.Module):
    """A three-layer MLP from features to the unit sphere, and prototypes on the same sphere.

    `scores` compares the two. Score only tokens that a loss reads: with 65,536 prototypes a score
    costs as much as several blocks do for the token.

    Source: Caron et al., DINO (arXiv 2104.14294), section 3.1 and appendix C; without its batch
      norm, and with the prototypes' lengths fixed to 1.
    """

    prototypes: int
    hidden: int = 2048
    bottleneck: int = 256
    dtype: str = "float32"
    prototype_std: float = 1.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch D"]
    ) -> tuple[Float[Array, "*batch bottleneck"], Float[Array, "prototypes bottleneck"]]:
        """Unit vectors in float32: the projected features, and the prototypes."""
        init = nn.initializers.truncated_normal(0.02)
        for name in ("first", "second"):
            x = nn.gelu(dense(self.hidden, kernel_init=init, dtype=self.dtype, name=name)(x))
        x = dense(self.bottleneck, kernel_init=init, dtype=self.dtype, name="bottleneck")(x)
        # Prototypes are normalised below, so their length only slows them down: the gradient of a
        # direction is divided by it.
        start = nn.initializers.normal(self.prototype_std)
        prototypes = self.param("prototypes", start, (self.prototypes, self.bottleneck))
        return unit(x), unit(prototypes)

    def scores(
        self,
        x: Float[Array, "*batch bottleneck"],
        prototypes: Float[Array, "prototypes bottleneck"],
    ) -> Float[Array, "*batch prototypes"]:
        """Cosines of projected features with prototypes, both as `__call__` returns them.

        They are multiplied in the head's dtype and returned in float32. Divide them by a
        temperature.
        """
        x, prototypes = x.astype(self.dtype), as_stored(prototypes.astype(self.dtype))
        return jnp.einsum("...d,kd->...k", x, prototypes, preferred_element_type=jnp.float32)
