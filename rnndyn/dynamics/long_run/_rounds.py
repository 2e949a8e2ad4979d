"""Many runs in rounds: each goes on four times as long until it is decided."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..._core._batch import in_double
from ..._core._system import Map
from ..._core._verdicts import Verdict
from ...flows import Dop853
from ._approach import approach, shared_steps
from ._late_verdict import UNDECIDED, confirm_roots, verdict_of
from ._recurrence import settle
from ._returns import SAMPLES, cycle_point, nearest_pass


_KEPT = ("returns", "final", "point", "jacobian", "extent", "growth", "period", "orbit")
_KEPT += ("window", "step_error", "rates", "mean", "spread", "drift", "closure")
_KEPT += ("blocks", "uneven")


class Runs:
    """All starts, continued in rounds; only the open ones, in padded chunks."""

    def __init__(self, problem, x0s, dt, method, chunk):
        self.problem = problem
        self.method = Dop853() if method is None else method
        self.is_map = isinstance(problem.thaw()[0], Map)
        # Powers of two: few different programs, and no lanes for nothing.
        self.chunk = min(chunk, 1 << (len(x0s) - 1).bit_length())
        self.adaptive = dt is None
        count = len(x0s)
        self.x = x0s.copy()
        self.dt = np.full(count, np.nan if dt is None else dt)
        self.verdict = np.zeros(count, np.int64)
        self.time = np.zeros(count)
        self.open = np.ones(count, bool)
        self.coarse = np.zeros(count, bool)
        self.gone = np.zeros(count, bool)
        self.seen_chaotic = np.zeros(count, bool)
        self.ends: dict[str, np.ndarray] = {}

    def advance(self, steps):
        open_ = todo = np.flatnonzero(self.open)
        away = np.zeros(len(todo), bool)
        if self.adaptive:
            away = self.approach(todo, steps // 2)
        for finer in (1, 2, 8, 64) if self.adaptive else (1,):
            dt = self.dt[todo] / finer
            verdict, ends = self.run(self.x[todo], dt, steps * finer)
            self.keep(todo, verdict, ends, dt)
            # Too long a step makes things up, divergence above all: shorten it first.
            self.coarse[todo] = poor = _too_long(verdict, ends)
            if finer <= 2:
                poor = poor | (verdict == Verdict.diverged)
            # Step errors add up over a period, so that a cycle may miss its own start.
            moving = np.isin(verdict, (Verdict.undetermined, Verdict.limit_cycle))
            poor = poor | (moving & (ends["step_error"] > _SHARP))
            todo = todo[poor]
            if not len(todo):
                break
        stays = open_[~away]
        self.time[stays] += 3 * steps * self.dt[stays]
        whole = open_[self.verdict[open_] != Verdict.diverged]
        self.x[whole] = self.ends["final"][whole]
        if self.adaptive:
            self.verdict[self.verdict == Verdict.diverged] = Verdict.undetermined
            self.gone[open_[away]] = True
        self.verdict[self.coarse] = Verdict.undetermined
        self.verdict[self.gone] = Verdict.diverged
        confirm_roots(self.verdict, self.ends, self.is_map, open_)
        self.confirm_cycles(open_)
        # Chaos may be a transient, and its averages converge slowly: look twice.
        once = (self.verdict == Verdict.chaotic) & ~self.seen_chaotic
        self.seen_chaotic = self.verdict == Verdict.chaotic
        self.open &= np.isin(self.verdict, UNDECIDED) | once

    def confirm_cycles(self, rows):
        """Let Newton's method confirm k-cycles, and go to them: where two have just
        vanished the orbit creeps past the place, as if it still converged."""
        rows = rows[self.verdict[rows] == Verdict.k_cycle]
        lengths = np.round(self.ends["period"][rows]).astype(np.int32)
        # An orbit that repeats to rounding is there.
        size = np.maximum(1, np.linalg.norm(self.ends["final"][rows], axis=1))
        gap = self.ends["closure"][rows] * self.ends["extent"][rows]
        far = gap > 64 * np.finfo(np.float64).eps * size
        dear = lengths * float(self.x.shape[1]) ** 3 > _DEAR
        self.verdict[rows[dear & far]] = Verdict.undetermined
        rows, lengths = rows[far & ~dear], lengths[far & ~dear]
        if not len(rows):
            return
        part = lambda x, k: _cycle_points(self.problem, x, k)
        found = self.in_chunks(part, self.ends["final"][rows], lengths)
        near = found["distance"] <= 1e-2 * self.ends["extent"][rows]
        multipliers = np.abs(np.linalg.eigvals(found["jacobian"])).max(axis=1)
        good = near & found["found"] & (multipliers < 1)
        self.verdict[rows[~good]] = Verdict.undetermined
        self.ends["orbit"][rows[good]] = orbit = found["orbit"][good]
        self.ends["final"][rows[good]] = orbit[:, 0]
        for i, k, states in zip(rows[good], lengths[good], orbit, strict=True):
            if k <= len(states):
                self.ends["mean"][i] = states[:k].mean(axis=0)

    def approach(self, todo, attempts):
        """Take the runs `todo` through a transient and choose their steps; which of
        them diverged. Only here is divergence believed: errors are controlled."""
        part = lambda x: _approach(self.problem, x, np.int32(attempts))
        x, time, rate, away = self.in_chunks(part, self.x[todo])
        rate[away] = np.median(rate[~away]) if not away.all() else 1.0
        used = np.unique(self.dt[np.isfinite(self.dt)])
        self.x[todo], self.dt[todo] = x, shared_steps(rate, used)
        self.time[todo] += time
        return away

    def run(self, x, dt, steps):
        steps = np.int32(steps)
        part = lambda x, dt: _label(self.problem, x, dt, steps, self.method)
        return self.in_chunks(part, x, dt)

    def in_chunks(self, part, *rows):
        count = len(rows[0])
        pad = lambda a: np.concatenate([a, np.repeat(a[-1:], -count % self.chunk, 0)])
        rows = [pad(a) for a in rows]
        pieces = []
        for i in range(0, len(rows[0]), self.chunk):
            out = part(*(a[i : i + self.chunk] for a in rows))
            pieces.append(jax.tree.map(np.asarray, out))
        return jax.tree.map(lambda *a: np.concatenate(a)[:count], *pieces)

    def shorten_steps(self, index):
        """Follow these limit cycles again with half the step, up to six times, until
        their periods stay the same; the last relative changes.

        One step may be accurate and the period not, where the cycle passes a saddle.
        Infinite for what does not close with shorter steps.
        """
        dt = self.ends["step"][index]
        period, start = self.ends["period"][index], self.ends["final"][index]
        error = np.full(len(index), np.inf)
        for _ in range(6):
            dt = dt / 2
            with in_double():
                steps = int(np.ceil(6 * (period / dt).max()))
                _, ends = self.run(start, dt, steps)
            closes = (ends["returns"] > 0) & (ends["uneven"] < 1e-3)
            closes &= ends["closure"] <= 1e-4
            new = np.where(closes, ends["period"] * dt, period)
            error = np.where(closes, np.abs(new / period - 1), np.inf)
            for name in ("final", "orbit", "extent", "mean", "closure", "step_error"):
                self.ends[name][index[closes]] = ends[name][closes]
            self.ends["period"][index] = period = new
            start = np.where(closes[:, None], ends["final"], start)
            if error.max() <= _SAME_PERIOD:
                break
        return error

    def meets(self, a, b):
        """Whether the orbit of cycle `b` passes four states of cycle `a`."""
        error = 1e-4 + 10 * (a["closure"] + b["closure"])
        error += 10 * (a["step_error"] + b["step_error"])
        h = min(a["step"], b["step"])
        steps = np.int32(np.ceil(1.1 * b["period"] / h))
        unit = max(a["extent"], b["extent"])
        points = a["orbit"][:: SAMPLES // 4]
        with in_double():
            far = _passes(self.problem, points, b["final"], h, steps, unit, self.method)
        return bool(np.all(np.asarray(far) <= error))

    def keep(self, index, verdict, ends, dt):
        units = {"period": dt, "window": dt, "rates": 1 / dt[:, None]}
        ends = {k: v * units.get(k, 1) for k, v in ends.items()} | {"step": dt}
        if not self.ends:
            shape = lambda a: (len(self.x), *a.shape[1:])
            self.ends = {k: np.zeros(shape(a)) for k, a in ends.items()}
        for name, value in ends.items():
            self.ends[name][index] = value
        self.verdict[index] = verdict


_SAME_PERIOD = 1e-7
_DEAR = 1e9
"""Operations of a step of Newton's method, k N^3, that a k-cycle is not worth."""
_SHARP = 1e-6
"""Error of a step, in extents, from which on cycles may not be recognised."""


def _too_long(verdict, ends):
    """Whether steps were too long: by their own errors, or, on cycles, by what these
    add up to before the attraction has them forgotten."""
    error = ends["step_error"]
    forgotten = -ends["growth"].sum(axis=1)[:, min(1, ends["growth"].shape[2] - 1)]
    moved = error * ends["window"] > 1e-2 * np.maximum(forgotten, 0)
    return (error > 1e-4) | ((verdict == Verdict.limit_cycle) & moved)


@eqx.filter_jit
def _approach(problem, x0s, attempts):
    system, args = problem.thaw()
    return jax.vmap(lambda x: approach(system, x, args, attempts))(x0s)


@eqx.filter_jit
def _cycle_points(problem, xs, lengths):
    """`cycle_point` of every row, and the cycle from there."""
    system, args = problem.thaw()
    follow = lambda x, _: (system(x, args), x)

    def one(x, k):
        found = cycle_point(lambda x: system(x, args), x, k)
        orbit = lax.scan(follow, found["x"], None, length=SAMPLES)[1]
        return found | {"orbit": orbit}

    return jax.vmap(one)(xs, lengths)


@eqx.filter_jit
def _passes(problem, points, x, h, steps, unit, method):
    system, args = problem.thaw()
    zero = jnp.zeros((), x.dtype)
    advance = lambda x, h: method.step(system, zero, x, h, args, None)
    displacement = lambda x: h * system(zero, x, args)
    one = lambda p: nearest_pass(advance, displacement, p, x, h, steps, unit)
    return jax.vmap(one)(points)


@eqx.filter_jit
def _label(problem, x0s, dts, steps, method):
    system, args = problem.thaw()

    def one(x0, dt):
        run = settle(
            system, x0, args, dt=dt, transient=steps, window=steps, method=method
        )
        return verdict_of(run), {k: getattr(run, k) for k in _KEPT}

    return jax.vmap(one)(x0s, dts)
