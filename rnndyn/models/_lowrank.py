"""Low-rank networks, and their exact reduction to a few latent variables."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from .._core._checks import as_float, check_count, check_key, check_shape, one_of
from .._core._system import AbstractVectorField
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
from ._init import AbstractInit


FORMS = ("current", "rate")
SCALES = ("1/N", "1")


class Factors(NamedTuple):
    """Arrays of a low-rank network; shapes as in `LowRankRNN`."""

    m: Float[Array, "state rank"]
    n: Float[Array, "state rank"]
    W_in: Float[Array, "state input"]
    b: Float[Array, " state"]
    W_out: Float[Array, "output readable"]
    b_out: Float[Array, " output"]
    W_fixed: Float[Array, "state state"] | None


class GaussianFactors(eqx.Module):
    """Independent Gaussian `m`, `n` (variance 1 at scale `1/N`, `1/N` at scale `1`).

    **Arguments:**

    - `gain`: of the fixed random part `N(0, gain^2/N)`; none if `None`.
    - `b_out_std`: standard deviation of the read-out bias.
    """

    gain: float | None = None
    b_out_std: float = 0.0

    def __call__(self, inputs, size, outputs, rank, readable, spread, *, key):
        keys = jr.split(key, 6)
        fixed = None
        if self.gain is not None:
            fixed = self.gain * jr.normal(keys[4], (size, size)) / size**0.5
        return Factors(
            m=spread * jr.normal(keys[0], (size, rank)),
            n=spread * jr.normal(keys[1], (size, rank)),
            W_in=jr.normal(keys[2], (size, inputs)),
            b=jnp.zeros(size),
            W_out=jr.normal(keys[3], (outputs, readable)) / readable**0.5,
            b_out=self.b_out_std * jr.normal(keys[5], (outputs,)),
            W_fixed=fixed,
        )


class LowRankRNN(AbstractRNN):
    r"""Network with connectivity `W = s m n^T + W_fixed`, `s = 1/N` or `1`,

        current:  tau dx/dt = -x + s m n^T phi(x) + W_fixed phi(x) + W_in u + b
        rate:     tau dr/dt = -r + phi(s m n^T r + W_fixed r + W_in u + b)

    Trained are `m` and `n` `(state, rank)`, biases, input and read-out weights;
    `W_fixed` is an optional random part that stays. The read-out acts on the rates, or
    with `latent_readout` on the latent variables `kappa = s n^T (rates)`:

        y = readout(W_out rates + b_out)    or    y = readout(W_out kappa + b_out)

    Without a fixed random part the dynamics at constant input reduces exactly to
    `LatentField`, which has the same fixed points and the same leading eigenvalues.

    **Reference:** Mastrogiuseppe & Ostojic 2018, doi:10.1016/j.neuron.2018.07.003;
    Dubreuil, Valente et al. 2022, doi:10.1038/s41593-022-01088-4.
    """

    m: Float[Array, "state rank"]
    n: Float[Array, "state rank"]
    W_in: Float[Array, "state input"]
    b: Float[Array, " state"]
    W_out: Float[Array, "output readable"]
    b_out: Float[Array, " output"]
    W_fixed: Float[Array, "state state"] | None
    tau: Float[Array, "*per_unit"]
    noise: Float[Array, ""]
    x0: Float[Array, " state"]
    state_size: int = eqx.field(static=True)
    rank: int = eqx.field(static=True)
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    form: str = eqx.field(static=True)
    scale: str = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    readout_activation: str = eqx.field(static=True)
    latent_readout: bool = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        state_size: int,
        output_size: int,
        *,
        rank: int,
        tau: Any,
        form: str = "current",
        scale: str = "1/N",
        activation: str = "tanh",
        readout: str = "identity",
        latent_readout: bool = False,
        noise: Any = 0.0,
        x0: Any = None,
        init: Callable[..., Factors] | None = None,
        key: KeyLike | None = None,
    ):
        """**Arguments:** as in `RateRNN`, and

        - `rank`: number of columns of `m` and `n`.
        - `form`: `"current"` or `"rate"`; `scale`: `"1/N"` or `"1"`.
        - `latent_readout`: whether `W_out` reads the latent variables.
        - `init`: callable `(self_sizes..., key=) -> Factors`; `GaussianFactors()`
            by default.
        """
        check_sizes(input_size, state_size, output_size)
        check_count("rank", rank)
        if rank > state_size:
            raise ValueError(f"rank = {rank}, expected 1 to state_size = {state_size}.")
        one_of("form", form, FORMS)
        one_of("scale", scale, SCALES)
        activation_fn(activation)
        activation_fn(readout, "readout")
        init = GaussianFactors() if init is None else init
        if isinstance(init, type | AbstractInit) or not callable(init):
            raise ValueError(
                f"init = {init!r}, expected a callable that returns Factors, such as "
                "rnndyn.models.GaussianFactors()."
            )
        if key is not None or isinstance(init, GaussianFactors):
            check_key(key)
        readable = rank if latent_readout else state_size
        spread = 1.0 if scale == "1/N" else state_size**-0.5
        drawn = init(
            input_size, state_size, output_size, rank, readable, spread, key=key
        )
        self.m, self.n, self.W_in, self.b, self.W_out, self.b_out, self.W_fixed = drawn
        dtype = drawn.m.dtype
        self.tau = check_tau(tau, state_size, dtype)
        self.noise = check_noise(noise, dtype)
        self.x0 = check_x0(x0, state_size, dtype)
        self.state_size = state_size
        self.rank = rank
        self.input_size = input_size
        self.output_size = output_size
        self.form = form
        self.scale = scale
        self.activation = activation
        self.readout_activation = readout
        self.latent_readout = latent_readout

    @classmethod
    def from_arrays(
        cls,
        m: Any,
        n: Any,
        W_in: Any = None,
        b: Any = None,
        W_out: Any = None,
        b_out: Any = None,
        *,
        tau: Any,
        form: str = "current",
        scale: str = "1/N",
        activation: str = "tanh",
        readout: str = "identity",
        latent_readout: bool = False,
        W_fixed: Any = None,
        noise: Any = 0.0,
        x0: Any = None,
    ) -> "LowRankRNN":
        """A network from arrays `m`, `n` `(state, rank)`; what is missing is zero.

        **Raises:** a `ValueError` for wrong shapes, unknown names or NaN weights.
        """
        m = as_float(m, "m")
        check_shape("m", m, (None, None), "m is (state, rank).")
        size, rank = m.shape
        readable = rank if latent_readout else size
        given = functools.partial(given_array, dtype=m.dtype)
        W_in = given("W_in", W_in, (size, None), "W_in is (state, input).")
        W_out = given("W_out", W_out, (None, readable), "W_out is (output, state).")
        outputs = W_out.shape[0]
        factors = Factors(
            m=given("m", m, (size, rank), "m is (state, rank)."),
            n=given("n", n, (size, rank), "n has the shape of m, (state, rank)."),
            W_in=W_in,
            b=given("b", b, (size,), "One bias a unit."),
            W_out=W_out,
            b_out=given("b_out", b_out, (outputs,), "One bias an output."),
            W_fixed=None
            if W_fixed is None
            else given("W_fixed", W_fixed, (size, size), "W_fixed is (state, state)."),
        )
        return cls(
            W_in.shape[1],
            size,
            outputs,
            rank=rank,
            tau=tau,
            form=form,
            scale=scale,
            activation=activation,
            readout=readout,
            latent_readout=latent_readout,
            noise=noise,
            x0=x0,
            init=lambda *_, key: factors,
        )

    def rates(self, x: Float[Array, " state"]) -> Float[Array, " state"]:
        """What is transmitted: `phi(x)` in current form, `x` itself in rate form."""
        return activation_fn(self.activation)(x) if self.form == "current" else x

    def latent(self, x: Float[Array, " state"]) -> Float[Array, " rank"]:
        """The latent variables `kappa = s n^T rates(x)`."""
        return self._s * (self.n.T @ self.rates(x))

    @property
    def _s(self) -> float:
        return 1.0 / self.state_size if self.scale == "1/N" else 1.0

    def recurrent(self, x):
        current = self.m @ self.latent(x)
        if self.W_fixed is None:
            return current
        return current + self.W_fixed @ self.rates(x)

    def drive(self, u=None):
        return input_current(self.W_in, u, self.b)

    def velocity(self, x, current):
        if self.form == "current":
            return (current - x) / self.tau
        return (activation_fn(self.activation)(current) - x) / self.tau

    def readout(self, x):
        seen = self.latent(x) if self.latent_readout else self.rates(x)
        return activation_fn(self.readout_activation)(self.W_out @ seen + self.b_out)

    def reduce(self, u: Float[Array, " input"] | None = None) -> "LatentField":
        """The exact dynamics of the latent variables at constant input `u`.

        **Raises:** a `ValueError` if the network has a fixed random part, or one time
        constant a unit, either of which makes the reduction inexact.
        """
        if self.W_fixed is not None or jnp.ndim(self.tau) > 0:
            raise ValueError(
                "the reduction to latent variables needs W_fixed = None and one common "
                "tau. Search in full space: rnndyn.dynamics.fixed_points(model, ...)."
            )
        return LatentField(self, self.drive(u))


class LatentField(AbstractVectorField):
    r"""The latent dynamics of a low-rank network at constant current `c`,

        tau dkappa/dt = -kappa + s n^T phi(m kappa + c)

    in either form: exactly for trajectories that start at `lift(kappa)` in current
    form, and for the fixed points and the eigenvalues other than `-1/tau` in both.
    """

    model: LowRankRNN
    current: Float[Array, " state"]

    def __call__(self, t, x, args=None):
        model = self.model
        rates = activation_fn(model.activation)(model.m @ x + self.current)
        return (model._s * (model.n.T @ rates) - x) / model.tau

    @property
    def time_scale(self):
        return self.model.time_scale

    def lift(self, kappa: Float[Array, " rank"]) -> Float[Array, " state"]:
        """The state of the full network at latent fixed point `kappa`."""
        x = self.model.m @ kappa + self.current
        if self.model.form == "current":
            return x
        return activation_fn(self.model.activation)(x)

    def bound(self) -> Float[Array, " rank"]:
        """A box `|kappa_r| <= bound_r` that holds every fixed point, for activations
        bounded by 1 (tanh, sigmoid, erf, retanh)."""
        return self.model._s * jnp.sum(jnp.abs(self.model.n), axis=0)
