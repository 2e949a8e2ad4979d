"""Full-rank networks in rate form and in current form."""

import functools
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
from jaxtyping import Array, Float

from .._core._checks import as_float, check_key, check_shape
from .._core._types import KeyLike
from ._activations import activation as activation_fn
from ._base import (
    AbstractRNN,
    check_noise,
    check_sizes,
    check_tau,
    check_x0,
    given_array,
    input_current,
)
from ._init import AbstractInit, Connectivity, FixedArrays, Gaussian


class AbstractFullRankRNN(AbstractRNN):
    """Fields and constructors that the rate and the current form share."""

    W: Float[Array, "state state"]
    W_in: Float[Array, "state input"]
    b: Float[Array, " state"]
    b_in: Float[Array, " state"] | None
    W_out: Float[Array, "output state"]
    b_out: Float[Array, " output"]
    tau: Float[Array, "*per_unit"]
    noise: Float[Array, ""]
    x0: Float[Array, " state"]
    state_size: int = eqx.field(static=True)
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    readout_activation: str = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        state_size: int,
        output_size: int,
        *,
        tau: Any,
        activation: str = "tanh",
        readout: str = "identity",
        gain: Any = 1.0,
        noise: Any = 0.0,
        x0: Any = None,
        init: AbstractInit | None = None,
        key: KeyLike | None = None,
    ):
        """**Arguments:**

        - `input_size`, `state_size`, `output_size`: numbers of inputs, units, outputs.
        - `tau`: time constant(s) in seconds, a number or shape `(state,)`.
        - `activation`, `readout`: names, see `rnndyn.models.ACTIVATIONS`.
        - `gain`: of the default Gaussian connectivity.
        - `noise`: standard deviation of the noise current, per step.
        - `x0`: initial state, shape `(state,)`; zeros by default.
        - `init`: how the arrays are drawn; `Gaussian(gain)` by default.
        - `key`: PRNG key.
        """
        check_sizes(input_size, state_size, output_size)
        activation_fn(activation)
        activation_fn(readout, "readout")
        if init is None:
            init = Gaussian(gain)
        if not isinstance(init, AbstractInit):
            raise ValueError(
                f"init = {init!r}, expected an object such as rnndyn.models.Xavier()."
            )
        if key is None and isinstance(init, FixedArrays):
            key = jax.random.key(0)
        drawn = init(input_size, state_size, output_size, key=check_key(key))
        self.W, self.W_in, self.b, self.b_in, self.W_out, self.b_out = drawn
        dtype = drawn.W.dtype
        self.tau = check_tau(tau, state_size, dtype)
        self.noise = check_noise(noise, dtype)
        self.x0 = check_x0(x0, state_size, dtype)
        self.state_size = state_size
        self.input_size = input_size
        self.output_size = output_size
        self.activation = activation
        self.readout_activation = readout

    @classmethod
    def from_arrays(
        cls,
        W: Any,
        W_in: Any = None,
        b: Any = None,
        b_in: Any = None,
        W_out: Any = None,
        b_out: Any = None,
        *,
        tau: Any,
        activation: str = "tanh",
        readout: str = "identity",
        noise: Any = 0.0,
        x0: Any = None,
    ) -> Any:
        """A network from arrays: `W` `(state, state)`, `W_in` `(state, input)`, `W_out`
        `(output, state)`, biases one-dimensional; what is missing is zero.

        **Raises:** a `ValueError` for wrong shapes, unknown names or NaN weights.
        """
        sizes, arrays = _connectivity(W, W_in, b, b_in, W_out, b_out)
        return cls(
            *sizes,
            tau=tau,
            activation=activation,
            readout=readout,
            noise=noise,
            x0=x0,
            init=FixedArrays(arrays),
        )

    def drive(self, u=None):
        bias = self.b if self.b_in is None else self.b + self.b_in
        return input_current(self.W_in, u, bias)


class RateRNN(AbstractFullRankRNN):
    r"""Rate-form network

        tau dr/dt = -r + phi(W r + W_in u + b + b_in + noise xi)
                y = readout(W_out r + b_out)

    `tau` is a number or one time constant a unit (seconds). `b_in` is the optional
    second bias, trained separately (together they move twice as fast). `noise` is the
    standard deviation of the Gaussian `xi` inside the activation, drawn afresh each
    step and not scaled by `sqrt(dt)`, as the papers have it; the vector field itself
    is noise-free.

    **Reference:** Kurtkaya, Dinc et al. 2025, arXiv:2502.17433.
    """

    if TYPE_CHECKING:  # type checkers would make up a constructor from the fields
        __init__ = AbstractFullRankRNN.__init__

    def recurrent(self, x):
        return self.W @ x

    def velocity(self, x, current):
        return (activation_fn(self.activation)(current) - x) / self.tau

    def readout(self, x):
        return activation_fn(self.readout_activation)(self.W_out @ x + self.b_out)


class CurrentRNN(AbstractFullRankRNN):
    r"""Current-form network

        tau dx/dt = -x + W phi(x) + W_in u + b + b_in + noise xi
                y = readout(W_out phi(x) + b_out)

    Fields and arguments as in `RateRNN`; the noise is a current.

    **Reference:** Sompolinsky, Crisanti & Sommers 1988,
    doi:10.1103/PhysRevLett.61.259; Sussillo & Abbott 2009,
    doi:10.1016/j.neuron.2009.07.018.
    """

    if TYPE_CHECKING:
        __init__ = AbstractFullRankRNN.__init__

    def recurrent(self, x):
        return self.W @ activation_fn(self.activation)(x)

    def velocity(self, x, current):
        return (current - x) / self.tau

    def readout(self, x):
        rates = activation_fn(self.activation)(x)
        return activation_fn(self.readout_activation)(self.W_out @ rates + self.b_out)


def _connectivity(W, W_in, b, b_in, W_out, b_out):
    """Sizes and checked arrays."""
    W = as_float(W, "W")
    check_shape("W", W, (None, None), "W maps units to units: (state, state).")
    n = W.shape[0]
    given = functools.partial(given_array, dtype=W.dtype)
    W_in = given("W_in", W_in, (n, None), "W_in is (state, input); transpose it?")
    W_out = given("W_out", W_out, (None, n), "W_out is (output, state); transpose it?")
    arrays = Connectivity(
        W=given("W", W, (n, n), "W maps units to units: (state, state)."),
        W_in=W_in,
        b=given("b", b, (n,), "One bias a unit."),
        b_in=None if b_in is None else given("b_in", b_in, (n,), "One bias a unit."),
        W_out=W_out,
        b_out=given("b_out", b_out, (W_out.shape[0],), "One bias an output."),
    )
    return (W_in.shape[1], n, W_out.shape[0]), arrays
