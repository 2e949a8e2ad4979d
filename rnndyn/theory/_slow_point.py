"""Memory as a slow passage: the ghost of a saddle-node."""

import math
import numbers
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp

from ._toy import AbstractToy, System


class SlowPoint(AbstractToy):
    r"""The normal form of a saddle-node just after its fixed points have gone.

        x' = x^n + r,  x(0) = 0,  the output is on once x has escaped to infinity

    For `r > 0` there is no fixed point, only a bottleneck at `x = 0`; for `r <= 0` the
    state is caught at a fixed point and the output never switches. With `n = 2` the
    solution is `x = sqrt(r) tan(sqrt(r) t)`, hence

        t* = pi/(2 sqrt(r)),   r* = pi^2/(4 T_d^2),   r_c = pi^2/(4 (T_d + T_r)^2)
        L' = -pi/(4 T_r r^(3/2)) for r_c < r < r*,   +pi/(4 T_d r^(3/2)) for r > r*
        lr_c = pi^4/(8 T_d^2) [1/T_d^2 - 1/(T_d + T_r)^2]

    and for even `n` in general, by `int_0^inf dx/(x^n + r)`,

        t* = c r^-(1 - 1/n),   c = (pi/n)/sin(pi/n)

    The critical rate falls as `T_d^-5` for a fixed response and as `T_d^-4` for one in
    proportion to the delay: the flatter the bottleneck, the slower the fall, down to
    `T_d^-2` for `n -> inf`.

    ```python
    toy = rnndyn.theory.slow_point
    r = toy.optimum(60.0)
    assert abs(toy.switch_time(r) - 60.0) < 1e-9
    assert toy.loss(r, 60.0, 10.0) < 1e-12
    ```

    **Arguments:** `order`: the even exponent `n`; 2 is the generic case and the
    published one.

    **Raises:** a `ValueError` if `order` is not an even number above zero.

    **Reference:** Kurtkaya, Dinc et al. 2025, arXiv:2502.17433; Strogatz & Westervelt
    1989, doi:10.1103/PhysRevB.40.10501, for the passage time.
    """

    order: int = eqx.field(static=True, default=2)
    reversible: ClassVar[bool] = False

    def __check_init__(self):
        n = self.order
        if not isinstance(n, numbers.Integral) or n < 2 or n % 2:
            raise ValueError(
                f"order = {n!r}, expected an even number of at least 2: with an "
                "odd one the passage is not a bottleneck but a fixed point."
            )

    @property
    def passage(self):
        n = self.order
        return math.pi / n / math.sin(math.pi / n), 1 - 1 / n

    @property
    def switches(self):
        return 1, 1

    def system(self, x_max=None):
        x_max = 1e4 ** (1 / (self.order - 1)) if x_max is None else x_max
        # -1/x and not x: it runs evenly in time while x explodes.
        return System(
            field=lambda t, x, r: x**self.order + r,
            start=jnp.zeros(()),
            drive=lambda x: 1 / x_max - 1 / jnp.maximum(x, 1e-2),
        )
