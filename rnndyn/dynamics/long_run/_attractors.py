"""Attractors and their basins, from many starts."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PyTree

from ..._core._batch import in_double
from ..._core._checks import check_counts, check_key, is_in
from ..._core._export import Result
from ..._core._system import Map
from ..._core._types import KeyLike
from ..._core._verdicts import Verdict, names
from ...flows import AbstractMethod
from ...flows._scan import check_method
from .._states import as_arrays, as_states, check_system, check_tolerances
from ..points._points import Frozen
from ..points._starts import AbstractSampler
from ._basins import group, regroup, wilson
from ._rounds import Runs


class Attractors(Result):
    """Where runs from many starts end; one row an attractor, the commonest first.

    Host level, NumPy, float64. Times are in units of time of a flow, steps of a map.

    **Attributes:**

    - `verdict`: `root`, `limit_cycle`, `k_cycle`, `invariant_circle`, `torus`,
        `chaotic` or `continuum`, shape `(attractors,)`.
    - `count`, `share`, `low`, `high`: starts that ended there, with a 95 % Wilson
        interval for the share. Shares are of the starts, not of state space, and
        include the starts that were not decided.
    - `state`: one state on it, shape `(attractors, state)`: the root itself, certified.
    - `orbit`: states on it, `(attractors, 256, state)`: one period of a cycle; of a
        map, consecutive states, which of a longer k-cycle are a part.
    - `period`: of cycles and k-cycles, NaN for the rest; `period_error`: by what share
        that of a cycle changed when the step was last halved.
    - `exponents`: the three largest Lyapunov exponents, NaN where the state has fewer.
        At roots from the eigenvalues; elsewhere averages over a window, with no error
        stated: of a cycle see `limit_cycle`, of chaos `lyapunov_spectrum`.
    - `extent`: half the diagonal of its bounding box.
    - `label`: row of the attractor that each start led to, -1 for none.
    - `start_verdict`: how each start ended, shape `(starts,)`; `time`: how long it was
        followed; `final`: its last state.
    - `dt`: step of the integration of a flow from each start, `(starts,)`; 1 for a map.
    - `kind`: "flow" or "map"; `caveats`: what was not decided, in words.
    """

    verdict: Int[np.ndarray, " attractors"]
    count: Int[np.ndarray, " attractors"]
    share: Float[np.ndarray, " attractors"]
    low: Float[np.ndarray, " attractors"]
    high: Float[np.ndarray, " attractors"]
    state: Float[np.ndarray, "attractors state"]
    orbit: Float[np.ndarray, "attractors samples state"]
    period: Float[np.ndarray, " attractors"]
    period_error: Float[np.ndarray, " attractors"]
    exponents: Float[np.ndarray, "attractors three"]
    extent: Float[np.ndarray, " attractors"]
    label: Int[np.ndarray, " starts"]
    start_verdict: Int[np.ndarray, " starts"]
    time: Float[np.ndarray, " starts"]
    final: Float[np.ndarray, "starts state"]
    dt: Float[np.ndarray, " starts"]
    kind: str = eqx.field(static=True)
    caveats: tuple[str, ...] = eqx.field(static=True)

    def headline(self) -> str:
        """Attractors by kind with their shares, and what was not decided."""
        kinds = zip(self.names, self.share, strict=True)
        found = ", ".join(f"{name} {share:.0%}" for name, share in list(kinds)[:8])
        more = ", ..." if len(self.share) > 8 else ""
        found = found or "no attractor"
        return f"{found}{more} of {len(self.label)} starts, {self.undecided} undecided"

    @property
    def names(self) -> list[str]:
        """The verdicts by name."""
        return names(self.verdict)

    @property
    def undecided(self) -> int:
        """Starts that led to no attractor and did not diverge either."""
        return int(np.sum((self.label < 0) & (self.start_verdict != Verdict.diverged)))


def attractors(
    system: Any,
    x0s: Any,
    args: PyTree = None,
    *,
    dt: float | None = None,
    method: AbstractMethod | None = None,
    steps: int = 1024,
    rounds: int = 4,
    chunk: int = 32,
    tol_point: float = 1e-6,
    key: KeyLike | None = None,
) -> Attractors:
    """Follow many starts to where they end, and sort the ends into attractors.

    Every start is run in float64 by one compiled program: a transient, with steps of
    controlled error; then, with a fixed step that suits what is there, a window in
    which rest and the three leading Lyapunov exponents are measured, and the search for
    a return (`settle`, `verdict_of`); Newton's method must confirm k-cycles, and cycles
    of flows must be there with shorter steps. A start that is not decided is continued
    four times as long, up to `rounds` times; chaos is looked at twice. What slowly
    passes a bottleneck, or cycles ever more slowly between saddles, is not an
    attractor: such starts end as `slow_point` or `undetermined`. Host level.

    ```python
    found = rd.dynamics.attractors(f, jax.random.normal(key, (200, 3)))
    found.names, found.share, found.low, found.high
    found.caveats
    ```

    **Arguments:**

    - `system`: a flow `f(t, x, args)` or a `Map`; `args`: the input, held constant.
    - `x0s`: starts, shape `(starts, state)`, or a sampler. A start on an unstable root
        stays there and is not decided.
    - `dt`: step of the integration of a flow, transients included. By default half
        of the fastest time constant at the end of each transient; runs that diverge or
        are too inaccurate with it are repeated with 1/2, 1/8 and 1/64 of that.
    - `method`: of integration with fixed steps, `Dop853()` by default: the damping of
        methods of low order ends cycles that attract little.
    - `steps`: length of the transient and of the window in the first round.
    - `rounds`: how often an undecided start is continued.
    - `chunk`: starts run side by side.
    - `tol_point`: roots, and averages over cycles, closer than this, times max(1, |x|),
        are one.
    - `key`: for samplers.

    **Returns:** `Attractors`. Not guaranteed: that an attractor with a small basin is
    hit, or that a chaotic transient is not longer than the window. Chaotic attractors
    (tori, circles) are taken for one if their averages and variances agree to within
    their errors, of chaos coordinate by coordinate and to ten times what stretches of
    the window fluctuate by: mirror images are told apart, interleaved ones may not be,
    and chaos that dwells here and there for longer than the window is split. Attraction
    itself is tested for points and cycles only: in a system that keeps a volume, or
    has a neutral family of circles, motion may be called `chaotic` or `torus`.

    **Raises:** a `ValueError` for starts of the wrong shape, or a `Map` with `dt`.
    """
    is_map = isinstance(system, Map)
    if key is not None:
        check_key(key)
    if isinstance(x0s, AbstractSampler):
        x0s = x0s(system, args, key=jax.random.key(0) if key is None else key)
    # Only looked at: as an array of JAX float64 starts may lose digits.
    as_states("x0s", x0s, ("starts", "state"), "Pass one start as x0[None].")
    x0s = np.asarray(x0s)
    check_counts(steps=steps, rounds=rounds, chunk=chunk)
    check_tolerances(tol_point=tol_point)
    if method is not None:
        check_method(method)
    if dt is not None and not is_in(dt, "(0, inf)"):
        raise ValueError(
            f"`dt` = {dt}, expected the step of the integration, > 0. Leave it out for "
            "one that errors choose."
        )
    if is_map and not (dt is None and method is None):
        raise ValueError(
            f"`dt` = {dt} and `method` = {method} with a Map, expected neither: a map "
            "is not integrated. Leave them out; times of the result are steps."
        )
    x0s = x0s.astype(np.float64)
    with in_double():
        args = as_arrays(args, x0s)
        problem = Frozen(*Frozen(system, args).thaw(np.float64))
        check_system(*problem.thaw(), jnp.asarray(x0s[0]))
        run = Runs(problem, x0s, 1.0 if is_map else dt, method, chunk)
        for r in range(rounds):
            run.advance(steps * 4**r)
            if not run.open.any():
                break
    verdict, ends = run.verdict, run.ends
    groups = group(verdict, ends, tol_point, run.meets)
    error = np.where(verdict == Verdict.k_cycle, 0, np.nan)
    cycles = [g for g in groups if verdict[g[0]] == Verdict.limit_cycle]
    if cycles:
        first = np.array([g[0] for g in cycles])
        error[first] = run.shorten_steps(first)
        for members in cycles:
            # Another motion with shorter steps.
            if not error[members[0]] <= 0.01:
                verdict[members] = Verdict.undetermined
        kept = [g for g in groups if verdict[g[0]] != Verdict.undetermined]
        groups = regroup(kept, verdict, ends, tol_point, run.meets)
    errors = error[[g[0] for g in groups]]
    return _collect(run, verdict, ends, groups, errors, is_map)


def _exponents_at(jac, is_map):
    """The three largest Lyapunov exponents at a root, from its eigenvalues."""
    values = np.linalg.eigvals(jac)
    with np.errstate(divide="ignore"):
        rates = np.log(np.abs(1 + values)) if is_map else values.real
    # What is wiped out at once has the exponent -inf; kept finite as in `settle`.
    return np.maximum(np.sort(rates)[::-1][:3], np.log(np.finfo(np.float64).tiny))


def _collect(run, verdict, ends, groups, errors, is_map) -> Attractors:
    total, size = run.x.shape
    label = np.full(total, -1)
    for row, members in enumerate(groups):
        label[members] = row
    first = np.array([g[0] for g in groups], int)
    count = np.array([len(g) for g in groups], int)
    shares = np.array([wilson(int(k), total) for k in count]).reshape(-1, 3)
    is_root = (verdict[first] == Verdict.root)[:, None]
    periodic = np.isin(verdict[first], (Verdict.limit_cycle, Verdict.k_cycle))
    exponents = np.full((len(groups), 3), np.nan)
    for row, members in enumerate(groups):
        # Weighted averages are the better ones unless the motion is chaotic.
        mean = ends["rates"][members]
        if verdict[members[0]] == Verdict.chaotic:
            mean = ends["growth"][members].sum(axis=1) / ends["window"][members, None]
        if verdict[members[0]] == Verdict.root:
            mean = _exponents_at(ends["jacobian"][members[0]], is_map)[None]
        exponents[row, : mean.shape[1]] = mean.mean(axis=0)
    return Attractors(
        verdict=verdict[first],
        count=count,
        share=shares[:, 0],
        low=shares[:, 1],
        high=shares[:, 2],
        state=np.where(is_root, ends["point"][first], ends["final"][first]),
        orbit=ends["orbit"][first],
        period=np.where(periodic, ends["period"][first], np.nan),
        period_error=errors,
        exponents=exponents,
        extent=np.where(is_root[:, 0], 0, ends["extent"][first]),
        label=label,
        start_verdict=verdict,
        time=run.time,
        final=ends["final"],
        dt=ends["step"],
        kind="map" if is_map else "flow",
        caveats=_caveats(verdict, run, errors),
    )


def _caveats(verdict, run, errors) -> tuple[str, ...]:
    said = []
    for code, advice in (
        (Verdict.undetermined, "were not decided, which more `rounds` may change"),
        (Verdict.slow_point, "still creep, with no certified root nearby"),
        (Verdict.diverged, "diverged"),
    ):
        these = verdict == code
        if these.any():
            far = f"t <= {run.time[these].max():g}"
            if not run.is_map and code != Verdict.diverged:
                far += f", dt >= {run.dt[these].min():g}"
            said.append(f"{these.sum()} of {len(these)} starts {advice} ({far})")
    poor = int(np.sum(errors > 1e-4))
    if poor:
        said.append(f"the periods of {poor} cycles change with the step: shorten `dt`")
    coarse = run.coarse & ~run.gone
    if coarse.any():
        least = run.dt[coarse].min()
        said.append(f"dt = {least:g} is too long for {coarse.sum()} starts")
    return tuple(said)
