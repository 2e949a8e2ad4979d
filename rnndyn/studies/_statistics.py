"""Exact tests of counts."""

import math


def binomial_band(p: float, n: int, level: float = 0.99) -> tuple[float, float]:
    """Shares `k/n` between the two binomial quantiles that leave out `1 - level`.

    ```python
    assert binomial_band(0.63, 40) == (0.425, 0.825)
    ```

    **Arguments:** `p`: the true share; `n`: networks; `level`: probability inside, at
    least.

    **Returns:** smallest and largest share that are not surprising.
    """
    if not 0 <= p <= 1 or n < 1:
        raise ValueError(f"p = {p}, n = {n}, expected a share in [0, 1] and n >= 1.")
    # Costs half a second to import: not before it is needed.
    from scipy.stats import binom

    tail = (1 - level) / 2
    low, high = binom.ppf([tail, 1 - tail - 1e-12], n, p)
    return float(low / n), float(high / n)


def binomial_tail(k: int, n: int, p: float) -> float:
    """Probability of `k` or more of `n`."""
    from scipy.stats import binom

    return float(binom.sf(k - 1, n, p))


def fisher_exact(a: int, b: int, c: int, d: int) -> float:
    """Two-sided p-value of Fisher's exact test of the table `[[a, b], [c, d]]`.

    The probability, at fixed margins, of all tables that are no more likely than the
    one that came. Exact integers, so that p-values far below 1e-300 are right too.

    ```python
    fisher_exact(8, 2, 1, 5)     # 0.034965
    ```

    **Arguments:** four counts.

    **Returns:** the p-value; 1 where a margin is empty.

    **Reference:** Fisher 1922, doi:10.2307/2340521.
    """
    if min(a, b, c, d) < 0:
        raise ValueError(f"counts {(a, b, c, d)}, expected none below 0.")
    row, other, column = a + b, c + d, a + c
    weight = lambda k: math.comb(row, k) * math.comb(other, column - k)
    low, high = max(0, column - other), min(row, column)
    seen = weight(a)
    weights = [weight(k) for k in range(low, high + 1)]
    # Ties up to rounding cannot occur: the weights are integers.
    return sum(w for w in weights if w <= seen) / sum(weights)
