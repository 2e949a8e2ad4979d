"""What every baseline returns, and where it starts."""

import abc
import contextlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..._core._checks import (
    check_count,
    check_key,
    check_shape,
    is_concrete,
)
from ..._core._types import KeyLike
from ..._core._verdicts import Verdict
from .._fit import AbstractFit, verdicts_in_words
from .._problem import Real, Rows, check_in, regression_rows, targets


class BaselineFit(AbstractFit):
    """Weights found by a baseline solver, and what is known about them.

    **Attributes:**

    - `theta`: weights `(predictor, neuron)`; column `i` holds those into neuron `i`,
      recurrent ones first.
    - `loss`: what the solver lowers, averaged over the neurons that were not left out,
      before the first step and after every step (every epoch of `force`); repeated
      once all neurons have converged.
    - `gradient_norm`: root mean square over predictors of the gradient of that loss at
      `theta`, one a neuron; NaN where the solver has no such gradient.
    - `converged`: whether a neuron met the solver's criterion. Never true where the
      weights are not finite.
    - `diverged`: neurons whose weights are not finite, and those left out, whose data
      were not finite or constant; the weights of the latter are zero.
    - `num_steps`: steps made.
    - `snapshots`: `theta` after every `record_every` steps, none by default.
    - `alpha`: `dt/tau`, one a neuron.
    - `dt`: one frame, in seconds.
    """

    theta: Float[Array, "predictor neuron"]
    loss: Float[Array, " records"]
    gradient_norm: Float[Array, " neuron"]
    converged: Bool[Array, " neuron"]
    diverged: Bool[Array, " neuron"]
    num_steps: Int[Array, ""]
    snapshots: Float[Array, "snapshots predictor neuron"]
    alpha: Float[Array, " neuron"]
    dt: Float[Array, ""]

    def headline(self) -> str:
        """Sizes, and how many neurons ended with which verdict."""
        return verdicts_in_words(self.theta, self.verdict)

    @property
    def verdict(self) -> Int[Any, " neuron"]:
        """Codes of `Verdict` as in `CornnFit`, `constant` for neurons left out."""
        left_out = self.diverged & jnp.all(jnp.isfinite(self.theta), axis=-2)
        verdict = jnp.where(self.converged, Verdict.root, Verdict.undetermined)
        verdict = jnp.where(self.diverged, Verdict.diverged, verdict)
        return jnp.where(left_out, Verdict.constant, verdict)


def _digits(value: Any) -> Any:
    """An array with all digits, also where JAX would round it to float32."""
    return value if isinstance(value, jax.Array) else np.asarray(value, np.float64)


class AbstractWeightStart(eqx.Module):
    """Where a solver starts. Implement this one method."""

    @abc.abstractmethod
    def __call__(
        self, x: Float[Array, "row predictor"], d: Float[Array, "row neuron"]
    ) -> Float[Array, "predictor neuron"]:
        """The first weights."""


class FixedPointStart(AbstractWeightStart):
    """Ridge regression on currents, `(X^T X + ridge T I)^-1 X^T arctanh(d)`: the exact
    weights where there is neither noise nor ridge."""

    ridge: Float[Real, ""] = eqx.field(default=1e-5, converter=_digits)

    def __call__(self, x, d):
        factor = jax.scipy.linalg.cho_factor(gram(x, jnp.asarray(self.ridge, x.dtype)))
        return jax.scipy.linalg.cho_solve(factor, x.T @ jnp.arctanh(d) / x.shape[0])


class RandomWeights(AbstractWeightStart):
    """`N(0, gain^2/N)`, without self-connections if `zero_diagonal`."""

    key: KeyLike
    gain: Float[Real, ""] = eqx.field(default=1.0, converter=_digits)
    zero_diagonal: bool = eqx.field(default=False, static=True)

    def __call__(self, x, d):
        p, n = x.shape[1], d.shape[1]
        theta = jnp.asarray(self.gain, x.dtype) * jr.normal(
            check_key(self.key), (p, n), x.dtype
        )
        keep = 1 - jnp.eye(p, n, dtype=x.dtype) if self.zero_diagonal else 1.0
        return theta / n**0.5 * keep


class XavierWeights(AbstractWeightStart):
    """Normal Xavier weights, variance `2/(fan_in + fan_out)`, without
    self-connections."""

    key: KeyLike

    def __call__(self, x, d):
        p, n = x.shape[1], d.shape[1]
        fans = jnp.where(jnp.arange(p) < n, n + n, p).astype(x.dtype)
        theta = (
            jr.normal(check_key(self.key), (p, n), x.dtype)
            * jnp.sqrt(2 / fans)[:, None]
        )
        return theta * (1 - jnp.eye(p, n, dtype=x.dtype))


class GivenWeights(AbstractWeightStart):
    """Weights as they are, `(predictor, neuron)`."""

    theta: Float[Real, "predictor neuron"] = eqx.field(converter=_digits)

    def __call__(self, x, d):
        shape = (x.shape[1], d.shape[1])
        check_shape("theta", self.theta, shape, "One column a neuron.")
        return jnp.asarray(self.theta, x.dtype)


class CrossEntropy(eqx.Module):
    """`-P ln Q - (1 - P) ln(1 - Q)` of `P = (1 + target)/2`, `Q = (1 + value)/2`."""

    def __call__(self, value: Any, target: Any) -> Any:
        # As torch's: a logarithm is no smaller than -100.
        log = lambda q: jnp.maximum(jnp.log(jnp.maximum(q, 1e-44)), -100.0)
        p, q = (1 + target) / 2, (1 + value) / 2
        return -p * log(q) - (1 - p) * log(1 - q)


class MeanSquare(eqx.Module):
    """`scale (value - target)^2`."""

    scale: float = eqx.field(default=1.0, static=True)

    def __call__(self, value: Any, target: Any) -> Any:
        return self.scale * jnp.square(value - target)


class Problem(eqx.Module):
    """The regression, bad neurons silenced, and whether each is good."""

    x: Float[Array, "row predictor"]
    d: Float[Array, "row neuron"]
    good: Bool[Array, " neuron"]
    alpha: Float[Array, " neuron"]


def check_kind(name: str, value: Any, kinds: Any, expected: str) -> None:
    """Raise a `ValueError` unless `value` is an instance, not a name or a class."""
    if not isinstance(value, kinds):
        raise ValueError(f"{name} = {value!r}, expected {expected}.")


def problem(rates: Any, inputs: Any, alpha: Any, dt: Any) -> tuple[Rows, Problem]:
    """Checked rows as JAX arrays; call it inside `precision(rates)`."""
    check_in("dt", dt, "(0, inf)", "Pass the seconds from one frame to the next.")
    rows = regression_rows(rates, inputs, alpha=alpha)
    x = jnp.asarray(rows.x)
    r, r_next, alpha = (jnp.asarray(a) for a in (rows.r, rows.r_next, rows.alpha))
    d = targets(r, r_next, alpha[None, :])
    frames = jnp.asarray(rows.rates)
    # As in `cornn`: a constant predictor would act as a bias.
    good = jnp.all(jnp.isfinite(frames), axis=0) & jnp.any(frames != frames[:1], axis=0)
    keep = jnp.concatenate([good, jnp.ones(rows.num_inputs, bool)])
    x = jnp.where(keep[None, :], x, 0)
    d = jnp.where(good[None, :], d, 0)
    return rows, Problem(x, d, good, alpha)


def first_weights(start: AbstractWeightStart, given: Problem) -> Array:
    """Where to start, as a program of its own: the solvers' do not depend on it."""
    check_kind("start", start, AbstractWeightStart, "a start: GivenWeights(theta)")
    return _first_weights(start, given)


@eqx.filter_jit
def _first_weights(start, given):
    return jnp.where(linked(given), start(given.x, given.d), 0)


def mean_of_good(values: Any, good: Any) -> Array:
    """Mean over everything of neurons that are fitted; the others have no loss. NaN if
    there are none."""
    good = jnp.broadcast_to(good, values.shape)
    return jnp.sum(jnp.where(good, values, 0)) / jnp.sum(good)


def linked(given: Problem) -> Bool[Array, "predictor neuron"]:
    """Weights between good neurons or from inputs to them; all others are zero."""
    inputs = jnp.ones(given.x.shape[1] - given.d.shape[1], bool)
    return jnp.concatenate([given.good, inputs])[:, None] & given.good[None, :]


@contextlib.contextmanager
def precision(data: Any):
    """Float64 for concrete float64 data, whatever the process allows."""
    first = data[0] if isinstance(data, list | tuple) else data
    kind = np.dtype(getattr(first, "dtype", np.float64))
    if is_concrete(first) and kind != np.float32:
        with jax.enable_x64(True):
            yield
    else:
        yield


def gram(x: Array, ridge: Any) -> Array:
    """`X^T X / T + ridge I`, regular whatever predictors are silent."""
    silent = jnp.all(x == 0, axis=0).astype(x.dtype)
    diagonal = jnp.asarray(ridge, x.dtype) + silent
    return x.T @ x / x.shape[0] + jnp.diag(diagonal)


def free_entries(mask: Any, shape: tuple[int, int]) -> Any:
    """Entries that are fitted, as numbers; None where all are."""
    if mask is None:
        return None
    check_shape("mask", mask, shape, "True where a weight must be zero.")
    mask = jnp.asarray(mask)
    if mask.dtype != bool:
        raise ValueError(
            f"mask has dtype {mask.dtype}, expected bool: True where a weight must be "
            "zero."
        )
    return ~mask


def repeat(
    step: Callable,
    state: Any,
    num_steps: int,
    record_every: int | None,
    theta_of: Callable,
    *,
    name: str = "num_steps",
) -> tuple[Any, Array, Array]:
    """`state, loss = step(state)` many times: the last state, losses, snapshots."""
    check_count(name, num_steps)
    every = num_steps if record_every is None else record_every
    check_count("record_every", every)
    if num_steps % every:
        raise ValueError(
            f"record_every = {record_every}, expected a divisor of {name} = "
            f"{num_steps}."
        )

    def block(state, _):
        state, losses = jax.lax.scan(lambda s, _: step(s), state, length=every)
        keep = None if record_every is None else theta_of(state)
        return state, (losses, keep)

    state, (losses, kept) = jax.lax.scan(block, state, length=num_steps // every)
    if kept is None:
        kept = jnp.zeros((0, *theta_of(state).shape), theta_of(state).dtype)
    return state, losses.reshape(-1), kept
