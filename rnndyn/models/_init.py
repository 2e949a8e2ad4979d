"""Initial connectivity: objects that draw the arrays of a network."""

import abc
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from .._core._types import KeyLike


class Connectivity(NamedTuple):
    """Arrays of a full-rank network with `N` units, `I` inputs, `O` outputs.

    `W` `(N, N)`, `W_in` `(N, I)`, `b` `(N,)`, `b_in` `(N,)` or `None`, `W_out`
    `(O, N)`, `b_out` `(O,)`.
    """

    W: Float[Array, "state state"]
    W_in: Float[Array, "state input"]
    b: Float[Array, " state"]
    b_in: Float[Array, " state"] | None
    W_out: Float[Array, "output state"]
    b_out: Float[Array, " output"]


class AbstractInit(eqx.Module):
    """How the arrays of a network are drawn. Implement this one method; every
    full-rank model takes it as `init=`."""

    @abc.abstractmethod
    def __call__(
        self, input_size: int, state_size: int, output_size: int, *, key: KeyLike
    ) -> Connectivity:
        """Draw the arrays."""


class Gaussian(AbstractInit):
    """`W_ij ~ N(0, gain^2/N)`, `W_in ~ N(0, 1)`, `W_out ~ N(0, 1/N)`, zero biases.

    The spectral radius of `W` tends to `gain`; above 1 the untrained current-form
    network is chaotic for large `N`.

    **Reference:** Sompolinsky, Crisanti & Sommers 1988, doi:10.1103/PhysRevLett.61.259.
    """

    gain: Float[Array, ""] = eqx.field(default=1.0, converter=jnp.asarray)

    def __call__(self, input_size, state_size, output_size, *, key):
        k_rec, k_in, k_out = jr.split(key, 3)
        n = state_size
        return Connectivity(
            W=self.gain * jr.normal(k_rec, (n, n)) / n**0.5,
            W_in=jr.normal(k_in, (n, input_size)),
            b=jnp.zeros(n),
            b_in=None,
            W_out=jr.normal(k_out, (output_size, n)) / n**0.5,
            b_out=jnp.zeros(output_size),
        )


class Xavier(AbstractInit):
    """Uniform Xavier weights with PyTorch's bias ranges and two recurrent biases.

    Weights are `U(+-sqrt(6/(fan_in + fan_out)))`, biases `U(+-1/sqrt(fan_in))`; the
    diagonal of `W` starts at zero. This is the initialisation of Kurtkaya, Dinc et
    al. 2025 (arXiv:2502.17433).
    """

    def __call__(self, input_size, state_size, output_size, *, key):
        keys = jr.split(key, 6)
        n = state_size

        def xavier(k, rows, cols):
            bound = (6.0 / (rows + cols)) ** 0.5
            return jr.uniform(k, (rows, cols), minval=-bound, maxval=bound)

        def bias(k, size, fan_in):
            bound = max(fan_in, 1) ** -0.5
            return jr.uniform(k, (size,), minval=-bound, maxval=bound)

        W = xavier(keys[1], n, n)
        return Connectivity(
            W=W - jnp.diag(jnp.diag(W)),
            W_in=xavier(keys[0], n, input_size),
            b=bias(keys[2], n, n),
            b_in=bias(keys[3], n, input_size),
            W_out=xavier(keys[4], output_size, n),
            b_out=bias(keys[5], output_size, n),
        )


class Sparse(AbstractInit):
    """Gaussian `W` of which each entry is kept with probability `density`, rescaled
    so that the spectral radius still tends to `gain`."""

    density: float = eqx.field(static=True)
    gain: Float[Array, ""] = eqx.field(default=1.0, converter=jnp.asarray)

    def __check_init__(self):
        if not 0 < self.density <= 1:
            raise ValueError(
                f"density = {self.density}, expected a share in (0, 1] of kept weights."
            )

    def __call__(self, input_size, state_size, output_size, *, key):
        drawn = Gaussian(self.gain)(input_size, state_size, output_size, key=key)
        keep = jr.bernoulli(jr.fold_in(key, 1), self.density, drawn.W.shape)
        return drawn._replace(W=jnp.where(keep, drawn.W, 0) / self.density**0.5)


class Orthogonal(AbstractInit):
    """`W` is `gain` times a random orthogonal matrix, so that every eigenvalue has
    modulus `gain`."""

    gain: Float[Array, ""] = eqx.field(default=1.0, converter=jnp.asarray)

    def __call__(self, input_size, state_size, output_size, *, key):
        drawn = Gaussian(self.gain)(input_size, state_size, output_size, key=key)
        W = jr.orthogonal(jr.fold_in(key, 1), state_size)
        return drawn._replace(W=self.gain * W)


class DaleBalanced(AbstractInit):
    """Excitatory and inhibitory columns whose means cancel.

    The first `round(excitatory N)` units are excitatory. Magnitudes are half-normal;
    inhibitory columns are scaled so that each row sums to zero on average, and each
    row's mean is then removed within the non-zero pattern, which keeps the large
    outlier eigenvalue of an unbalanced initialisation away.

    **Reference:** Rajan & Abbott 2006, doi:10.1103/PhysRevLett.97.188104.
    """

    excitatory: float = eqx.field(static=True, default=0.8)
    gain: Float[Array, ""] = eqx.field(default=1.0, converter=jnp.asarray)

    def __check_init__(self):
        if not 0 < self.excitatory < 1:
            raise ValueError(
                f"excitatory = {self.excitatory}, expected a share in (0, 1) of units "
                "that excite, such as 0.8."
            )

    def signs(self, state_size: int) -> Float[Array, " state"]:
        """`+1` for excitatory, `-1` for inhibitory units (columns of `W`)."""
        return jnp.where(jnp.arange(state_size) < self._count(state_size), 1.0, -1.0)

    def _count(self, n: int) -> int:
        if n < 2:
            raise ValueError(
                f"state_size = {n}, expected at least two: one unit that excites and "
                "one that inhibits. Pass init=Gaussian() for a single unit."
            )
        return min(max(round(self.excitatory * n), 1), n - 1)

    def __call__(self, input_size, state_size, output_size, *, key):
        drawn = Gaussian(1.0)(input_size, state_size, output_size, key=key)
        n, n_exc = state_size, self._count(state_size)
        ratio = n_exc / (n - n_exc)
        signs = self.signs(n)[None, :]
        is_exc = signs > 0
        size = jnp.abs(drawn.W) * jnp.where(is_exc, 1.0, ratio)
        exc = jnp.sum(jnp.where(is_exc, size, 0), axis=1, keepdims=True)
        inh = jnp.sum(jnp.where(is_exc, 0, size), axis=1, keepdims=True)
        # Row balance by scaling, not shifting: signs survive.
        size = jnp.where(is_exc, size * jnp.sqrt(inh / exc), size * jnp.sqrt(exc / inh))
        W = size * signs
        radius = jnp.sqrt(jnp.sum(jnp.var(W, axis=0)))
        return drawn._replace(W=self.gain * W / radius)


class FixedArrays(AbstractInit):
    """No drawing at all: the given arrays (used by `from_arrays`)."""

    arrays: Connectivity

    def __call__(self, input_size, state_size, output_size, *, key):
        return self.arrays
