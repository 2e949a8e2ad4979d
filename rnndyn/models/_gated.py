"""Gated networks in continuous time."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from .._core._checks import as_float, check_key, check_shape
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

    @classmethod
    def from_arrays(
        cls,
        W: Any,
        W_in: Any = None,
        b: Any = None,
        b_n: Any = None,
        W_out: Any = None,
        b_out: Any = None,
        *,
        tau: Any,
        noise: Any = 0.0,
        x0: Any = None,
    ) -> "ContinuousGRU":
        """A network from arrays: `W` `(3 state, state)`, `W_in` `(3 state, input)` and
        `b` `(3 state,)` with their blocks in the order z, r, n; `b_n` `(state,)`, which
        the reset gate multiplies (c_n above); `W_out` `(output, state)`, `b_out`. What
        is missing is zero.

        **Raises:** a `ValueError` for wrong shapes or NaN weights.
        """
        W = as_float(W, "W")
        check_shape("W", W, (None, None), "W stacks W_z, W_r, W_n: (3 state, state).")
        n, dtype = W.shape[1], W.dtype
        stacked = "Three blocks, in the order z, r, n."
        W = given_array("W", W, (3 * n, n), stacked, dtype=dtype)
        W_in = given_array("W_in", W_in, (3 * n, None), stacked, dtype=dtype)
        W_out = given_array("W_out", W_out, (None, n), "(output, state).", dtype=dtype)
        sizes = W_in.shape[1], n, W_out.shape[0]
        return assembled(
            cls,
            sizes,
            W=W,
            W_in=W_in,
            b=given_array("b", b, (3 * n,), stacked, dtype=dtype),
            b_n=given_array("b_n", b_n, (n,), "One a unit.", dtype=dtype),
            W_out=W_out,
            b_out=given_array("b_out", b_out, (sizes[2],), "(output,).", dtype=dtype),
            tau=check_tau(tau, n, dtype),
            noise=check_noise(noise, dtype),
            x0=check_x0(x0, n, dtype),
        )

    @classmethod
    def from_torch(
        cls,
        weight_ih: Any,
        weight_hh: Any,
        bias_ih: Any = None,
        bias_hh: Any = None,
        *,
        tau: Any = 1.0,
        W_out: Any = None,
        b_out: Any = None,
    ) -> "ContinuousGRU":
        """A layer of `torch.nn.GRU`, as arrays: its `weight_ih_l0`, `weight_hh_l0`,
        `bias_ih_l0`, `bias_hh_l0`, of which the blocks are in the order r, z, n. The
        Euler map at `dt = tau`, by default 1, is that layer.

        ```python
        a = {k: v.numpy() for k, v in gru.state_dict().items()}
        model = rd.models.ContinuousGRU.from_torch(
            a["weight_ih_l0"], a["weight_hh_l0"], a["bias_ih_l0"], a["bias_hh_l0"]
        )
        step = model.map(1.0)
        ```

        **Raises:** a `ValueError` for wrong shapes or NaN weights.
        """
        W, W_in, b, b_n = gru_blocks(weight_ih, weight_hh, bias_ih, bias_hh)
        return cls.from_arrays(W, W_in, b, b_n, W_out, b_out, tau=tau)

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


def gru_blocks(
    weight_ih: Any, weight_hh: Any, bias_ih: Any, bias_hh: Any
) -> tuple[Array, Array, Array, Array]:
    """`W, W_in, b, b_n` of `ContinuousGRU.from_arrays` from the arrays of a layer of
    `torch.nn.GRU`, of which the blocks are in the order r, z, n."""
    W = as_float(weight_hh, "weight_hh")
    check_shape("weight_hh", W, (None, None), "Pass weight_hh_l0: (3 state, state).")
    n, dtype = W.shape[1], W.dtype

    def turned(name, a, shape):
        a = given_array(name, a, shape, f"Pass {name}_l0.", dtype=dtype)
        r, z, candidate = jnp.split(a, 3)
        return jnp.concatenate([z, r, candidate])

    b = turned("bias_ih", bias_ih, (3 * n,))
    b_h = turned("bias_hh", bias_hh, (3 * n,))
    return (
        turned("weight_hh", W, (3 * n, n)),
        turned("weight_ih", weight_ih, (3 * n, None)),
        b.at[: 2 * n].add(b_h[: 2 * n]),
        b_h[2 * n :],
    )
