"""Memory as half a turn: an oscillation that passes the threshold on time."""

import math
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._toy import AbstractToy, System, _times


class LimitCycle(AbstractToy):
    r"""A stable circle on which the state turns at `r` turns a unit of time.

        rho' = rho (1 - rho^2),  theta' = 2 pi r,  (x, y) = rho (cos, sin)(theta)

    The cue puts the state at `(0, -1)`, on the cycle, so `x = sin(2 pi r t)`; the
    output is on where `x < 0`: from `1/(2r)` to `1/r`, and so on. Hence

        t* = 1/(2r),   r* = 1/(2 T_d),   r_c = 1/(2 (T_d + T_r))
        L = 1                                   |r| <= r_c
        L = 1/(2 T_r r) - T_d/T_r               r_c < r <= r*
        L = 1 - 1/(2 T_d r)                     r* < r <= 1/(T_d + T_r)
        L = 2 + T_d/T_r - 1/(2 T_d r) - 1/(T_r r)   up to 1/T_d, for T_r < T_d
        lr_c = T_r/(4 T_d^2 (T_d + T_r))        for T_r < T_d,  1/(24 T_d^2) for =

    At `T_r = T_d` the output switches off exactly at the end of the trial, and the
    slope right of the minimum trebles. For `r < 0` the state turns backwards and
    `L(r) = 2 - L(-r)`.

    ```python
    toy = rnndyn.theory.limit_cycle
    r = toy.optimum(60.0)
    assert abs(toy.switch_time(r) - 60.0) < 1e-9
    assert abs(toy.loss(1 / 70, 60.0, 10.0) - 5 / 12) < 1e-9
    ```

    **Arguments:** `first_turn`: whether the last piece above is continued beyond
    `1/T_d`: a curve for theory, without the switches of later turns and no loss of any
    run there (it goes beyond 2). The exact loss has further valleys
    there, near `3/(2 T_d)` and so on, in which the first turns are wasted (loss 1/3
    and more). Descent is thrown into them at a little less than the critical rate.

    **Reference:** Kurtkaya, Dinc et al. 2025, arXiv:2502.17433.
    """

    first_turn: bool = eqx.field(static=True, default=False)
    reversible: ClassVar[bool] = True

    @property
    def passage(self):
        return 0.5, 1.0

    @property
    def switches(self):
        return (1, 2) if self.first_turn else (math.inf, math.inf)

    def system(self, x_max=None):
        def field(t, z, r):
            x, y = z[0], z[1]
            pull = 1 - x * x - y * y
            turn = 2 * jnp.pi * r
            return jnp.stack([x * pull - turn * y, y * pull + turn * x])

        return System(field, jnp.array([0.0, -1.0]), lambda z: -z[0])

    def bounce_learning_rate(self, T_d: Any, T_r: Any) -> Float[Array, "..."]:
        r"""The learning rate beyond which descent can end in the dead zone, excursions
        included.

        `critical_learning_rate` asks whether a step from just right of the minimum
        reaches the dead zone. A cycle has a second kink further right, where the
        output switches off before the trial ends: a step from there is longer. It
        counts if a step up from the steep side reaches it. With the minimum `r_0`, the
        kink `r_1`, and the slopes at them,

            lr = min( lr_0, max( (r_1 - r_c)/L'(r_1+), (r_1 - r_0)/|L'(r_0-)| ) )

        - `T_r <= T_d`: `r_0 = r*`, `r_1 = 1/(T_d + T_r)`, `lr_0` the critical rate. The
          second kink matters for `T_r > 0.315 T_d`; at `T_d = 10`, `T_r = 5` it
          takes the threshold to 0.711 of the critical rate.
        - `T_d < T_r < 2 T_d`: the two kinks change places. The least loss,
          `(T_r - T_d)/(2 T_r)`, is at `r_0 = 1/(T_d + T_r)`, with
          `lr_0 = T_r/(T_d + T_r)^3`.

        Both branches give `1/(24 T_d^2)` at `T_r = T_d`.

        ```python
        toy = rnndyn.theory.limit_cycle
        lr = toy.critical_learning_rate(10.0, 5.0)
        assert abs(toy.bounce_learning_rate(10.0, 5.0) / lr - 0.711) < 1e-3
        ```

        **Returns:** rates of the broadcast shape; NaN for `T_r >= 2 T_d`, where more
        kinks come into play. Below it no start near the minimum ends in the dead zone.
        But the exact loss has later valleys, into which descent is thrown from the
        steep side: at `T_d = 20`, `T_r = 5` every start beyond 0.970 of the critical
        rate. With `first_turn` none is lost. Above it not every start is: at
        `T_d = 10`, `T_r = 5` the first of 400 at 0.715 of the critical rate and the
        majority at 0.85; for `0.8 T_d < T_r < 1.6 T_d` descent may hop between two
        places for ever, up to twice the rate.
        """
        T_d, T_r = _times(T_d=T_d, T_r=T_r)
        trial, dead = T_d + T_r, self.dead_zone(T_d, T_r)
        on, off = 0.5 / T_d, 1 / trial
        short = T_r <= T_d
        first = jnp.where(short, on, off)
        second = jnp.where(short, off, on)
        # Right of both kinks the delay loses and the response loses twice.
        beyond = (1 / T_d + 2 / T_r) / (2 * second**2)
        up = 1 / (2 * T_r * first**2)
        fall = (second - dead) / beyond
        # |r* - 1/(T_d + T_r)| without the difference of nearly equal terms
        reach = jnp.abs(T_d - T_r) / (2 * T_d * trial) / up
        direct = jnp.where(short, T_r / (4 * T_d**2 * trial), T_r / trial**3)
        least = jnp.minimum(direct, jnp.maximum(fall, reach))
        return jnp.where(T_r < 2 * T_d, least, jnp.nan)
