"""Gated networks in continuous time."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from .._core._checks import check_key
from .._core._types import KeyLike
from ._base import (
    AbstractRNN,
    check_noise,
    check_sizes,
    check_tau,
    check_x0,
    input_current,
)


class ContinuousGRU(AbstractRNN):
    r"""Gated recurrent unit as a flow

        z = sigmoid(W_z h + U_z u + b_z)          update gate
        r = sigmoid(W_r h + U_r u + b_r)          reset gate
        n = tanh(U_n u + b_n + r * (W_n h + c_n)) candidate
        tau dh/dt = (1 - z) * (n - h)
                y = W_out h + b_out

    whose Euler map at `dt = tau` is the discrete GRU of PyTorch and Keras
    (reset after the product). `W` stacks `W_z, W_r, W_n` as `(3 state, state)`; the
    noise is added to all currents.

    **Reference:** Cho et al. 2014, arXiv:1406.1078; Jordan, Sokol & Park 2021,
    doi:10.3389/fncom.2021.678158.
    """

    W: Float[Array, "gates state"]
    W_in: Float[Array, "gates input"]
    b: Float[Array, " gates"]
    b_n: Float[Array, " state"]
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
        tau: Any,
        gain: Any = 1.0,
        noise: Any = 0.0,
        x0: Any = None,
        key: KeyLike,
    ):
        """**Arguments:** as in `RateRNN`; `gain` scales all recurrent weights."""
        check_sizes(input_size, state_size, output_size)
        check_key(key)
        keys = jr.split(key, 3)
        n = state_size
        self.W = gain * jr.normal(keys[0], (3 * n, n)) / n**0.5
        self.W_in = jr.normal(keys[1], (3 * n, input_size)) / max(input_size, 1) ** 0.5
        self.b = jnp.zeros(3 * n)
        self.b_n = jnp.zeros(n)
        self.W_out = jr.normal(keys[2], (output_size, n)) / n**0.5
        self.b_out = jnp.zeros(output_size)
        self.tau = check_tau(tau, n, self.W.dtype)
        self.noise = check_noise(noise, self.W.dtype)
        self.x0 = check_x0(x0, n, self.W.dtype)
        self.state_size = n
        self.input_size = input_size
        self.output_size = output_size

    # The current has four blocks, (z, r, input part of n, recurrent part of n), because
    # the reset gate multiplies only the recurrent one.

    def recurrent(self, x):
        gates, candidate = jnp.split(self.W @ x, [2 * self.state_size])
        return jnp.concatenate([gates, jnp.zeros_like(candidate), candidate])

    def drive(self, u=None):
        return jnp.concatenate([input_current(self.W_in, u, self.b), self.b_n])

    def velocity(self, x, current):
        z, r, from_input, from_state = jnp.split(current, 4)
        candidate = jnp.tanh(from_input + jax.nn.sigmoid(r) * from_state)
        return (1 - jax.nn.sigmoid(z)) * (candidate - x) / self.tau

    def readout(self, x):
        return self.W_out @ x + self.b_out
