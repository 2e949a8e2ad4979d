"""One verb for final verdicts, whatever was found."""

from typing import Any, TypeVar

from .cycles._cycle_certify import certify_cycle, certify_cycles
from .cycles._cycle_search import LimitCycles
from .cycles._limit_cycle import LimitCycle
from .points._certify import certify as certify_points
from .points._points import FixedPoints


Found = TypeVar("Found", FixedPoints, LimitCycle, LimitCycles)


def certify(result: Found, **options: Any) -> Found:
    """The same result with final verdicts, recomputed in float64 on the host.

    ```python
    points = rd.certify(rd.fixed_points(f, x0s))
    cycles = rd.certify(rd.limit_cycles(f, x0s))
    ```

    Works in a float32 process too and on results of a batch of networks; not inside
    `jit`. Candidates are solved again in float64 and judged again; what fails is
    `undetermined`. Arrays come back as NumPy, without derivatives. That nothing was
    missed by the search is not guaranteed.

    **Arguments:**

    - `result`: of `fixed_points` or `slow_points` (options and tests: see
        `certify_points`), of `limit_cycle` or `limit_cycles` (see `certify_cycle`).
    """
    if isinstance(result, FixedPoints):
        return certify_points(result, **options)
    if isinstance(result, LimitCycle):
        return certify_cycle(result, **options)
    if isinstance(result, LimitCycles):
        return certify_cycles(result, **options)
    raise ValueError(
        f"certify got a {type(result).__name__}, expected FixedPoints, a LimitCycle or "
        "LimitCycles."
    )
