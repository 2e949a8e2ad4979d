"""Where a search starts, and what it adds to the starts it was given."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..._core._checks import as_float, check_count, check_shape, is_concrete
from ..._core._system import Map
from ..._core._types import KeyLike
from ...flows import AbstractFlow
from .._states import check_number


class AbstractSampler(eqx.Module):
    """Draws starting states; implement this one method, the rest works."""

    @abc.abstractmethod
    def __call__(
        self, system: Any, args: Any, *, key: KeyLike
    ) -> Float[Array, "starts state"]:
        """Starting states, shape `(starts, state)`, `starts` known statically."""


class Box(AbstractSampler):
    """`n` states uniform between `low` and `high`, each of shape `(state,)`."""

    low: Float[Array, " state"]
    high: Float[Array, " state"]
    n: int = eqx.field(static=True)

    def __init__(self, low: Any, high: Any, n: int):
        self.low, self.high = as_float(low, "`low`"), as_float(high, "`high`")
        self.n = n
        check_count("n", n)
        _check_vector("low", self.low)
        check_shape("`high`", self.high, self.low.shape, "As `low`: one bound a unit.")
        known = is_concrete(self.low) and is_concrete(self.high)
        if known and not np.all(np.asarray(self.low) <= np.asarray(self.high)):
            raise ValueError(
                f"`low` = {self.low}, `high` = {self.high}, expected low <= high in "
                "every unit: exchange them."
            )

    def __call__(self, system, args, *, key):
        shape = (self.n, self.low.shape[0])
        unit = jax.random.uniform(key, shape, self.low.dtype)
        return self.low[None] + (self.high - self.low)[None] * unit


class Gaussian(AbstractSampler):
    """`n` normal states of mean 0 and standard deviations `scale`, shape `(state,)`."""

    scale: Float[Array, " state"]
    n: int = eqx.field(static=True)

    def __init__(self, scale: Any, n: int):
        self.scale = as_float(scale, "`scale`")
        self.n = n
        check_count("n", n)
        _check_vector("scale", self.scale)
        if is_concrete(self.scale) and not np.all(np.asarray(self.scale) >= 0):
            raise ValueError(
                f"`scale` = {self.scale}, expected standard deviations of at least 0."
            )

    def __call__(self, system, args, *, key):
        shape = (self.n, self.scale.shape[0])
        return self.scale[None] * jax.random.normal(key, shape, self.scale.dtype)


class NearStates(AbstractSampler):
    """`n` copies of rows of `states` `(rows, state)`, in turn, plus normal noise."""

    states: Float[Array, "rows state"]
    noise: Float[Array, ""]
    n: int = eqx.field(static=True)

    def __init__(self, states: Any, noise: Any, n: int):
        self.states = as_float(states, "`states`")
        self.noise = jnp.asarray(noise, self.states.dtype)
        self.n = n
        check_count("n", n)
        _check_rows("states", self.states, "rows")

    def __call__(self, system, args, *, key):
        rows = self.states[jnp.arange(self.n) % self.states.shape[0]]
        return rows + self.noise * jax.random.normal(key, rows.shape, rows.dtype)


class FromTrajectories(AbstractSampler):
    """`n` states on trajectories from `x0s`, at random times.

    Points where the network actually goes; fixed points far from any trajectory need
    other starts.

    **Arguments:**

    - `x0s`: where trajectories start, shape `(trajectories, state)`.
    - `n`: number of starts to draw.
    - `flow`: how to integrate a flow (`rnndyn.flows`); not used for maps.
    - `duration`: time span covered, in the time unit of the flow.
    - `num_times`: number of sampling times; for maps, the number of steps.
    """

    x0s: Float[Array, "trajectories state"]
    flow: AbstractFlow | None
    duration: float = eqx.field(static=True)
    n: int = eqx.field(static=True)
    num_times: int = eqx.field(static=True)

    def __init__(
        self,
        x0s: Any,
        n: int,
        *,
        flow: AbstractFlow | None = None,
        duration: Any = 1.0,
        num_times: int = 100,
    ):
        self.x0s = as_float(x0s, "`x0s`")
        self.flow, self.n, self.num_times = flow, n, num_times
        self.duration = float(duration)  # static, as some flows need it
        check_count("n", n)
        check_count("num_times", num_times)
        _check_rows("x0s", self.x0s, "trajectories")

    def __call__(self, system, args, *, key):
        if isinstance(system, Map):
            step = lambda x, _: (system.F(x, args),) * 2
            run = lambda x0: jax.lax.scan(step, x0, None, length=self.num_times)[1]
        elif not isinstance(self.flow, AbstractFlow):
            raise ValueError(
                f"FromTrajectories got flow={self.flow!r} for a continuous-time system."
                " Pass how to integrate it, e.g. flow=rnndyn.flows.ScanFlow(dt=...)."
            )
        else:
            flow = self.flow
            ts = np.linspace(0, self.duration, self.num_times)
            run = lambda x0: flow.trajectory(system, x0, ts, args).xs
        states = jax.vmap(run)(self.x0s).reshape(-1, self.x0s.shape[1])
        chosen = jax.random.randint(key, (self.n,), 0, states.shape[0])
        return states[chosen]


class AfterPulses(AbstractSampler):
    """`n` states along responses to input pulses: where a memory would be kept.

    From `x0`, one pulse of each row of `amplitudes` is shown for `duration`, then the
    flow runs on for `after`, without input; states are drawn at random times after
    the pulse. For flows `f(t, x, args)` whose `args` may be an array of inputs.

    **Arguments:**

    - `x0`: the state before the pulse, shape `(state,)`.
    - `amplitudes`: shape `(pulses, input)`.
    - `n`: number of starts to draw.
    - `flow`: how to integrate (`rnndyn.flows`).
    - `duration`, `after`: in the time unit of the flow.
    - `num_times`: number of sampling times.
    """

    x0: Float[Array, " state"]
    amplitudes: Float[Array, "pulses input"]
    flow: AbstractFlow
    duration: float = eqx.field(static=True)
    after: float = eqx.field(static=True)
    n: int = eqx.field(static=True)
    num_times: int = eqx.field(static=True)

    def __init__(
        self,
        x0: Any,
        amplitudes: Any,
        n: int,
        *,
        flow: AbstractFlow,
        duration: Any,
        after: Any,
        num_times: int = 50,
    ):
        self.x0 = as_float(x0, "`x0`")
        self.amplitudes = jnp.asarray(amplitudes, self.x0.dtype)
        check_count("n", n)
        check_count("num_times", num_times)
        _check_vector("x0", self.x0)
        _check_rows("amplitudes", self.amplitudes, "pulses")
        self.flow, self.n, self.num_times = flow, n, num_times
        # Static, for flows that must know their number of steps.
        self.duration, self.after = float(duration), float(after)

    def __call__(self, system, args, *, key):
        if isinstance(system, Map):
            raise ValueError(
                "AfterPulses got a Map, expected a flow. Iterate the map yourself "
                "(rnndyn.flows.iterate) and pass the states, or use NearStates."
            )
        ts = np.linspace(0, self.after, self.num_times)

        def respond(u):
            x = self.flow(system, self.x0, 0.0, self.duration, u)
            return self.flow.trajectory(system, x, ts, jnp.zeros_like(u)).xs

        states = jax.vmap(respond)(self.amplitudes).reshape(-1, self.x0.shape[0])
        return states[jax.random.randint(key, (self.n,), 0, states.shape[0])]


class Seen(eqx.Module):
    """What a search knows between two rounds; rows beyond the counts are padding.

    **Attributes:**

    - `given`: the starts of the caller.
    - `roots`: distinct roots found so far, the first `num_roots` rows.
    - `ends`: where other starts ended (slow points, undecided and lost ones), slowest
        first, the first `num_ends` rows.
    """

    given: Float[Array, "starts state"]
    roots: Float[Array, "pool state"]
    num_roots: Int[Array, ""]
    ends: Float[Array, "pool state"]
    num_ends: Int[Array, ""]


class AbstractStrategy(eqx.Module):
    """What a search adds to its starts; implement these four, the rest works."""

    @abc.abstractmethod
    def sizes(self, given: int) -> tuple[int, int, int]:
        """Static numbers, for `given` starts: of starts that run beside them, of
        rounds afterwards, and of starts in a round."""

    @abc.abstractmethod
    def first(
        self, given: Float[Array, "starts state"], n: int, key: KeyLike
    ) -> Float[Array, "n state"]:
        """The `n` starts that run beside the given ones."""

    @abc.abstractmethod
    def propose(self, seen: Seen, n: int, key: KeyLike) -> Float[Array, "n state"]:
        """The `n` starts of one round."""

    @abc.abstractmethod
    def log_weight(self, seen: Seen) -> Callable | None:
        """Logarithm of the factor `x -> scalar` by which the rounds multiply the
        residual, or `None`."""


class MultiStart(AbstractStrategy):
    """What a search adds to the starts it was given.

    Starts near the origin of a network often all fall into one root. So a search also
    runs from `num_large` normal states far out, then from
    combinations of the roots found so far (means, sums, differences, three-term sums
    and noisy copies of random pairs) in `rounds` rounds. At the end the set of
    roots is closed under symmetries: under x -> -x if the residual is found odd at
    probe points, and under each of `symmetries`. Images are accepted only by the
    same residual test as every other root.

    A multi-start search never proves that it found all roots.

    **Arguments:**

    - `num_large`: starts far out.
    - `scale`: standard deviation of the large starts, in units of max(1, rms of the
        given starts).
    - `rounds`: largest number of rounds of combinations. After a round that found
        nothing new the others are not run; their slots are `lost`, with 0 steps.
    - `per_round`: starts of a round. Each takes at most 64 steps.
    - `symmetries`: callables `x -> x` under which the system is equivariant; each is
        applied once to the roots found.
    - `detect_odd`: whether to test for, and close under, x -> -x.
    """

    scale: Float[Array, ""]
    symmetries: tuple[Callable, ...]
    num_large: int = eqx.field(static=True)
    rounds: int = eqx.field(static=True)
    per_round: int = eqx.field(static=True)
    detect_odd: bool = eqx.field(static=True)

    def __init__(
        self,
        *,
        num_large: int = 64,
        scale: Any = 3.0,
        rounds: int = 3,
        per_round: int = 64,
        symmetries: tuple[Callable, ...] = (),
        detect_odd: bool = True,
    ):
        if callable(symmetries) or not all(map(callable, symmetries)):
            raise ValueError(
                f"`symmetries` = {symmetries!r}, expected a tuple of callables x -> x, "
                "e.g. (lambda x: -x,)."
            )
        check_number("scale", scale, "Leave it out for the default.")
        for name, value in (("num_large", num_large), ("rounds", rounds),
                            ("per_round", per_round)):  # fmt: skip
            check_count(name, value, least=0)
        self.scale = jnp.asarray(scale)
        self.symmetries = tuple(symmetries)
        self.num_large, self.rounds, self.per_round = num_large, rounds, per_round
        self.detect_odd = detect_odd

    def sizes(self, given: int) -> tuple[int, int, int]:
        return self.num_large, self.rounds, self.per_round

    def first(self, given, n, key):
        shape = (n, given.shape[1])
        return self.spread(given) * jax.random.normal(key, shape, given.dtype)

    def propose(self, seen, n, key):
        return self.combine(seen.roots, seen.num_roots, seen.given, n, key)

    def log_weight(self, seen):
        return None

    def spread(self, given: Float[Array, "starts state"]) -> Float[Array, ""]:
        """Standard deviation of starts that are far out compared with the given."""
        size = jnp.maximum(1, jnp.sqrt(jnp.mean(given**2)))
        # A start that is not finite must not spoil the others.
        return self.scale.astype(given.dtype) * jnp.where(jnp.isfinite(size), size, 1)

    def combine(
        self,
        roots: Float[Array, "pool state"],
        count: Int[Array, ""],
        given: Float[Array, "starts state"],
        n: int,
        key: KeyLike,
    ) -> Float[Array, "n state"]:
        """`n` combinations of the first `count` roots; far starts if there are none."""
        # Few draws: each one costs as much compilation as a whole solver step.
        k_choice, k_noise = jax.random.split(key)
        pick = jax.random.uniform(k_choice, (4, n))
        rows = (pick[:3] * jnp.maximum(count, 1)).astype(jnp.int32)
        weights = jnp.asarray(_FORMS, roots.dtype)[
            (pick[3] * len(_FORMS)).astype(jnp.int32)
        ]
        mixed = jnp.einsum("nk,knd->nd", weights, roots[rows])
        normal = jax.random.normal(k_noise, (n, roots.shape[1]), roots.dtype)
        # One root leaves nothing to combine: half of the round searches far out.
        far = (count == 0) | ((count < 3) & (jnp.arange(n) % 2 == 0))
        far_out = self.spread(given) * normal
        return jnp.where(far[:, None], far_out, mixed + 0.05 * normal)

    def is_odd(
        self, fn: Callable, probes: Float[Array, "probes state"]
    ) -> Bool[Array, ""]:
        """Whether fn(-x) = -fn(x) to rounding at all probe points."""
        plus, minus = jax.vmap(fn)(probes), jax.vmap(fn)(-probes)
        eps = jnp.finfo(probes.dtype).eps
        size = jnp.max(jnp.abs(plus)) + jnp.max(jnp.abs(probes))
        # A diverged network gives NaN, which is not odd.
        return jnp.all(jnp.abs(plus + minus) <= 64 * eps * size)


# Weights of three random roots: mean, sum, differences, three-term sums, noisy copy.
_FORMS = (
    (0.5, 0.5, 0.0),
    (1.0, 1.0, 0.0),
    (1.0, -1.0, 0.0),
    (0.5, -0.5, 0.0),
    (1 / 3, 1 / 3, 1 / 3),
    (0.5, 0.5, -0.5),
    (1.0, 1.0, -1.0),
    (1.0, 0.0, 0.0),
)


def _check_rows(name: str, value: Array, rows: str) -> None:
    if value.ndim != 2 or 0 in value.shape:
        raise ValueError(
            f"`{name}` has shape {value.shape}, expected ({rows}, ...), at least one. "
            "Pass a single row as row[None]."
        )


def _check_vector(name: str, value: Array) -> None:
    if value.ndim != 1:
        raise ValueError(
            f"`{name}` has shape {value.shape}, expected (state,): one number per "
            "unit, e.g. jnp.full(state_size, 3.0)."
        )
