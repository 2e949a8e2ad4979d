"""What the toy models share: one switch, one loss, one learning rate too many."""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._core._checks import check_positive


class System(NamedTuple):
    """A toy model as a vector field: `field(t, x, r)`, the state it starts in, and
    `drive(x)`, which is positive where the output is on."""

    field: Callable[[Any, Any, Any], Any]
    start: Any
    drive: Callable[[Any], Any]


class AbstractToy(eqx.Module):
    r"""A one-parameter model of short-term memory, trained by gradient descent.

    A cue at `t = 0` starts the model. Its output `o(t)`, 0 or 1, must be 0 during a
    delay `T_d` and 1 during the response `T_r` that follows. The parameter `r` sets
    how soon the output switches on. The loss weighs both periods equally:

        L(r) = (1/T_d) int_0^T_d o dt + (1/T_r) int_T_d^(T_d+T_r) (1 - o) dt

    **Loss.** The models differ in the time of the switch, `t*(r) = c r^-p`, and in
    whether the output stays on (a passage) or switches again at `2t*, 3t*, ...` (a
    cycle). If it stays on up to the end of the trial,

        L = 1                   t* >= T_d + T_r, that is r <= r_c
        L = (t* - T_d)/T_r      T_d < t* < T_d + T_r
        L = (T_d - t*)/T_d      t* <= T_d, that is r >= r*

    with `r* = (c/T_d)^(1/p)` and `r_c = (c/(T_d + T_r))^(1/p)`. Below `r_c` the output
    never switches in time and the gradient is zero: a dead zone from which descent
    does not return. The minimum at `r*` is a kink, at which the slope jumps from the
    scale of `1/T_r` to that of `1/T_d`, so descent at a fixed rate hops around it.

    **Critical learning rate.** Since `dt*/dr = -p t*/r`, the slope just right of the
    minimum is `L'(r*+) = s p/r*`, with `s = 1` if the output stays on. A step taken
    there lands in the dead zone if it is longer than `r* - r_c`; hence

        lr_c = (r* - r_c)/L'(r*+) = (r*^2/p) [1 - (1 + T_r/T_d)^(-1/p)]/s

    For smaller rates descent hovers in a band around `r*`, for larger ones it is
    trapped sooner or later, if `T_r <= T_d`: the threshold is one of stability, not of
    existence of the optimum. (With a longer response there are starts that never meet
    the place from which descent is lost.) With `T_r << T_d` it tends to
    `(c^(2/p)/p^2) T_r T_d^-(1+2/p)`.

    Rates and times are arrays or numbers that broadcast against each other; times in
    any unit, `r` in its powers. Everything works under `jit`, `vmap` and `grad` and in
    the caller's dtype; differences of nearly equal terms are taken analytically.

    To make a model, give `passage` (the pair `(c, p)`), `switches`, `reversible` and
    `system`; the rest works.

    **Reference:** Kurtkaya, Dinc et al. 2025, Dynamical phases of short-term memory
    mechanisms in RNNs, arXiv:2502.17433. The derivation given here is a
    reconstruction that reproduces the published curves.
    """

    reversible: eqx.AbstractClassVar[bool]
    """Whether `r < 0` runs the model backwards, with loss `2 - L(-r)`."""

    @property
    @abc.abstractmethod
    def passage(self) -> tuple[float, float]:
        """`(c, p)` of the law `t* = c r^-p`."""

    @property
    @abc.abstractmethod
    def switches(self) -> tuple[float, float]:
        """How many switches at `t*, 2t*, ...` count before the end of the delay, and
        before the end of the trial: `(1, 1)` for a passage, `(inf, inf)` for a
        cycle."""

    @abc.abstractmethod
    def system(self, x_max: float | None = None) -> System:
        """The model as a vector field. Where its state escapes to infinity the output
        counts as on beyond `x_max`; by default where 1e-4 units of time are left."""

    def switch_time(self, r: Any) -> Float[Array, "..."]:
        """When the output first switches on, `t* = c r^-p`; infinite for `r <= 0`,
        where no switch from 0 to 1 starts from the cue."""
        (r,) = _floats(r)
        return jnp.where(r <= 0, jnp.inf, self._time(jnp.where(r <= 0, 1, r)))

    def optimum(self, T_d: Any) -> Float[Array, "..."]:
        """`r*`, at which the output switches on exactly when the delay ends. It is the
        global minimum, with loss zero, if the output stays on for the response: always
        for a passage, for `T_r <= T_d` for a cycle."""
        (T_d,) = _times(T_d=T_d)
        return self._rate(1.0, T_d)

    def dead_zone(self, T_d: Any, T_r: Any) -> Float[Array, "..."]:
        """`r_c`, at and below which the loss is 1 and its gradient zero."""
        T_d, T_r = _times(T_d=T_d, T_r=T_r)
        return self._rate(1.0, T_d + T_r)

    def loss(self, r: Any, T_d: Any, T_r: Any) -> Float[Array, "..."]:
        """`L(r)`, exact for every `r`, also after any number of switches."""
        _times(T_d=T_d, T_r=T_r)
        r, T_d, T_r = _floats(r, T_d, T_r)
        size, delay, trial = self._switches(r, T_d, T_r)
        t = self._time(size)
        early = delay.on + delay.slope * t / T_d
        # On for on * T + slope * t* until T; T_d + T_r is never subtracted from T_d.
        late = (1 - trial.on) * T_r - (trial.on - delay.on) * T_d
        late = (late - (trial.slope - delay.slope) * t) / T_r
        value = early + late
        return jnp.where(r < 0, 2 - value, value) if self.reversible else value

    def gradient(self, r: Any, T_d: Any, T_r: Any) -> Float[Array, "..."]:
        """`L'(r)`; at the kinks from where |r| is larger, zero in the dead zone.

        As a closed form rather than by `jax.grad(loss)`, with which it agrees
        everywhere else."""
        _times(T_d=T_d, T_r=T_r)
        r, T_d, T_r = _floats(r, T_d, T_r)
        size, delay, trial = self._switches(r, T_d, T_r)
        _, p = self.passage
        slope = delay.slope / T_d - (trial.slope - delay.slope) / T_r
        # A cycle that turns backwards has loss 2 - L(-r): the same slope.
        return -p * self._time(size) / size * slope

    def steepness(self, T_d: Any, T_r: Any) -> Float[Array, "..."]:
        """`s` in `L'(r*+) = s p/r*`: 1, unless the output of a cycle has switched off
        again by the end of a trial with `T_r >= T_d` (then 3 at `T_r = T_d`)."""
        T_d, T_r = _times(T_d=T_d, T_r=T_r)
        ratio = T_r / T_d
        # Equal periods must count as equal whatever the rounding of the ratio.
        last = jnp.floor((1 + ratio) * (1 + 8 * jnp.finfo(ratio.dtype).eps))
        last = jnp.minimum(last, self.switches[1])
        # sum of (-1)^m m over the switches m = 2 .. last in the response
        total = jnp.where(last % 2 == 0, (last + 2) / 2, -(last - 1) / 2)
        return 1 + total / ratio

    def critical_learning_rate(self, T_d: Any, T_r: Any) -> Float[Array, "..."]:
        r"""The learning rate beyond which descent ends in the dead zone,
        `lr_c = (r*^2/p) [1 - (1 + T_r/T_d)^(-1/p)]/s` (derived in the class).

        - Slow point: `pi^4/(8 T_d^2) [1/T_d^2 - 1/(T_d + T_r)^2]`, which tends to
          `(pi^4/4) T_r T_d^-5` for `T_r << T_d`; `(3 pi^4/32) T_d^-4` for `T_r = T_d`.
        - Limit cycle: `T_r/(4 T_d^2 (T_d + T_r))` for `T_r < T_d`, which tends to
          `(1/4) T_r T_d^-3`; `(1/24) T_d^-2` for `T_r = T_d`.

        ```python
        T_d = jnp.array([20.0, 60.0, 200.0])
        lr = rnndyn.theory.slow_point.critical_learning_rate(T_d, 5.0)
        lr_cycle = rnndyn.theory.limit_cycle.critical_learning_rate(T_d, 5.0)
        assert (lr_cycle > lr).all()
        ```

        **Arguments:** `T_d`, `T_r`: delay and response, any shapes that broadcast.

        **Returns:** rates of the broadcast shape. Not guaranteed: that descent survives
        every smaller rate, nor that every start is lost beyond. For a cycle with `T_r`
        near `T_d` see `LimitCycle.bounce_learning_rate`.

        **Raises:** a `ValueError` unless both times are positive and finite.
        """
        T_d, T_r = _times(T_d=T_d, T_r=T_r)
        _, p = self.passage
        gap = -jnp.expm1(-jnp.log1p(T_r / T_d) / p)
        return self._rate(1.0, T_d) ** 2 * gap / (p * self.steepness(T_d, T_r))

    def _time(self, r):
        c, p = self.passage
        return c * r**-p

    def _rate(self, count, time):
        """The `r` at which switch number `count` comes at `time`."""
        c, p = self.passage
        return (count * c / time) ** (1 / p)

    def _switches(self, r, T_d, T_r):
        """`|r|` made safe, and what has happened by the ends of delay and trial."""
        size = jnp.abs(r) if self.reversible else r
        some = size > 0
        size = jnp.where(size <= 0, 1, size)  # NaN stays, and so does the loss
        by_delay, by_trial = self.switches
        delay = self._state(size, some, T_d, by_delay)
        return size, delay, self._state(size, some, T_d + T_r, by_trial)

    def _state(self, size, some, time, most):
        """Whether the output is on at `time`, and how the time it has been on so far
        depends on `t*`: with `n` switches, `(n/2) t*` if it is off and
        `time - ((n + 1)/2) t*` if on."""
        # Compared as rates, so that r = optimum(T_d) counts one switch exactly.
        if most == 1:
            count = (size >= self._rate(1.0, time)).astype(size.dtype)
        else:
            count = jnp.floor(time / self._time(size))
            count = count + (size >= self._rate(count + 1, time))
            count = count - (size < self._rate(count, time))
            count = jnp.minimum(count, most)
        count = jnp.where(some, count, 0)
        on = count % 2
        return _State(on, jnp.where(on > 0, -(count + 1) / 2, count / 2))


class _State(NamedTuple):
    on: Any
    slope: Any


def _floats(*xs: Any) -> list[Any]:
    """Arrays of one shape and one float dtype; bare numbers take that of the rest."""
    xs = tuple(jnp.asarray(x) if isinstance(x, list | tuple) else x for x in xs)
    dtype = jnp.result_type(*xs, float)
    return list(jnp.broadcast_arrays(*(jnp.asarray(x, dtype) for x in xs)))


def _times(**times: Any) -> list[Any]:
    for name, value in times.items():
        check_positive(name, value)
    return _floats(*times.values())
