"""The rounds of a search: the given starts, then what strategies make of the ends."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ..._core._masks import first_indices, group_sizes, norm, unique_mask
from ..._core._verdicts import Verdict
from ._coverage import unseen_upper
from ._search import Found, Tolerances, huge, most_lanes, run_lanes
from ._solver import LevenbergMarquardt
from ._starts import AbstractStrategy, MultiStart, Seen


POOL = 128
"""Roots, and other ends, that strategies see."""
CHUNK = 64
"""Given starts between two looks at whether they are enough."""


class Rounds:
    """A search by strategies: `run` it, then `close` its roots under symmetries.

    All rounds are one compiled loop. With `unseen` the given starts come in several
    rounds, and the rest of them are not run once they would bring little.
    """

    def __init__(
        self,
        fn: Callable,
        solver: LevenbergMarquardt | None,
        tols: Tolerances,
        strategies: tuple[AbstractStrategy, ...],
        lanes: int | None,
        max_steps: int,
        unseen: Any,
    ):
        self.fn, self.solver, self.tols = fn, solver, tols
        self.strategies, self.lanes, self.max_steps = strategies, lanes, max_steps
        self.unseen = unseen

    def run(self, x0s, k_first, k_rounds):
        """The starts, the added ones included, and where each of them ended."""
        given = x0s.shape[0]
        sizes = [s.sizes(given) for s in self.strategies]
        keys = jax.random.split(k_first, len(sizes))
        beside = [
            s.first(x0s, extra, k)
            for s, (extra, _, _), k in zip(self.strategies, sizes, keys, strict=True)
            if extra
        ]
        starts = jnp.concatenate([x0s, *beside])
        first = starts.shape[0]
        # Rows of the rounds: first of the starts there are, where nothing is proposed.
        cuts = [0, first]
        lanes = self.lanes
        if lanes is None:
            lanes = min(most_lanes(x0s.shape[1]), max(1, first // 4))
        if self.unseen is not None:
            cuts = sorted({*range(0, given, max(CHUNK, 4 * lanes)), given, first})
        opening = len(cuts) - 1
        later = [
            i for i, (_, rounds, n) in enumerate(sizes) if n for _ in range(rounds)
        ]
        for i in later:
            cuts.append(cuts[-1] + sizes[i][2])
        which = jnp.asarray([0] * opening + later, jnp.int32)
        cuts_ = jnp.asarray(cuts, jnp.int32)
        slots = cuts[-1]
        room = jnp.zeros((slots - first, x0s.shape[1]), x0s.dtype)
        starts = jnp.concatenate([starts, room])
        # Only strategies that have rounds take part in them.
        active = sorted(set(later))
        block = max([sizes[i][2] for i in active], default=0)
        stops = jnp.asarray([isinstance(s, MultiStart) for s in self.strategies])
        pool = min(slots, POOL)

        def one_round(r, carry):
            starts, found, before = carry
            r = jnp.asarray(r, jnp.int32)
            begin, end = cuts_[r], cuts_[r + 1]
            log_weight, deflate, cap = None, False, self.max_steps
            skip = jnp.asarray(False)
            if self.unseen is not None:
                skip = (end <= given) & self.enough(found, given)
            if active:
                seen = self.look(x0s, found, pool)
                # Other combinations of the same roots seldom bring more.
                added = r >= opening
                again = (r > opening) & (which[r] == which[r - 1]) & stops[which[r]]
                skip = skip | (again & (seen.num_roots == before) & (before < pool))
                before = seen.num_roots
                cap = jnp.where(added & stops[which[r]], min(cap, 64), cap)
                branches = [
                    lambda seen, key, s=self.strategies[i]: s.propose(seen, block, key)
                    for i in active
                ]
                turn = jnp.searchsorted(jnp.asarray(active, jnp.int32), which[r])
                key = jax.random.fold_in(k_rounds, r - opening + 1)
                new = lax.switch(turn, branches, seen, key)
                rows = begin + jnp.arange(block, dtype=jnp.int32)
                rows = jnp.where(added & (rows < end), rows, slots)  # else dropped
                starts = starts.at[rows].set(new, mode="drop")
                new = found.x.at[rows].set(new, mode="drop")
                found = eqx.tree_at(lambda t: t.x, found, new)
                log_weight, mine = self.weight(active, seen)
                deflate = (which[r] == mine) & added
            found = run_lanes(
                self.fn,
                self.solver,
                self.tols,
                starts,
                found,
                begin,
                jnp.where(skip, begin, end),
                lanes=lanes,
                max_steps=cap,
                log_weight=log_weight,
                deflate=deflate,
            )
            return starts, found, before

        carry = (starts, Found.empty(starts), jnp.zeros((), jnp.int32))
        if len(cuts) == 2:
            starts, found, _ = one_round(0, carry)
        else:
            starts, found, _ = lax.fori_loop(0, len(cuts) - 1, one_round, carry)
        # Rounds that were left out.
        idle = jnp.where(found.num_steps == 0, int(Verdict.lost), found.verdict)
        return starts, eqx.tree_at(lambda t: t.verdict, found, idle)

    def look(self, x0s, found, pool):
        """What strategies see: roots and other ends, by speed."""
        ranked = jnp.argsort(found.speed)
        x, verdict = found.x[ranked], found.verdict[ranked]
        is_root = verdict == Verdict.root
        index, real = first_indices(unique_mask(x, is_root, self.tols.unique), pool)
        ran = found.num_steps[ranked] > 0
        others = ran & ~is_root & (verdict != Verdict.diverged)
        others, known = first_indices(others, pool)
        count = lambda mask: jnp.sum(mask, dtype=jnp.int32)
        return Seen(x0s, x[index], count(real), x[others], count(known))

    def enough(self, found, given):
        """Whether one more of the given starts would bring a new root so seldom."""
        is_root = found.verdict[:given] == Verdict.root
        hits = group_sizes(found.x[:given], is_root, self.tols.unique)
        count = lambda mask: jnp.sum(mask).astype(found.x.dtype)
        ran = count(found.num_steps[:given] > 0)
        return unseen_upper(count(hits == 1), count(hits == 2), ran) < self.unseen

    def weight(self, active, seen):
        """The weight of the residual in a round, and whose it is."""
        weights = [(i, self.strategies[i].log_weight(seen)) for i in active]
        weights = [(w, i) for i, w in weights if w is not None]
        if len(weights) > 1:
            raise ValueError(
                f"{len(weights)} of the strategies weight the residual, expected "
                "at most one. Give it more rounds instead."
            )
        return weights[0] if weights else (None, -1)

    def close(self, starts, found, probes):
        """Append the images of roots under symmetries, judged like any root."""
        fn, tols = self.fn, self.tols
        multi = [s for s in self.strategies if isinstance(s, MultiStart)]
        maps: list[Callable] = [jax.vmap(g) for s in multi for g in s.symmetries]
        odd = [s for s in multi if s.detect_odd][:1]
        size = min(starts.shape[0], POOL)
        ranked = jnp.argsort(found.speed)
        is_root = found.verdict[ranked] == Verdict.root
        distinct = unique_mask(found.x[ranked], is_root, tols.unique)
        index, real = first_indices(distinct, size)
        roots, steps = found.x[ranked][index], found.num_steps[ranked][index]
        valid = [real] * len(maps)
        if odd:
            maps.append(lambda x: -x)
            valid.append(real & odd[0].is_odd(fn, probes))
        for image, ok in zip(maps, valid, strict=True):
            x = jnp.where(ok[:, None], image(roots), 0)
            speed = jax.vmap(lambda y: norm(fn(y)))(x)
            good = ok & (speed <= jax.vmap(tols.speed_at)(x))
            verdict = jnp.where(good, int(Verdict.root), int(Verdict.lost))
            speed = jnp.where(good, speed, huge(x.dtype))
            rows = Found(x, speed, verdict.astype(jnp.int32), steps, steps < 0)
            join = lambda a, b: jnp.concatenate([a, b])
            starts, found = join(starts, x), jax.tree.map(join, found, rows)
        return starts, found
