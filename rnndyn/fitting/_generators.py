"""Networks to be recovered, and recordings made from them."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Num

from .._core._checks import (
    as_float,
    check_count,
    check_key,
    check_shape,
    check_step_ratio,
    is_concrete,
)
from .._core._types import KeyLike
from ..models import CurrentRNN, RateRNN
from ._problem import check_alpha, check_in


class AbstractNoise(eqx.Module):
    """A noise law. Implement this one method; every recording takes it."""

    @abc.abstractmethod
    def __call__(
        self, num_steps: int, num_neurons: int, dtype: Any, *, key: KeyLike
    ) -> Float[Array, "time neurons"]:
        """The noise of a whole trial."""


class GaussianNoise(AbstractNoise):
    """`N(0, std^2)`, independent for every neuron and step."""

    std: Float[Array, ""] = eqx.field(converter=jnp.asarray)

    def __check_init__(self):
        check_in("std", self.std, "[0, inf)", "Pass a standard deviation.")

    def __call__(self, num_steps, num_neurons, dtype, *, key):
        return self.std.astype(dtype) * jr.normal(key, (num_steps, num_neurons), dtype)


class LaplaceNoise(AbstractNoise):
    """`Laplace(0, scale)`, independent for every neuron and step; its standard
    deviation is `sqrt(2) scale`."""

    scale: Float[Array, ""] = eqx.field(converter=jnp.asarray)

    def __check_init__(self):
        check_in("scale", self.scale, "[0, inf)", "Pass a mean absolute value.")

    def __call__(self, num_steps, num_neurons, dtype, *, key):
        draws = jr.laplace(key, (num_steps, num_neurons), dtype)
        return self.scale.astype(dtype) * draws


class PoissonNoise(AbstractNoise):
    """Counts 0, 1, 2, ... of mean `rate`, independent for every neuron and step. They
    are not centred: the mean is a bias that the fitted model does not have."""

    rate: Float[Array, ""] = eqx.field(converter=jnp.asarray)

    def __call__(self, num_steps, num_neurons, dtype, *, key):
        # Inversion of one uniform: rates are small, and it works in any dtype.
        uniform = jr.uniform(key, (num_steps, num_neurons), dtype)
        rate = self.rate.astype(dtype)

        def count(k, state):
            total, term, cumulative, before = state
            # The rounded sum ends below the largest uniforms: do not count on there.
            total = total + ((uniform >= cumulative) & (cumulative > before))
            term = term * rate / (k + 1)
            return total, term, cumulative + term, cumulative

        start = jnp.exp(-rate)
        # Counts above 40 have probability < 1e-16 for rates up to 8.
        state = (jnp.zeros_like(uniform), start, start, jnp.zeros_like(start))
        return jax.lax.fori_loop(0, 40, count, state)[0]

    def __check_init__(self):
        check_in("rate", self.rate, "[0, 8]", "Pass a mean count a step.")


class CorrelatedNoise(AbstractNoise):
    """White noise smoothed by a Gaussian kernel over time and over the order of the
    neurons, then scaled to `std` over the whole trial.

    `time_width` (frames) and `neuron_width` (neurons) are the standard deviations of
    the kernel, which is cut at three of them.

    **Reference:** Dinc et al. 2023, arXiv:2311.10200, the analysis with correlated
    noise (5 frames and 3 neurons).
    """

    std: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    time_width: float = eqx.field(default=5.0, static=True)
    neuron_width: float = eqx.field(default=3.0, static=True)

    def __check_init__(self):
        check_in("std", self.std, "[0, inf)", "Pass a standard deviation.")
        for name in ("time_width", "neuron_width"):
            remedy = "Pass the kernel's standard deviation in frames or neurons."
            check_in(name, getattr(self, name), "[0, inf)", remedy)

    def __call__(self, num_steps, num_neurons, dtype, *, key):
        field = jr.normal(key, (num_steps, num_neurons), dtype)
        field = _smooth(field, self.time_width)
        field = _smooth(field.T, self.neuron_width).T
        return self.std.astype(dtype) * field / jnp.std(field)


def _smooth(field, width):
    """Gaussian smoothing along the first axis."""
    radius = max(int(3 * width), 1)
    at = jnp.arange(-radius, radius + 1, dtype=field.dtype)
    kernel = jnp.exp(-0.5 * (at / max(width, 1e-3)) ** 2)
    # By FFT: its cost does not grow with the width.
    size = field.shape[0] + 2 * radius
    product = jnp.fft.rfft(field, size, axis=0) * jnp.fft.rfft(kernel, size)[:, None]
    return jnp.fft.irfft(product, size, axis=0)[radius : radius + field.shape[0]]


def random_network(
    num_neurons: int,
    num_inputs: int = 0,
    *,
    alpha: Any = 0.1,
    dt: Any = 1.0,
    gain: Any = 3.0,
    dtype: Any = None,
    key: KeyLike,
) -> RateRNN:
    r"""A random, by default chaotic, rate network

        r_{t+1} = (1 - alpha) r_t + alpha tanh(W r_t + W_in u_t)

    with `W_ij ~ N(0, gain^2/N)`, a zero diagonal, and `W_in ~ N(0, gain^2/inputs)`.

    ```python
    net = random_network(200, alpha=0.1, key=jax.random.key(0))
    rates = record(net, 3000, dt=1.0, key=jax.random.key(1))
    ```

    **Arguments:**

    - `num_neurons`, `num_inputs`: sizes.
    - `alpha`: `dt/tau`, a number or one a neuron, in (0, 1].
    - `dt`: one frame, in seconds; `tau = dt/alpha`.
    - `gain`: above 1 large networks are chaotic.
    - `dtype`: of the weights, JAX's default float dtype if missing.
    - `key`: PRNG key.

    **Returns:** a `RateRNN` without biases or read-out. Not guaranteed: chaos, in small
    networks.

    **Raises:** a `ValueError` if `alpha` lies outside (0, 1].

    **Reference:** Sompolinsky, Crisanti & Sommers 1988,
    doi:10.1103/PhysRevLett.61.259; Dinc et al. 2023, arXiv:2311.10200.
    """
    check_count("num_neurons", num_neurons)
    check_count("num_inputs", num_inputs, 0)
    check_in("gain", gain, "[0, inf)", "Pass one above 1 for chaos, such as 3.0.")
    check_alpha(alpha)
    dtype = jnp.result_type(float) if dtype is None else dtype
    alpha, dt = jnp.asarray(alpha, dtype), jnp.asarray(dt, dtype)
    k_rec, k_in = jr.split(check_key(key))
    gain = jnp.asarray(gain, dtype)
    W = gain * jr.normal(k_rec, (num_neurons, num_neurons), dtype) / num_neurons**0.5
    W = W - jnp.diag(jnp.diag(W))
    W_in = gain * jr.normal(k_in, (num_neurons, num_inputs), dtype)
    W_in = W_in / max(num_inputs, 1) ** 0.5
    return RateRNN.from_arrays(W, W_in, tau=dt / alpha)


def record(
    model: RateRNN | CurrentRNN,
    num_steps: int,
    *,
    dt: Any,
    inputs: Float[Array, "time input"] | None = None,
    r0: Float[Array, " neurons"] | None = None,
    input_noise: AbstractNoise | None = None,
    conversion_noise: AbstractNoise | None = None,
    key: KeyLike,
) -> Float[Array, "frames neurons"]:
    r"""Rates of one trial of the Euler map of a network, with two kinds of noise.

    With `alpha = dt/tau`, in the rate form

        r_{t+1} = (1 - alpha) r_t + alpha tanh(W r_t + W_in u_t + e_in) + alpha e_conv

    and in the current form

        x_{t+1} = (1 - alpha) x_t + alpha (W r_t + W_in u_t + e_in)
        r_{t+1} = tanh(x_{t+1}) + e_conv

    of which only `tanh(x)` goes on. Rates are not clipped: conversion noise can carry
    them beyond (-1, 1). Pure; `vmap` it over keys for trials and over models for
    networks.

    ```python
    net = random_network(200, key=jax.random.key(0))
    noise = GaussianNoise(1e-2)
    rates = record(net, 3000, dt=1.0, input_noise=noise, key=jax.random.key(1))
    assert rates.shape == (3001, 200)
    ```

    **Arguments:**

    - `model`: the network.
    - `num_steps`: number of steps `T`; there are `T + 1` frames.
    - `dt`: one frame, in seconds.
    - `inputs`: shape `(time, input)`, one row a step: row `t` acts between frames `t`
      and `t + 1`. None is no input.
    - `r0`: the first frame; `U(-1, 1)` in the rate form and `U(-1/2, 1/2)` in the
      current form by default.
    - `input_noise`, `conversion_noise`: before and after the nonlinearity; None is no
      noise.
    - `key`: PRNG key.

    **Returns:** rates, shape `(num_steps + 1, neurons)`.

    **Raises:** a `ValueError` if `inputs` has another length than `num_steps`, if `r0`
    has another shape than `(neurons,)`, or if `dt/tau` lies outside (0, 1].

    **Reference:** Dinc et al. 2023, arXiv:2311.10200.
    """
    check_step_ratio(dt, model.tau)
    check_count("num_steps", num_steps, 0)
    check_key(key)
    if inputs is not None:
        inputs = as_float(inputs, "inputs")
        remedy = "A row a step, that is one fewer than frames."
        check_shape("inputs", inputs, (num_steps, model.input_size), remedy)
    if r0 is not None:
        remedy = "Pass one rate a neuron; `vmap` over trials."
        check_shape("r0", r0, (model.state_size,), remedy)
    dt = jnp.asarray(dt, model.x0.dtype)
    noises = (input_noise, conversion_noise)
    for noise in noises:
        if not (noise is None or isinstance(noise, AbstractNoise)):
            raise ValueError(
                f"noise = {noise!r}, expected a law: pass GaussianNoise(0.1)."
            )
    return _record(model, num_steps, dt, inputs, r0, noises, key)


@eqx.filter_jit
def _record(model, num_steps, dt, inputs, r0, noises, key):
    input_noise, conversion_noise = noises
    dtype, n = model.x0.dtype, model.state_size
    k_start, k_in, k_conv = jr.split(key, 3)
    alpha = dt / model.tau
    current = isinstance(model, CurrentRNN)
    if r0 is None:
        bound = 0.5 if current else 1.0
        r0 = jr.uniform(k_start, (n,), dtype, minval=-bound, maxval=bound)
    r0 = jnp.asarray(r0, dtype)

    currents = jnp.broadcast_to(model.drive(None), (num_steps, n))
    if inputs is not None:
        currents = jax.vmap(model.drive)(inputs.astype(dtype))
    if input_noise is not None:
        currents = currents + input_noise(num_steps, n, dtype, key=k_in)
    after = jnp.zeros((num_steps, 1), dtype)
    if conversion_noise is not None:
        after = conversion_noise(num_steps, n, dtype, key=k_conv)
        after = after if current else jnp.atleast_1d(alpha)[None, :] * after

    def step(x, at_step):
        given, extra = at_step
        x = x + dt * model.velocity(x, model.recurrent(x) + given)
        if current:
            return x, jnp.tanh(x) + extra
        x = x + extra
        return x, x

    x0 = jnp.arctanh(r0) if current else r0
    _, rates = jax.lax.scan(step, x0, (currents, after))
    return jnp.concatenate([r0[None], rates])


def restrict(model: RateRNN | CurrentRNN, units: Any) -> Any:
    """The sub-network of some units: what a fit of their rates alone can hope to find.

    **Arguments:**

    - `model`: the network; its biases and read-outs are restricted too.
    - `units`: indices, a mask, or a slice.

    **Returns:** a network of the same class. Not guaranteed: that it does what the
    whole one does; the current from the other units is missing.
    """
    if is_concrete(units):
        # NumPy refuses indices out of range, which JAX would clamp.
        chosen = units if isinstance(units, slice) else np.asarray(units)
        units = np.atleast_1d(np.arange(model.state_size)[chosen])
    tau = model.tau[units] if model.tau.ndim else model.tau
    return type(model).from_arrays(
        model.W[units[:, None], units[None, :]],
        model.W_in[units],
        model.b[units],
        None if model.b_in is None else model.b_in[units],
        model.W_out[:, units],
        model.b_out,
        tau=tau,
        activation=model.activation,
        readout=model.readout_activation,
        noise=model.noise,
        x0=model.x0[units],
    )


def jittered_alpha(
    alpha: Any, spread: Any, num_neurons: int, *, floor: Any = 1e-3, key: KeyLike
) -> Num[Array, " neurons"]:
    """Wrong time-scales for a fit: `max(floor, alpha + N(0, spread^2))`, one a neuron,
    and at most 1.

    **Arguments:**

    - `alpha`: the true `dt/tau`.
    - `spread`: standard deviation of the error.
    - `num_neurons`: how many.
    - `floor`: smallest value.
    - `key`: PRNG key.
    """
    check_count("num_neurons", num_neurons)
    check_in("spread", spread, "[0, inf)", "Pass a standard deviation.")
    dtype = jnp.result_type(float)
    draws = jr.normal(check_key(key), (num_neurons,), dtype)
    alpha = jnp.asarray(alpha, dtype) + jnp.asarray(spread, dtype) * draws
    return jnp.clip(alpha, jnp.asarray(floor, dtype), jnp.ones((), dtype))
