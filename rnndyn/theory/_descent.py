"""Gradient descent on the toy loss: which learning rates survive."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from .._core._checks import check_count, check_positive, is_concrete
from ._toy import AbstractToy, _floats


class Descent(eqx.Module):
    """Where descent ended.

    **Attributes:**

    - `r`: the last parameter.
    - `trapped`: whether the gradient is zero there, as in the dead zone: it stays for
      ever.
    - `lost`: trapped, or beyond the second switch in the delay (a cycle on its way to
      the valley of a later turn) or below the dead zone.
    - `lowest`, `highest`: the range visited.
    """

    r: Float[Array, "..."]
    trapped: Bool[Array, "..."]
    lost: Bool[Array, "..."]
    lowest: Float[Array, "..."]
    highest: Float[Array, "..."]


def descend(
    toy: AbstractToy,
    r: Any,
    learning_rate: Any,
    T_d: Any,
    T_r: Any,
    *,
    steps: int = 20_000,
) -> Descent:
    """Gradient descent `r <- r - lr L'(r)` at a fixed learning rate, from many starts,
    at many rates and delays in one program.

    ```python
    toy, T_d, T_r = rnndyn.theory.slow_point, 60.0, 5.0
    lr = 1.1 * toy.critical_learning_rate(T_d, T_r)
    end = rnndyn.theory.descend(toy, 1.2 * toy.optimum(T_d), lr, T_d, T_r)
    assert end.trapped
    ```

    **Arguments:**

    - `toy`: `slow_point`, `limit_cycle` or any `AbstractToy`.
    - `r`: start, `learning_rate`, `T_d`, `T_r`: arrays that broadcast.
    - `steps`: of descent.

    **Returns:** a `Descent` of the broadcast shape. A start that is not trapped may yet
    be: near the critical rate that takes long.

    **Raises:** a `ValueError` unless the learning rate and times are positive, and
    `steps` a whole number.
    """
    check_count("steps", steps, least=0)
    check_positive("learning_rate", learning_rate)
    check_positive("T_d", T_d)
    check_positive("T_r", T_r)
    # As arrays, so that another number is no other program.
    r, rate, T_d, T_r = _floats(r, learning_rate, T_d, T_r)
    return _descend(toy, r, rate, T_d, T_r, steps)


@eqx.filter_jit
def _descend(toy, r, rate, T_d, T_r, steps):
    def step(_, carry):
        r, lowest, highest = carry
        r = r - rate * toy.gradient(r, T_d, T_r)
        return r, jnp.minimum(lowest, r), jnp.maximum(highest, r)

    r, lowest, highest = lax.fori_loop(0, steps, step, (r, r, r))
    trapped = toy.gradient(r, T_d, T_r) == 0
    lost = trapped | (r <= toy.dead_zone(T_d, T_r))
    if toy.switches[0] > 1:
        lost = lost | (r >= toy._rate(2.0, T_d))
    return Descent(r, trapped, lost, lowest, highest)


def lost_fraction(
    toy: AbstractToy,
    learning_rate: Any,
    T_d: Any,
    T_r: Any,
    *,
    starts: int = 400,
    spread: tuple[Any, Any] = (1.0, 1.5),
    steps: int = 20_000,
) -> Float[Array, "..."]:
    """The share of starts right of the minimum from which descent loses it.

    A passage is lost in the dead zone. A cycle may also be thrown into the valley of a
    later turn, unless the toy has `first_turn`: then only the dead zone is left.

    ```python
    toy, rates = rnndyn.theory.limit_cycle, jnp.array([0.9, 1.1])
    rates = rates * toy.critical_learning_rate(60.0, 5.0)
    share = rnndyn.theory.lost_fraction(toy, rates, 60.0, 5.0, starts=20)
    assert share[0] == 0 and share[1] == 1
    ```

    **Arguments:** as in `descend`, and

    - `starts`: how many, evenly spaced over `spread` times the optimum.
    - `steps`: of descent from each.

    **Returns:** shares in [0, 1], of the shape of the rates and times.

    **Raises:** a `ValueError` as `descend` does, and without starts.
    """
    check_count("starts", starts)
    rate, T_d, T_r = (x[..., None] for x in _floats(learning_rate, T_d, T_r))
    places = jnp.linspace(*spread, starts, dtype=rate.dtype)
    places = places.reshape((1,) * (rate.ndim - 1) + (starts,))
    start = places * toy.optimum(T_d)
    end = descend(toy, start, rate, T_d, T_r, steps=steps)
    return jnp.mean(end.lost.astype(rate.dtype), axis=-1)


class MeasuredRate(eqx.Module):
    """A critical learning rate found by trying.

    **Attributes:**

    - `rate`: geometric mean of the bracket.
    - `low`, `high`: the bracket: at `low` fewer than half of the starts were lost, at
      `high` at least half.
    - `found`: whether such a pair was seen; otherwise the other fields are NaN.
    """

    rate: Float[Array, "..."]
    low: Float[Array, "..."]
    high: Float[Array, "..."]
    found: Bool[Array, "..."]


def measure_critical_rate(
    toy: AbstractToy,
    T_d: Any,
    T_r: Any,
    *,
    bracket: tuple[Any, Any] = (1e-4, 10.0),
    rates: int = 24,
    rounds: int = 3,
    starts: int = 32,
    steps: int = 4000,
) -> MeasuredRate:
    """The critical learning rate by gradient descent alone, for many delays at once.

    Descent from `starts` points is run at `rates` learning rates, evenly spaced on a
    log scale; the search goes on between the last rate before half of the starts are
    lost and the next. Nothing of the closed form is used: by its dimension the rate
    is a number times the square of the optimum, and the bracket is in that unit.

    ```python
    toy, T_d = rnndyn.theory.slow_point, jnp.array([20.0, 80.0])
    seen = rnndyn.theory.measure_critical_rate(toy, T_d, 5.0)
    ratio = seen.rate / toy.critical_learning_rate(T_d, 5.0)
    assert (abs(ratio - 1) < 0.02).all()
    ```

    **Arguments:**

    - `toy`: `slow_point`, `limit_cycle` or any `AbstractToy`.
    - `T_d`, `T_r`: delays and responses that broadcast.
    - `bracket`: rates searched, over `optimum(T_d)**2`.
    - `rates`, `rounds`: after which the bracket has the width of the first one to the
        power `(rates - 1)^-rounds` on a log scale.
    - `starts`, `steps`: of descent, see `lost_fraction`. With few steps the rate
        comes out high, since descent just above it is lost late; with `T_r > T_d` it
        does with any number, since not every start is lost there.

    **Returns:** a `MeasuredRate` of the broadcast shape.

    **Raises:** a `ValueError` unless times and rates are positive, the bracket rises
    and there are two `rates`, a round, a start and a step.
    """
    for bound in bracket:
        check_positive("bracket", bound)
    if all(map(is_concrete, bracket)) and not np.all(bracket[0] < bracket[1]):
        raise ValueError(f"bracket = {bracket}, expected the lower rate first.")
    check_count("rates", rates, least=2)
    for name, value in (("rounds", rounds), ("starts", starts), ("steps", steps)):
        check_count(name, value)
    check_positive("T_d", T_d)
    check_positive("T_r", T_r)
    T_d, T_r = _floats(T_d, T_r)
    return _measure(toy, T_d, T_r, tuple(bracket), rates, rounds, starts, steps)


@eqx.filter_jit
def _measure(toy, T_d, T_r, bracket, rates, rounds, starts, steps):
    unit = 2 * jnp.log(toy.optimum(T_d))
    low, high = (unit + jnp.log(b) for b in bracket)
    shape = (rates,) + (1,) * T_d.ndim
    places = jnp.linspace(0, 1, rates, dtype=T_d.dtype).reshape(shape)

    def narrow(carry, _):
        low, high, found = carry
        trial = low[None] + places * (high - low)[None]
        share = lost_fraction(
            toy, jnp.exp(trial), T_d[None], T_r[None], starts=starts, steps=steps
        )
        caught = share >= 0.5
        first = jnp.argmax(caught, axis=0)
        pick = lambda i: jnp.take_along_axis(trial, i[None], axis=0)[0]
        found = found & (first > 0)
        low = jnp.where(found, pick(jnp.maximum(first - 1, 0)), low)
        high = jnp.where(found, pick(first), high)
        return (low, high, found), None

    carry = (low, high, jnp.ones(T_d.shape, bool))
    (low, high, found), _ = lax.scan(narrow, carry, length=rounds)
    value = lambda x: jnp.where(found, jnp.exp(x), jnp.nan)
    return MeasuredRate(value((low + high) / 2), value(low), value(high), found)
