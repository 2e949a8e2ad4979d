"""Search strategies that learn from where earlier starts ended."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._core._checks import check_count
from .._states import check_number
from ._starts import AbstractStrategy, MultiStart, Seen


class Deflation(AbstractStrategy):
    """Rounds of starts that the roots found so far repel.

    A start runs on m(x) f(x) with the scalar

        m(x) = 1 + sum_i (radius^2 / mean_j (x_j - r_ij)^2)^power,

    summed over the roots r_i found in earlier rounds. It is 1 far from all of them,
    where many roots must not change the problem (the product of the original method
    grows as a power of their number), and diverges at each, so that the deflated
    residual has no zero there. Derivatives of m f are those of f plus a term of
    rank one. Near a new root the start changes to f itself, and the ordinary test
    judges it; where the deflated speed has a minimum that is no root, it is `lost`.

    It pays where starts are few or fall into the same roots; with hundreds of starts
    `MultiStart` finds roots of networks sooner. Combine them in a tuple:

    ```python
    alone = Deflation(rounds=12, per_round=1)
    pts = fixed_points(lambda t, x, a: x - x**3, jnp.array([[2.0]]), strategy=alone)
    pts.roots()  # -1, 0, 1 from one start
    both = (MultiStart(), Deflation())
    pts = fixed_points(f, x0s, strategy=both)
    ```

    **Arguments:**

    - `rounds`: number of rounds; each knows the roots of those before.
    - `per_round`: starts of a round; default max(8, a 64th of the given starts).
    - `power`: half the order of the pole: 1 repels as 1/distance^2, which leaves a
        pole at simple roots and a constant at double ones.
    - `radius`: distance, per coordinate, at which a root begins to repel.
    - `noise`: standard deviation of what is added to the starts, which are the given
        ones in the first round and these or roots, at random, later.

    At most 128 roots repel. A deflated search never proves that it found all roots.

    **Reference:** P. Farrell, A. Birkisson & S. Funke 2015, doi:10.1137/140984798.
    """

    power: Float[Array, ""]
    radius: Float[Array, ""]
    noise: Float[Array, ""]
    rounds: int = eqx.field(static=True)
    per_round: int | None = eqx.field(static=True)

    def __init__(
        self,
        *,
        rounds: int = 8,
        per_round: int | None = None,
        power: Any = 1.0,
        radius: Any = 1.0,
        noise: Any = 0.05,
    ):
        remedy = "Leave it out for the default."
        check_number("power", power, remedy)
        check_number("radius", radius, remedy)
        check_number("noise", noise, remedy, zero=True)
        self.power, self.radius = jnp.asarray(power), jnp.asarray(radius)
        self.noise = jnp.asarray(noise)
        self.rounds, self.per_round = _counts(rounds, per_round)

    def sizes(self, given: int) -> tuple[int, int, int]:
        default = max(8, given // 64)
        return 0, self.rounds, default if self.per_round is None else self.per_round

    def first(self, given, n, key):
        return given[:0]

    def propose(self, seen, n, key):
        dtype = seen.given.dtype
        k_from, k_row, k_noise = jax.random.split(key, 3)
        rows = jax.random.uniform(k_row, (2, n), dtype)
        near = _pick(seen.roots, seen.num_roots, rows[0])
        given = _pick(seen.given, jnp.asarray(seen.given.shape[0]), rows[1])
        from_root = jax.random.bernoulli(k_from, 0.5, (n,)) & (seen.num_roots > 0)
        noise = self.noise.astype(dtype) * jax.random.normal(
            k_noise, given.shape, dtype
        )
        return jnp.where(from_root[:, None], near, given) + noise

    def log_weight(self, seen: Seen) -> Callable:
        dtype = seen.roots.dtype
        real = jnp.arange(seen.roots.shape[0]) < seen.num_roots
        # Squares expanded, so that one product serves all roots; what cancels there is
        # far below the floor that keeps m finite on a root itself.
        floor = 64 * float(jnp.finfo(dtype).eps)
        squares = jnp.mean(seen.roots**2, axis=1)
        power, radius = self.power.astype(dtype), self.radius.astype(dtype)

        def log_weight(x):
            size = squares + jnp.mean(x**2)
            apart = size - 2 / x.size * (seen.roots @ x)
            apart = jnp.maximum(apart, floor * jnp.maximum(1, size))
            terms = -power * jnp.log(apart / radius**2)
            return jax.nn.logsumexp(
                jnp.concatenate([jnp.zeros(1, dtype), jnp.where(real, terms, -jnp.inf)])
            )

        return log_weight


class NoisyRestarts(AbstractStrategy):
    """Rounds of starts around the points where earlier starts ended.

    Half of a round starts around roots, half around slow points and around the ends
    of starts that found nothing: each at a normal distance of one of `scales`, drawn
    at random, times max(1, rms of the point). Where nothing of a kind is known, the
    given starts stand in for it.

    ```python
    strategy = (MultiStart(), NoisyRestarts(scales=(0.1, 1.0)))
    pts = fixed_points(f, x0s, strategy=strategy, key=jax.random.key(0))
    ```

    **Arguments:**

    - `scales`: standard deviations of the noise, shape `(scales,)`.
    - `rounds`: number of rounds.
    - `per_round`: starts of a round; default max(64, an eighth of the given starts).

    That the set of roots is complete is NOT guaranteed.
    """

    scales: Float[Array, " scales"]
    rounds: int = eqx.field(static=True)
    per_round: int | None = eqx.field(static=True)

    def __init__(
        self,
        *,
        scales: Any = (0.1, 0.3, 1.0),
        rounds: int = 3,
        per_round: int | None = None,
    ):
        self.scales = jnp.asarray(scales, jnp.result_type(float))
        if self.scales.ndim != 1 or self.scales.size == 0:
            raise ValueError(
                f"`scales` has shape {self.scales.shape}, expected (scales,): at least "
                "one standard deviation, e.g. scales=(0.1, 1.0)."
            )
        self.rounds, self.per_round = _counts(rounds, per_round)

    def sizes(self, given: int) -> tuple[int, int, int]:
        default = max(64, given // 8)
        return 0, self.rounds, default if self.per_round is None else self.per_round

    def first(self, given, n, key):
        return given[:0]

    def propose(self, seen, n, key):
        dtype = seen.given.dtype
        k_row, k_scale, k_noise = jax.random.split(key, 3)
        rows = jax.random.uniform(k_row, (3, n), dtype)
        given = _pick(seen.given, jnp.asarray(seen.given.shape[0]), rows[2])
        kinds = []
        for points, count, row in [
            (seen.roots, seen.num_roots, rows[0]),
            (seen.ends, seen.num_ends, rows[1]),
        ]:
            kinds.append(jnp.where(count > 0, _pick(points, count, row), given))
        even = (jnp.arange(n) % 2 == 0)[:, None]
        centre = jnp.where(even, *kinds)
        size = jnp.sqrt(jnp.mean(centre**2, axis=1))
        scale = jax.random.choice(k_scale, self.scales.astype(dtype), (n,))
        spread = scale * jnp.maximum(1, size)
        return centre + spread[:, None] * jax.random.normal(
            k_noise, centre.shape, dtype
        )

    def log_weight(self, seen):
        return None


def as_strategies(strategy: Any) -> tuple[AbstractStrategy, ...]:
    """One strategy, several, or `None` for the default, as a tuple."""
    if strategy is None:
        return (MultiStart(),)
    several = tuple(strategy) if isinstance(strategy, (tuple, list)) else (strategy,)
    for one in several:
        if not isinstance(one, AbstractStrategy):
            raise ValueError(
                f"`strategy` holds a {type(one).__name__}, expected MultiStart, "
                "Deflation, NoisyRestarts or a tuple of such objects."
            )
    return several


def _pick(points: Array, count: Array, unit: Array) -> Array:
    """Rows of the first `count`, chosen by numbers between 0 and 1."""
    return points[(unit * jnp.maximum(count, 1)).astype(jnp.int32)]


def _counts(rounds: int, per_round: int | None) -> tuple[int, int | None]:
    check_count("rounds", rounds, least=0)
    if per_round is not None:
        check_count("per_round", per_round)
    return rounds, per_round
