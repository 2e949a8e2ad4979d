"""Sign patterns of a piecewise-linear map to solve: exhaustively, or by search."""

from collections.abc import Iterator
from typing import Any

import numpy as np


ROWS = 1 << 16
"""Matrix rows in one batch of linear systems."""


def sequences(problem: Any, budget: int) -> Iterator[np.ndarray | None]:
    """Batches of pattern sequences that signs do not exclude; `None` when there are
    more than `budget` of them."""
    n, k, codes = problem.size, problem.order, 1 << problem.size
    per_batch = max(1, ROWS // n)
    if codes > budget:
        yield None
        return
    bits = (np.arange(codes)[:, None] >> np.arange(n)[None]) & 1
    tol = 1e-9 * np.abs(problem.h).max()
    spent = 0

    def forced(seq):
        """Bits that the next state must, and must not, have."""
        patterns = bits[seq].astype(float)
        must = np.zeros((2, len(seq)), np.int64)
        for s in range(seq.shape[1]):
            P, q = problem.compose(patterns[:, s:])
            signed = P * (2 * patterns[:, s] - 1)[:, None, :]
            above = (signed >= 0).all(axis=2) & (q > tol)
            below = (signed <= 0).all(axis=2) & (q < -tol)
            for m, rows in enumerate((above, below)):
                must[m] |= (rows * (1 << np.arange(n))).sum(axis=1)
        return must

    # Depth first: the pile never holds more than one batch of children per level.
    pile = [
        np.arange(codes)[i : i + per_batch, None] for i in range(0, codes, per_batch)
    ]
    while pile:
        seq = pile.pop()
        high, low = forced(seq)
        if seq.shape[1] == k:
            first = seq[:, 0]
            seq = seq[((first & high) == high) & ((first & low) == 0)]
            seq = seq[_is_first_rotation(seq)]
            spent += len(seq)
            if spent > budget:
                yield None
                return
            if len(seq):
                yield bits[seq].astype(float)
            continue
        some = max(1, per_batch * 8 // codes)
        for i in range(0, len(seq), some):
            part, codes_here = seq[i : i + some], np.arange(codes)
            ok = (codes_here & high[i : i + some, None]) == high[i : i + some, None]
            ok &= (codes_here & low[i : i + some, None]) == 0
            ok &= codes_here >= part[:, :1]
            parent, child = np.nonzero(ok)
            spent += len(parent) // k
            if spent > budget:
                yield None
                return
            children = np.concatenate([part[parent], child[:, None]], axis=1)
            step = range(0, len(children), per_batch)
            pile += [children[j : j + per_batch] for j in step]


def heuristic(problem: Any, rng, lanes=256, inner=60, patience=8, rounds=64):
    """Solve random sequences, re-start from the signs of each solution."""
    n, k = problem.size, problem.order
    quiet = 0
    for r in range(rounds):
        before = len(problem.cycles) + len(problem.on_boundary)
        if r % 2:
            patterns = (rng.random((lanes, k, n)) < rng.random((lanes, 1, 1))) * 1.0
        else:
            # Signs along the motion itself lead to what attracts it.
            z = rng.standard_normal((lanes, n)) * (1 + np.abs(problem.h).max())
            orbit = []
            for _ in range(10 * r + k):
                z = np.clip(problem.step(z), -1e100, 1e100)
                orbit.append(z)
            patterns = (np.stack(orbit[-k:], axis=1) > 0) * 1.0
        for _ in range(inner):
            z, bad = problem.solve(patterns)
            new = np.where(np.isfinite(z), z, 0) > 0
            moved = (new != (patterns > 0)).any(axis=(1, 2)) & ~bad
            patterns = (new * 1.0)[moved]
            if not len(patterns):
                break
        found = len(problem.cycles) + len(problem.on_boundary) > before
        quiet = 0 if found else quiet + 1
        if quiet >= patience:
            break


def _is_first_rotation(seq):
    """Sequences that no rotation of themselves precedes."""
    first = np.ones(len(seq), bool)
    for s in range(1, seq.shape[1]):
        other = np.roll(seq, -s, axis=1)
        differ = other != seq
        at = differ.argmax(axis=1)[:, None]
        smaller = np.take_along_axis(other, at, 1) < np.take_along_axis(seq, at, 1)
        first &= ~(differ.any(axis=1) & smaller[:, 0])
    return first
