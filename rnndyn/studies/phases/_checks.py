"""What the published phase diagram claims, checked on cells of our own."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .._published import (
    NOPOST,
    PER_CELL,
    POST,
    Check,
    check_share,
    missing,
)
from .._statistics import binomial_tail, fisher_exact


NL, LC, SP = range(3)
_NAMES = ("not learned", "limit cycle", "slow point")

Cells = Mapping[tuple[int, float, int], Any]
"""Counts (not learned, limit cycle, slow point) by post-response period (ms), learning
rate and delay (ms)."""


def phase_checks(cells: Cells) -> list[Check]:
    """The published claims about single cells and rows of the phase diagram.

    **Arguments:**

    - `cells`: counts of not learned (unstable among them), limit-cycle and slow-point
        networks by `(post_ms, learning_rate, delay_ms)`.

    **Returns:** a `Check` for every claim; `not run` where cells are missing.
    """
    cells = {k: np.asarray(v, int) for k, v in cells.items() if np.sum(v) > 0}
    checks = [
        *_no_delay(cells),
        *_post_is_cycle(cells),
        *_one_cell(cells, "40 ms, rate 0.1", (0, 0.1, 40)),
        *_one_cell(cells, "100 ms, rate 0.03", (0, 0.03, 100), at_most=0.08),
        *_one_cell(cells, "80 ms, rate 0.1", (0, 0.1, 80)),
        *_one_cell(cells, "80 ms, rate 0.1, post", (30, 0.1, 80)),
        *_one_cell(cells, "200 ms, rate 0.1", (0, 0.1, 200)),
        _bound(cells, "400 ms, rate 0.1", (0, 0.1, 400), NL, 0.83, (0.6, 1.0)),
        *_post_effect(cells),
        *_post_slow_points(cells),
        *_along_delays(cells),
    ]
    return checks


def find(cells: Cells, key: tuple[int, float, int]) -> np.ndarray | None:
    """The cell at a learning rate, up to 6 %: published grids are logarithmic."""
    for (post, rate, delay), counts in cells.items():
        if (post, delay) == (key[0], key[2]) and abs(np.log(rate / key[1])) < 0.06:
            return np.asarray(counts)
    return None


def published(key: tuple[int, float, int]) -> tuple[float, ...]:
    """Published fractions of a cell."""
    return (POST if key[0] else NOPOST)[key[1]][key[2]]


def _bound(cells, name, key, code, share, wanted) -> Check:
    relation = f">= {wanted[0]:g}" if wanted[1] >= 1 else f"<= {wanted[1]:g}"
    text = f"{share:.2f} ({relation})"
    name = f"{name}: {_NAMES[code]}"
    counts = find(cells, key)
    if counts is None:
        return missing(name, text)
    per_cell = PER_CELL["post" if key[0] else "nopost"]
    return check_share(
        name, int(counts[code]), int(counts.sum()), share,
        per_cell=per_cell, wanted=wanted, text=text,
    )  # fmt: skip


def _one_cell(cells, name, key, at_most=None) -> Iterable[Check]:
    """All three fractions of a cell within the binomial band of the published ones;
    `at_most` bounds the fraction not learned."""
    counts, per_cell = find(cells, key), PER_CELL["post" if key[0] else "nopost"]
    for code, share in enumerate(published(key)):
        label = f"{name}: {_NAMES[code]}"
        if code == NL and at_most is not None:
            yield _bound(cells, name, key, NL, share, (0, at_most))
        elif counts is None:
            yield missing(label, f"{share:.2f}")
        else:
            yield check_share(
                label, int(counts[code]), int(counts.sum()), share, per_cell=per_cell
            )


def _no_delay(cells) -> Iterable[Check]:
    rates = [r for post, r, delay in cells if (post, delay) == (0, 0)]
    for rate in sorted(rates, reverse=True) or [0.1]:
        name = f"no delay, rate {rate:.3g}"
        yield _bound(cells, name, (0, rate, 0), SP, 1.0, (0.97, 1.0))


def _post_is_cycle(cells) -> Iterable[Check]:
    keys = [(d, r) for post, r, d in cells if post and d <= 60 and r <= 0.1001]
    for delay, rate in sorted(keys) or [(40, 0.1)]:
        name = f"{delay} ms, rate {rate:.3g}, post"
        yield _bound(cells, name, (30, rate, delay), LC, 1.0, (0.95, 1.0))


def _post_effect(cells) -> Iterable[Check]:
    """The post-response period turns learned networks into limit cycles."""
    name = "100 ms, rate 0.01: limit cycles of the learned"
    without, with_post = find(cells, (0, 0.01, 100)), find(cells, (30, 0.01, 100))
    if without is None or with_post is None:
        yield missing(name, "0.43 -> 1.00, p < 1e-3")
        return
    a, b = (int(x[LC]) for x in (without, with_post))
    n, m = (int(x[LC] + x[SP]) for x in (without, with_post))
    yield check_share(f"{name}, no post", a, n, 0.43)
    yield check_share(f"{name}, post", b, m, 1.0, per_cell=20)
    p = fisher_exact(a, n - a, b, m - b)
    yield Check(
        f"{name}, difference", "p < 1e-3", f"p = {p:.1e}", _said(p < 1e-3), total=n + m
    )


def _post_slow_points(cells) -> Iterable[Check]:
    """Slow points stay rare with a post-response period, in the mean and anywhere."""
    post = [v for (p, _, _), v in cells.items() if p]
    names = ("mean slow points, post", "slow points in any post cell")
    texts = ("0.005 (<= 0.02)", "<= 0.10 (Bonferroni)")
    if not post:
        yield from (missing(n, t) for n, t in zip(names, texts, strict=True))
        return
    mean = float(np.mean([v[SP] / v.sum() for v in post]))
    yield Check(
        names[0], texts[0], f"{mean:.3f} in {len(post)} cells", _said(mean <= 0.02)
    )
    tails = [binomial_tail(int(v[SP]), int(v.sum()), 0.10) for v in post]
    least = min(1.0, min(tails) * len(post))
    largest = max(v[SP] / v.sum() for v in post)
    strict = largest <= 0.10
    verdict = "holds" if strict else "within 99 %" if least > 0.01 else "fails"
    yield Check(names[1], texts[1], f"max {largest:.2f}, p = {least:.2g}", verdict)


def _along_delays(cells) -> Iterable[Check]:
    """At a learning rate of 0.1: slow points give way to limit cycles, then to none."""
    found = {d: find(cells, (0, 0.1, d)) for d in range(0, 401, 20)}
    found = {d: v for d, v in found.items() if v is not None}
    early = [d for d in found if d <= 140]
    name = "rate 0.1, slow points fall from 0 to 140 ms"
    if len(early) < 4 or early[0] != 0 or early[-1] != 140:
        yield missing(name, "1.00 to <= 0.15")
    else:
        share = np.asarray([found[d][SP] / found[d].sum() for d in early])
        rise = float(np.max(share[1:] - np.minimum.accumulate(share)[:-1]))
        noise = 2.576 * 0.5 * np.sqrt(2 / min(found[d].sum() for d in early))
        ends = share[0] >= 0.97
        n, k = int(found[140].sum()), int(found[140][SP])
        last = check_share("", k, n, 0.15, wanted=(0, 0.15)).verdict
        ours = f"{share[0]:.2f} to {share[-1]:.2f}, largest rise {rise:.2f}"
        verdict = "fails"
        if ends and last != "fails" and rise <= noise:
            strict = rise <= 0.06 and last == "holds"
            verdict = "holds" if strict else "within 99 %"
        yield Check(name, "1.00 to <= 0.15", ours, verdict)
    name = "rate 0.1, limit cycles peak within 100 to 220 ms"
    middle = {d: found[d][LC] / found[d].sum() for d in found if 100 <= d <= 220}
    later = {d: found[d][LC] / found[d].sum() for d in found if d > 220}
    if len(middle) < 3 or not later:
        yield missing(name, ">= 0.55, then falls")
        return
    at = max(middle, key=middle.__getitem__)
    last = later[max(later)]
    ours = f"{middle[at]:.2f} at {at} ms, {last:.2f} at {max(later)} ms"
    yield Check(name, ">= 0.55, then falls", ours, _said(middle[at] >= 0.55 > last))


def _said(true: Any) -> str:
    return "holds" if bool(true) else "fails"
