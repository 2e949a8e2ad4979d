"""Host-level verdicts on limit cycles: float64, with the integration error measured."""

import dataclasses
from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..._core._batch import in_double
from ..._core._closures import program
from ..._core._jacobian import jacobian
from ..._core._verdicts import Verdict
from ...flows import DiffraxFlow, ScanFlow
from ._cycle_search import LimitCycles
from ._cycles import ADAPT, default_tol, describe, velocity_of
from ._limit_cycle import NEUTRAL, LimitCycle
from ._mesh import Mesh
from ._shooting import shoot


DIGITS = 1e-9
"""Largest relative change of the period between the last two step sizes."""
LOG_DIGITS = 1e-8
"""The change of the logarithms below which steps are not halved again."""
_HALVINGS = 4
_BATCH = ("problem", "mesh", "kind")


def certify_cycle(cycle: LimitCycle) -> LimitCycle:
    """The same cycles with final verdicts, as NumPy in float64. Host level.

    Every candidate (verdict `limit_cycle` or `undetermined`, finite) is solved again
    in float64, once with the steps of the search and once with half of them (adaptive
    flows: a tenth of the tolerance), and `error` is the relative change of the period.
    The step is halved up to four times until that is below 1e-9 and that of the
    logarithms (`log_error`) below 1e-8; a cycle whose period still changes remains
    `undetermined`, one whose logarithms do keeps its verdict and its `log_error`. A
    cycle that moved away (by more than 1e-2 of its extent, or of its period) from
    where the search had seen it is `undetermined` as well.

    **Arguments:** `cycle`: from `limit_cycle`, any leading batch axes (its `problem`
    then has them too).
    """
    return _certify(cycle, cycle.problem, ())


def certify_cycles(found: LimitCycles) -> LimitCycles:
    """See `certify_cycle`; `mask`, `verdict` and `index` follow the new verdicts, also
    of orbits that had closed without a verdict."""
    cycles = found.cycles
    shape = np.shape(cycles.period)
    certified = _certify(cycles, cycles.problem, shape[-1:])
    ok = np.asarray(certified.mask)
    index = np.array(found.index)
    verdict = np.array(found.verdict)
    batch, slots = shape[:-1], index.shape[len(shape) - 1 :]
    flat = index.reshape(-1, *slots)
    codes = verdict.reshape(-1, *slots)
    good = ok.reshape(len(flat), -1)
    led_to = np.zeros(good.shape, bool)
    outcome = np.asarray(certified.verdict).reshape(len(flat), -1)
    for n in range(len(flat)):
        listed = flat[n] >= 0
        led_to[n][flat[n][listed]] = True
        codes[n][listed] = outcome[n][flat[n][listed]]
        flat[n][listed & ~good[n][flat[n]]] = -1
    return dataclasses.replace(
        found,
        cycles=certified,
        mask=led_to.reshape(shape) & ok,
        verdict=codes.reshape((*batch, *slots)),
        index=flat.reshape((*batch, *slots)),
    )


def _certify(cycle, problem, inner):
    shape = np.shape(cycle.period)
    outer = shape[: len(shape) - len(inner)]
    count = int(np.prod(shape, dtype=int))
    repeat = int(np.prod(inner, dtype=int))
    names = [f.name for f in dataclasses.fields(cycle) if f.name not in _BATCH]
    out: dict[str, np.ndarray] = {}
    for name in names:
        a = np.asarray(getattr(cycle, name))
        a = a.reshape((count, *a.shape[len(shape) :]))
        wide = {"f": np.float64, "c": np.complex128}.get(a.dtype.kind, a.dtype)
        out[name] = a.astype(wide)
    orbit = out["orbit"][:, :-1]
    mesh: Mesh = cycle.mesh.divided(orbit.shape[2])
    nodes = orbit[:, :: mesh.pieces]
    shares = np.diff(out["times"], axis=1)
    shares = shares.reshape(count, mesh.segments, mesh.pieces)
    candidate = np.isin(out["verdict"], (Verdict.limit_cycle, Verdict.undetermined))
    candidate &= np.isfinite(orbit).all(axis=(1, 2)) & (out["extent"] > 0)
    candidate &= np.isfinite(out["period"]) & (out["period"] > 0)
    closed = out["verdict"] == Verdict.limit_cycle
    out["verdict"] = np.where(
        out["verdict"] == Verdict.limit_cycle, int(Verdict.undetermined), out["verdict"]
    ).astype(np.int32)
    out["stability"] = np.zeros(count, np.int32)
    exact = np.asarray(cycle.x0).dtype == np.float64
    out["error"], out["log_error"] = np.full((2, count), np.nan)
    networks = problem.doubled(outer)

    for i in np.flatnonzero(candidate):
        here = networks.at(i // repeat)
        # What the search solved in float64 need not be solved again with its steps.
        known = exact and closed[i]
        new = _settle_steps(
            here, mesh, out["period"][i], nodes[i], shares[i],
            out["log_multipliers"][i] if known else None,
        )  # fmt: skip
        moved = np.linalg.norm(new["x0"] - orbit[i, 0]) / out["extent"][i]
        drift = abs(new["period"] / out["period"][i] - 1)
        if not (np.isfinite(moved) and moved <= 1e-2 and drift <= 1e-2):
            continue
        for name in names:
            out[name][i] = new[name]
    fields: dict[str, Any] = {
        k: v.reshape((*shape, *v.shape[1:])) for k, v in out.items()
    }
    return LimitCycle(**fields, problem=problem, mesh=mesh)


def _settle_steps(problem, mesh: Mesh, period, nodes, shares, logs):
    """Solve with shorter and shorter steps until the period no longer changes."""
    new: dict[str, Any] = {"error": np.asarray(np.nan)}
    if logs is None:
        new = _solve(problem, mesh, nodes, period, shares)
        period, nodes, shares, logs = _again(new, mesh)
    for _ in range(_HALVINGS):
        mesh = _finer(mesh)
        new = _solve(problem, mesh, nodes, period, shares)
        new["error"] = np.abs(new["period"] / period - 1)
        shifts = np.abs(new["log_multipliers"].real - logs.real)
        change = np.max(shifts / np.maximum(1, np.abs(logs.real)))
        lost = _lost(new)
        new["log_error"] = np.maximum(change, lost)
        settled = new["error"] <= DIGITS and new["log_error"] <= LOG_DIGITS
        tol = default_tol(mesh, np.float64, None)
        if settled or not new["residual"] <= tol or _one_of_many(new):
            break
        if new["error"] <= DIGITS and lost > 2 * change:  # at any step
            break
        period, nodes, shares, logs = _again(new, mesh)
    if new["verdict"] != Verdict.limit_cycle:
        return new
    if not new["error"] <= DIGITS:
        new["verdict"] = np.asarray(int(Verdict.undetermined))
    # The largest of the others decides, however wrong the smallest are.
    doubt = shifts[0 if new["trivial"] != 0 else min(1, len(shifts) - 1)]
    if not (new["error"] <= DIGITS and np.abs(new["margin"]) > 10 * doubt):
        new["stability"] = np.asarray(0)
    return new


def _lost(new) -> float:
    """How much of the sum of the logarithms the divergence of the flow contradicts.

    By Liouville's formula the sum is the integral of tr df/dx over a period. In the
    plane this is the one logarithm that is not 0.
    """
    logs, volume = new["log_multipliers"], new["volume"]
    largest = np.maximum(1, np.abs(logs.real).max())
    return float(np.abs(np.sum(logs.real) - volume) / largest)


def _one_of_many(new) -> bool:
    """Whether the orbit has closed without being isolated, which shorter steps will
    not change."""
    others = np.delete(new["log_multipliers"], new["trivial"])
    neutral = np.min(np.abs(others), initial=np.inf) <= NEUTRAL
    return bool(new["verdict"] != Verdict.limit_cycle and neutral)


def _again(new, mesh):
    """Where the next solve starts: period, nodes, shares, logarithms."""
    shares = np.diff(new["times"])
    return (
        new["period"],
        new["orbit"][:-1][:: mesh.pieces],
        shares.reshape(mesh.segments, mesh.pieces),
        new["log_multipliers"],
    )


def _finer(mesh: Mesh) -> Mesh:
    flow: Any = mesh.flow
    if isinstance(flow, ScanFlow) and flow.num_steps is not None:
        flow = ScanFlow(num_steps=2 * flow.num_steps, method=flow.method)
    elif isinstance(flow, ScanFlow):
        assert flow.dt is not None
        flow = ScanFlow(dt=flow.dt / 2, method=flow.method)
    elif isinstance(flow, DiffraxFlow):
        given: Any = flow.controller
        if not isinstance(given, dfx.PIDController):
            given = dfx.PIDController(rtol=1e-10, atol=1e-10)
        controller = dataclasses.replace(
            given, rtol=given.rtol / 10, atol=given.atol / 10
        )
        flow = dataclasses.replace(
            flow, controller=controller, max_steps=2 * flow.max_steps
        )
    return Mesh(flow, mesh.segments, mesh.pieces)


def _solve(problem, mesh, nodes, period, shares) -> dict[str, Any]:
    with in_double():
        out = _program(problem, mesh, np.asarray(nodes), np.float64(period), shares)
        return {k: np.array(v) for k, v in out.items()}


@program
def _program(problem, mesh, nodes, period, shares):
    f, args = problem.thaw()
    velocity = velocity_of(f, args, nodes[0])
    tol = default_tol(mesh, nodes.dtype, None)
    shot = shoot(
        mesh,
        velocity,
        nodes,
        jnp.asarray(period),
        tol=tol,
        max_steps=12,
        bounds=(0.5 * period, 2 * period),
        reduce_period=False,
        shares=shares / jnp.sum(shares),
        adapt=ADAPT,
    )
    shot = jax.tree.map(lax.stop_gradient, shot)
    fields = describe(mesh, velocity, shot, tol)
    orbit, times = fields["orbit"][:-1], jnp.diff(fields["times"])

    def rate(z):
        x = z[:-1]
        return jnp.append(velocity(x), jnp.trace(jacobian(velocity, x)[0]))

    def growth(piece):
        x, duration = piece
        return mesh.through(rate, jnp.append(x, 0), duration)[-1]

    volume, known = jnp.sum(lax.map(growth, (orbit, times))), fields["log_multipliers"]
    # Where the solver fails nothing contradicts what is known.
    volume = jnp.where(jnp.isfinite(volume), volume, jnp.sum(known.real))
    if nodes.shape[1] == 2:
        fields = _in_the_plane(fields, volume)
    return fields | {"volume": volume}


def _in_the_plane(fields, volume):
    """The fields with the logarithm that is not trivial from Liouville's formula."""
    logs = fields["log_multipliers"]
    along = logs[fields["trivial"]]
    grows = volume > along.real
    other = volume.astype(logs.dtype)
    logs = jnp.where(grows, jnp.stack([other, along]), jnp.stack([along, other]))
    margin, decided = volume, fields["stability"] != 0
    stability = jnp.where(decided, jnp.sign(margin), 0).astype(jnp.int32)
    return fields | {
        "log_multipliers": logs,
        "trivial": jnp.where(grows, 1, 0).astype(jnp.int32),
        "margin": margin,
        "stability": stability,
    }
