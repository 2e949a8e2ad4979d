"""The result of a search for fixed points."""

import functools
import operator
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Complex, Float, Int

from ..._core._batch import in_double
from ..._core._export import Result
from ..._core._system import residual_fn
from ..._core._verdicts import Verdict
from .._states import check_number
from ._coverage import Coverage, coverage_of


# Numpy after `certify`: float64 must survive in a float32 process.
Values: TypeAlias = Array | np.ndarray


class Frozen(eqx.Module):
    """A system and its input as arrays plus hashable rest, so that results that hold
    them may leave `jax.jit`."""

    arrays: list
    treedef: Any = eqx.field(static=True)
    rest: tuple = eqx.field(static=True)

    def __init__(self, system: Any, args: Any):
        leaves, self.treedef = jax.tree.flatten((system, args))
        arrays, rest = [], []
        for leaf in leaves:
            if not eqx.is_array(leaf):
                rest.append(leaf)
            elif jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                # As plain numbers, which NumPy can hold.
                arrays.append(jr.key_data(leaf))
                rest.append(_Slot(jr.key_impl(leaf)))
            else:
                arrays.append(leaf)
                rest.append(_Slot(None))
        self.arrays, self.rest = arrays, tuple(rest)

    def thaw(self, dtype: Any = None) -> tuple[Any, Any]:
        """`(system, args)` again, floating-point arrays in `dtype` if given."""
        arrays = iter(self.arrays)

        def leaf(slot):
            if not isinstance(slot, _Slot):
                return slot
            a = next(arrays)
            if slot.key is not None:
                return jr.wrap_key_data(jnp.asarray(a), impl=slot.key)
            floating = dtype is not None and jnp.issubdtype(a.dtype, jnp.floating)
            return a.astype(dtype) if floating else a

        return jax.tree.unflatten(self.treedef, map(leaf, self.rest))

    def doubled(self, outer: tuple[int, ...]) -> "Frozen":
        """The same with NumPy arrays, floating-point ones in float64, whose axes
        `outer`, of networks, are one."""
        # Not -1: a network without inputs or outputs has empty arrays.
        count = int(np.prod(outer, dtype=int))

        def double(a):
            a = np.asarray(a).reshape(count, *np.shape(a)[len(outer) :])
            return a.astype(np.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a

        return self._each(double)

    def at(self, networks: Any) -> "Frozen":
        """Of some networks, by an index into the first axis."""
        return self._each(lambda a: a[networks])

    def _each(self, fn: Any) -> "Frozen":
        return eqx.tree_at(lambda p: p.arrays, self, [fn(a) for a in self.arrays])


class _Slot(NamedTuple):
    """Where an array belongs; of a PRNG key also its implementation."""

    key: Any


class FixedPoints(Result):
    """Fixed and slow points, one slot per start of the search.

    Unique roots come first, in the order of their starts, then unique slow points by
    speed, then the rest.
    Shapes are the same eager and traced; empty places hold finite numbers. After
    `equinox.filter_vmap` every array has a leading network axis.

    **Attributes:**

    - `x`: points, shape `(slots, state)`. Unique roots are differentiable.
    - `x_init`: the start of each slot.
    - `speed`: scale-free speed, |time_scale f(x)| of a flow or |F(x) - x| of a map.
    - `eigenvalues`: of df/dx (per unit of time) or dF/dx, most unstable first, at
        unique roots and slow points; 0 elsewhere. Differentiable.
    - `verdict`: codes of `rnndyn.Verdict`.
    - `unique`: the first slot of every distinct root or slow point.
    - `stability`: -1 stable, 1 unstable, 0 undecided (margin within rounding).
    - `margin`: time_scale max Re(eigenvalue), or max |eigenvalue| - 1 for a map. After
        `certify` a continuum is judged across itself: without the `dimension`
        eigenvalues of its null directions.
    - `condition`: sigma_max / sigma_min of the residual's Jacobian: rounding errors of
        `x` and of its derivative are amplified by about this factor. It diverges at
        a fold, and on continuous families of roots the derivative does not exist.
        After a search without spectrum an upper bound, some N times as large.
    - `time_scale`: unit of the speeds.
    - `stats`: `num_steps` of each slot, 0 where it did not run (steps that were given
        up for those of another solver do not count), whether its start was `given`,
        not added, and, after `certify`, how many of the given starts ended at it
        (`hits`).
    - `kind`: "flow" or "map".
    - `wanted`: the verdicts that `mask` covers.
    - `certified`: whether `certify` has decided the verdicts in float64.
    - `dimension`: of the family of roots through a point: 0 where isolated, and at
        what is no root; `family`: a label that the roots of one connected family
        share, -1 elsewhere; `num_marginal`: number of eigenvalues whose real part (or
        modulus - 1) is 0 within rounding, those along the family included. All three
        are decided by `certify` and are None before.
    """

    x: Float[Values, "*net slots state"]
    x_init: Float[Values, "*net slots state"]
    speed: Float[Values, "*net slots"]
    eigenvalues: Complex[Values, "*net slots state"]
    verdict: Int[Values, "*net slots"]
    unique: Bool[Values, "*net slots"]
    stability: Int[Values, "*net slots"]
    margin: Float[Values, "*net slots"]
    condition: Float[Values, "*net slots"]
    time_scale: Float[Values, "*net"]
    problem: Frozen
    stats: dict[str, Any]
    kind: str = eqx.field(static=True)
    wanted: tuple[int, ...] = eqx.field(static=True)
    certified: bool = eqx.field(static=True)
    dimension: Int[Values, "*net slots"] | None = None
    family: Int[Values, "*net slots"] | None = None
    num_marginal: Int[Values, "*net slots"] | None = None

    @property
    def q(self) -> Float[Values, "*net slots"]:
        """Half the squared speed."""
        return self.speed**2 / 2

    @property
    def mask(self) -> Bool[Values, "*net slots"]:
        """Slots that hold, once each, what the search was asked for."""
        found = [self.verdict == code for code in self.wanted]
        return functools.reduce(operator.or_, found) & self.unique

    @property
    def system(self) -> Any:
        """The flow or map that was searched."""
        return self.problem.thaw()[0]

    @property
    def args(self) -> Any:
        """The input it was searched under."""
        return self.problem.thaw()[1]

    def headline(self) -> str:
        """Roots, stable ones, families, slow points, and who says so."""
        unique, verdict = np.asarray(self.unique), np.asarray(self.verdict)
        roots = unique & (verdict == Verdict.root)
        members = unique & (verdict == Verdict.continuum)
        slow = unique & np.isin(verdict, (Verdict.slow_point, Verdict.ghost))
        stable = roots & (np.asarray(self.stability) == -1)
        nets = int(np.prod(verdict.shape[:-1], dtype=int))
        of = "" if verdict.ndim == 1 else f" of {nets} networks"
        how = "certified" if self.certified else "not certified"
        line = f"{roots.sum()} roots{of} ({stable.sum()} stable)"
        if members.any() and self.family is not None:
            *net, _ = np.nonzero(members)
            labels = zip(*net, np.asarray(self.family)[members], strict=True)
            line += f", {len(set(labels))} families ({members.sum()} points)"
        line += f", {slow.sum()} slow points in {verdict.size} slots"
        return f"{line}, {self.kind}, {how}"

    def roots(self, *, families: bool = False) -> np.ndarray:
        """Certified, distinct roots, shape `(roots, state)`. Host level, one network.

        Certifies first if need be; may be empty. With `families=True` a continuous
        family of roots counts once, by its first member.
        """
        pts = self if self.certified else _certified(self)
        pts._check_single("roots")
        return np.asarray(pts.x)[pts._root_slots(families=families)]

    def slow(self) -> np.ndarray:
        """Certified, distinct slow points and ghosts, shape `(points, state)`."""
        pts = self if self.certified else _certified(self)
        pts._check_single("slow")
        is_slow = np.isin(np.asarray(pts.verdict), (Verdict.slow_point, Verdict.ghost))
        return np.asarray(pts.x)[is_slow & np.asarray(pts.unique)]

    def coverage(self) -> Coverage:
        """What share of further starts would end at roots that this search lacks.

        Certifies first if need be. Host level, one network.

        ```python
        pts = fixed_points(system, Gaussian(2 * jnp.ones(64), n=512))
        pts.coverage().unseen_upper  # more starts pay while this is not small
        ```
        """
        pts = self if self.certified else _certified(self)
        pts._check_single("coverage")
        return coverage_of(pts, pts._root_slots(families=True))

    def to_fpf(self, dt: Any = None) -> dict[str, Any]:
        """The points of `mask` under FixedPointFinder's names. Host level, one network.

        FixedPointFinder knows maps only: a flow is converted to its Euler map with
        step `dt`, so q becomes (dt/time_scale)^2 q, the Jacobian I + dt J and its
        eigenvalues 1 + dt lambda. `dq` is not defined here and is NaN.

        **Arguments:**

        - `dt`: step of the Euler map, in the time unit of the flow; flows only.

        **Reference:** M. Golub & D. Sussillo 2018, doi:10.21105/joss.01003.
        """
        pts = self if self.certified else _certified(self)
        pts._check_single("to_fpf")
        if self.kind == "flow" and dt is None:
            raise ValueError(
                "to_fpf got dt=None for a flow, expected the step of the Euler map "
                "to report (FixedPointFinder knows maps only). Pass e.g. dt=tau / 2."
            )
        if self.kind == "flow":
            check_number("dt", dt, "Pass a step in the flow's unit of time.")
        step = 1.0 if self.kind == "map" else float(dt) / float(pts.time_scale)
        mask = np.asarray(pts.mask)
        x = np.asarray(pts.x)[mask]
        with in_double():
            system, args = pts.problem.thaw(np.float64)
            residual = residual_fn(system, args, np.asarray(pts.time_scale))
            velocity = [np.asarray(residual(jnp.asarray(p))) for p in x]
            jac = [np.asarray(jax.jacfwd(residual)(jnp.asarray(p))) for p in x]
        size = x.shape[1]
        jacs = np.eye(size) + step * np.array(jac).reshape(-1, size, size)
        values, vectors = np.linalg.eig(jacs)
        order = np.argsort(-np.abs(values), axis=1)
        values = np.take_along_axis(values, order, axis=1)
        vectors = np.take_along_axis(vectors, order[:, None, :], axis=2)
        nothing = np.full(len(x), np.nan)
        num_steps = np.asarray(pts.stats["num_steps"])[mask]
        return {
            "xstar": x,
            "x_init": np.asarray(pts.x_init)[mask],
            "inputs": args,
            "F_xstar": x + step * np.array(velocity).reshape(-1, size),
            "qstar": step**2 * np.asarray(pts.q)[mask],
            "dq": nothing,
            "n_iters": num_steps,
            "J_xstar": jacs,
            "eigval_J_xstar": values,
            "eigvec_J_xstar": vectors,
            "is_stable": np.all(np.abs(values) < 1, axis=1),
            "cond_id": np.zeros(len(x), int),
        }

    def _root_slots(self, *, families: bool) -> np.ndarray:
        """Slots of the distinct roots; with `families` of each of these the first."""
        is_root = np.isin(np.asarray(self.verdict), (Verdict.root, Verdict.continuum))
        index = np.flatnonzero(is_root & np.asarray(self.unique))
        if not families:
            return index
        label = np.asarray(self.family)[index]
        first = np.array([list(label).index(v) for v in label], int)
        return index[(label < 0) | (first == np.arange(len(label)))]

    def _check_single(self, verb: str) -> None:
        if self.x.ndim != 2:
            raise ValueError(
                f"`{verb}` got points of {self.x.shape[:-2]} networks, expected one. "
                "Pick network i with jax.tree.map(lambda a: a[i], points)."
            )


def _certified(points: FixedPoints) -> FixedPoints:
    from ._certify import certify

    return certify(points)
