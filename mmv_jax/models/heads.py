"""The projection head of self-distillation (DINO on CLS tokens, iBOT on masked patches)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def unit(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Vectors of length 1 in float32; a zero vector stays zero, with a finite gradient."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


class ProjectionHead(nn.Module):
    """Features to prototype scores: a three-layer MLP, a bottleneck on the unit sphere, cosines with unit prototypes.

    Give it only the tokens that a loss reads: with 65,536 prototypes a token costs as much here as in several blocks.

    Source: Caron et al., DINO (arXiv 2104.14294), section 3.1 and appendix C; without its batch norm, and with the prototypes' lengths fixed to 1.
    """

    prototypes: int
    hidden: int = 2048
    bottleneck: int = 256
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch prototypes"]:
        """Scores in float32, from -1 to 1: cosines, to be divided by a temperature."""
        init = nn.initializers.truncated_normal(0.02)
        for name in ("first", "second"):
            x = nn.gelu(nn.Dense(self.hidden, kernel_init=init, dtype=self.dtype, name=name)(x))
        x = nn.Dense(self.bottleneck, kernel_init=init, dtype=self.dtype, name="bottleneck")(x)
        prototypes = self.param("prototypes", nn.initializers.normal(1.0), (self.prototypes, self.bottleneck))
        x, prototypes = unit(x).astype(self.dtype), unit(prototypes).astype(self.dtype)
        return jnp.einsum("...d,kd->...k", x, prototypes, preferred_element_type=jnp.float32)
