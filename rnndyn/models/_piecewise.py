"""Piecewise-linear networks, as flow and as the discrete map of the literature."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from .._core._checks import as_float, check_key, check_shape
from .._core._system import Map
from .._core._types import KeyLike
from ._base import (
    AbstractRNN,
    assembled,
    check_noise,
    check_sizes,
    check_tau,
    check_x0,
    given_array,
    input_current,
)


class PiecewiseLinearRNN(AbstractRNN):
    r"""Piecewise-linear recurrent network (PLRNN)

        discrete:    z_{k+1} = A z_k + W relu(z_k) + h + W_in u_k
        continuous:  tau dz/dt = A z + W relu(z) + h + W_in u - z
                   y = W_out z + b_out

    with diagonal `A` (stored as its diagonal). `discrete()` is the map; the vector
    field is the flow whose Euler map at `dt = tau` is that same map, so both share
    their fixed points `z = A z + W relu(z) + h`.

    **Reference:** Durstewitz 2017, doi:10.1371/journal.pcbi.1005542.
    """

    A: Float[Array, " state"]
    W: Float[Array, "state state"]
    h: Float[Array, " state"]
    W_in: Float[Array, "state input"]
    W_out: Float[Array, "output state"]
    b_out: Float[Array, " output"]
    tau: Float[Array, "*per_unit"]
    noise: Float[Array, ""]
    x0: Float[Array, " state"]
    state_size: int = eqx.field(static=True)
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        state_size: int,
        output_size: int,
        *,
        tau: Any = 1.0,
        noise: Any = 0.0,
        x0: Any = None,
        key: KeyLike,
    ):
        """**Arguments:** sizes, `tau` (duration of one step of the map, seconds),
        `noise`, `x0` and `key` as in `RateRNN`. `A ~ U(0.5, 0.9)`, the rest Gaussian.
        """
        check_sizes(input_size, state_size, output_size)
        check_key(key)
        keys = jr.split(key, 4)
        n = state_size
        W = 0.5 * jr.normal(keys[1], (n, n)) / n**0.5
        self.A = jr.uniform(keys[0], (n,), minval=0.5, maxval=0.9)
        self.W = W - jnp.diag(jnp.diag(W))
        self.h = jnp.zeros(n)
        self.W_in = jr.normal(keys[2], (n, input_size))
        self.W_out = jr.normal(keys[3], (output_size, n)) / n**0.5
        self.b_out = jnp.zeros(output_size)
        self.tau = check_tau(tau, n, self.W.dtype)
        self.noise = check_noise(noise, self.W.dtype)
        self.x0 = check_x0(x0, n, self.W.dtype)
        self.state_size = n
        self.input_size = input_size
        self.output_size = output_size

    @classmethod
    def from_arrays(
        cls,
        A: Any,
        W: Any,
        h: Any = None,
        W_in: Any = None,
        W_out: Any = None,
        b_out: Any = None,
        *,
        tau: Any = 1.0,
        noise: Any = 0.0,
        x0: Any = None,
    ) -> "PiecewiseLinearRNN":
        """A network from arrays: `A` `(state,)` or a diagonal `(state, state)`."""
        W = as_float(W, "W")
        check_shape("W", W, (None, None), "W maps units to units: (state, state).")
        n, dtype = W.shape[0], W.dtype
        if np.ndim(A) == 2:
            A = given_array("A", A, (n, n), "Pass the diagonal of A.", dtype=dtype)
            if not bool(jnp.all(jnp.diag(jnp.diag(A)) == A)):
                raise ValueError(
                    "A has off-diagonal entries, expected a diagonal matrix or its "
                    "diagonal. Move the off-diagonal part into W's linear twin."
                )
            A = jnp.diag(A)
        W_in = given_array("W_in", W_in, (n, None), "(state, input).", dtype=dtype)
        W_out = given_array("W_out", W_out, (None, n), "(output, state).", dtype=dtype)
        sizes = W_in.shape[1], n, W_out.shape[0]
        return assembled(
            cls,
            sizes,
            A=given_array("A", A, (n,), "The diagonal of A.", dtype=dtype),
            W=given_array("W", W, (n, n), "(state, state).", dtype=dtype),
            h=given_array("h", h, (n,), "One bias a unit.", dtype=dtype),
            W_in=W_in,
            W_out=W_out,
            b_out=given_array("b_out", b_out, (sizes[2],), "(output,).", dtype=dtype),
            tau=check_tau(tau, n, dtype),
            noise=check_noise(noise, dtype),
            x0=check_x0(x0, n, dtype),
        )

    def recurrent(self, x):
        return self.W @ jax.nn.relu(x)

    def drive(self, u=None):
        return input_current(self.W_in, u, self.h)

    def velocity(self, x, current):
        return ((self.A - 1) * x + current) / self.tau

    def readout(self, x):
        return self.W_out @ x + self.b_out

    def discrete(self) -> Map:
        """The map `z -> A z + W relu(z) + h + W_in u`."""
        return self.map(self.tau)
