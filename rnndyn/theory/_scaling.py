"""How critical learning rates scale with the delay, for any response."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._core._checks import check_positive, is_concrete, is_in
from ._toy import AbstractToy, _floats


class Response(eqx.Module):
    """A response period that grows with the delay, `T_r = scale T_d^power`.

    `Response(5.0)` is one of fixed length, `Response(1.0, 1.0)` one as long as the
    delay. Any other callable `T_d -> T_r` can take its place, except in
    `scaling_law`.
    """

    scale: float | int = eqx.field(static=True)
    power: float | int = eqx.field(static=True, default=0.0)

    def __check_init__(self):
        numbers = is_in(self.scale, "(0, inf)") and is_in(self.power, "(-inf, inf)")
        if not numbers:
            raise ValueError(
                f"scale = {self.scale} and power = {self.power}, expected a positive "
                "and a finite number. Make one `Response` for each of several."
            )

    def __call__(self, T_d: Any) -> Any:
        return self.scale * T_d**self.power


class ScalingLaw(eqx.Module):
    """`lr_c -> prefactor T_d^-exponent` for long delays.

    **Attributes:** `exponent`, positive; `prefactor`, NaN where there is none.
    """

    exponent: float = eqx.field(static=True)
    prefactor: float = eqx.field(static=True)


def scaling_law(toy: AbstractToy, response: Response) -> ScalingLaw:
    r"""The power law that the critical learning rate tends to for long delays.

    With `t* = c r^-p`, `rho = T_r/T_d` and `s` of `AbstractToy.steepness`,

        lr_c = (c^(2/p)/p) T_d^(-2/p) [1 - (1 + rho)^(-1/p)]/s(rho)

    and `T_r = a T_d^g` leaves three cases:

    - `g < 1`: `rho -> 0`, the bracket tends to `rho/p`, so the exponent is
      `2/p + 1 - g` and the prefactor `a c^(2/p)/p^2`;
    - `g = 1`: `rho = a`, exponent `2/p`;
    - `g > 1`: the bracket tends to 1, exponent `2/p`. The prefactor of a cycle does
      not converge (`s` alternates between 1/2 and 3/2): NaN.

    Slow points (`p = 1/2`) thus lie in [4, 5] and limit cycles (`p = 1`) in [2, 3] for
    `0 <= g`, at any delay a factor `T_d^2/pi^4` apart for short responses.

    ```python
    theory = rnndyn.theory
    law = theory.scaling_law(theory.slow_point, theory.Response(5.0))
    assert law.exponent == 5.0
    ```

    **Arguments:** `toy`: `slow_point`, `limit_cycle` or any `AbstractToy`; `response`:
    a `Response`.

    **Returns:** a `ScalingLaw`. The law of an un-normalised loss, without the `1/T_d`,
    has an exponent larger by one.
    """
    if not isinstance(response, Response):
        raise ValueError(
            f"response is a {type(response).__name__}, expected a power of the delay, "
            "Response(scale, power). For any other see `local_exponent`."
        )
    c, p = toy.passage
    unit = c ** (2 / p) / p
    a, g = response.scale, response.power
    if g < 1:
        return ScalingLaw(2 / p + 1 - g, a * unit / p)
    if g > 1:
        return ScalingLaw(2 / p, unit if math.isfinite(toy.switches[1]) else math.nan)
    bracket = -math.expm1(-math.log1p(a) / p)
    return ScalingLaw(2 / p, unit * bracket / float(toy.steepness(1.0, a)))


def local_exponent(
    toy: AbstractToy, T_d: Any, response: Callable[[Any], Any]
) -> Float[Array, "..."]:
    """The slope `-d ln lr_c/d ln T_d` at every delay, exactly.

    ```python
    theory = rnndyn.theory
    b = theory.local_exponent(theory.limit_cycle, 100.0, lambda T_d: 5.0 + 0.1 * T_d)
    assert 2 < b < 3
    ```

    **Arguments:** `toy`; `T_d`: delays, any shape; `response`: any differentiable
    callable `T_d -> T_r`, such as a `Response` or `lambda T_d: 5.0`.

    **Returns:** exponents of the shape of `T_d`. Infinitely many kinks of a cycle with
    `T_r >= T_d` are left out: the slope is that between them.
    """
    check_positive("T_d", T_d)
    _check_response(response)
    (T_d,) = _floats(T_d)
    # Looked at here: inside `grad` nothing can be said of values.
    check_positive("T_r", jax.vmap(response)(T_d.ravel()))

    def log_rate(log_delay):
        delay = jnp.exp(log_delay)
        return jnp.log(toy.critical_learning_rate(delay, response(delay)))

    flat = jax.vmap(jax.grad(log_rate))(jnp.log(T_d).ravel())
    return -flat.reshape(T_d.shape)


def mean_exponent(delays: Any, rates: Any) -> Float[Array, ""]:
    """The exponent `b` of `rates ~ delays^-b` by least squares of `ln rates` on
    `ln delays`.

    ```python
    T_d = jnp.array([20.0, 40.0, 80.0, 160.0, 320.0])
    lr = rnndyn.theory.slow_point.critical_learning_rate(T_d, T_d)
    assert abs(rnndyn.theory.mean_exponent(T_d, lr) - 4) < 1e-9
    ```

    **Arguments:** `delays`, `rates`: positive, shape `(delays,)`. Intervals and
    measured boundaries are the business of `fit_boundary`.

    **Raises:** a `ValueError` unless there are at least two of both, all positive.
    """
    for name, value in (("delays", delays), ("rates", rates)):
        check_positive(name, value)
        if np.ndim(value) != 1 or np.shape(value)[0] < 2:
            raise ValueError(
                f"{name} has shape {np.shape(value)}, expected (delays,), at least 2."
            )
    if np.shape(delays) != np.shape(rates):
        raise ValueError(
            f"{np.shape(delays)[0]} delays and {np.shape(rates)[0]} rates, expected "
            "one rate a delay."
        )
    if is_concrete(delays) and np.ptp(np.asarray(delays)) == 0:
        raise ValueError(
            f"delays = {delays} are all the same, expected different ones."
        )
    x, y = (jnp.log(v) for v in _floats(delays, rates))
    x = x - jnp.mean(x)
    return -jnp.sum(x * y) / jnp.sum(x * x)


def crossover(
    upper: AbstractToy,
    lower: AbstractToy,
    response: Callable[[Any], Any],
    *,
    between: tuple[Any, Any] = (1e-2, 1e6),
) -> Float[Array, ""]:
    """The delay from which on `upper` has the larger critical learning rate.

    Beyond it there are learning rates at which only `upper` can be learned: with
    `upper = limit_cycle` and `lower = slow_point` the second phase of the diagram.
    By bisection on a log scale, down to rounding.

    ```python
    theory = rnndyn.theory
    T_d = theory.crossover(theory.limit_cycle, theory.slow_point, lambda T_d: 5.0)
    assert 8 < T_d < 10
    ```

    **Arguments:** `upper`, `lower`: toy models; `response`: callable `T_d -> T_r`;
    `between`: delays searched.

    **Returns:** the delay, NaN if the order at the two ends is not as said. With more
    than one crossing, one of them.
    """
    _check_response(response)
    low, high = jnp.log(jnp.asarray(between, jnp.result_type(float)))

    def excess(log_delay):
        delay = jnp.exp(log_delay)
        rate = lambda toy: toy.critical_learning_rate(delay, response(delay))
        return jnp.log(rate(upper) / rate(lower))

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        above = excess(middle) > 0
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    valid = (excess(low) < 0) & (excess(high) > 0)
    low, high = jax.lax.fori_loop(0, 80, halve, (low, high))
    return jnp.where(valid, jnp.exp((low + high) / 2), jnp.nan)


def _check_response(response):
    if not callable(response):
        raise ValueError(
            f"response = {response!r}, expected a callable T_d -> T_r such as "
            "Response(5.0)."
        )
    try:
        jax.eval_shape(
            lambda T: response(T), jax.ShapeDtypeStruct((), jnp.result_type(float))
        )
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError):
        raise ValueError(
            "response needs the values of its delays, expected a function of JAX, "
            "which is differentiated. Write it with jax.numpy for numpy, and "
            "jnp.where for conditions."
        ) from None
