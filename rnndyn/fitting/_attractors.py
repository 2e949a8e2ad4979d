"""Attractors of a fitted network against those of the network that was recorded."""

import enum
from collections import Counter
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from .._core._batch import in_double, to_double
from .._core._checks import check_key, check_shape
from .._core._export import Result
from .._core._system import is_map
from .._core._types import KeyLike
from .._core._verdicts import Verdict, names
from ..dynamics import (
    AbstractSampler,
    Attractors,
    FixedPoints,
    MultiStart,
    attractors,
    certify,
    fixed_points,
)
from ..dynamics.points._points import Frozen
from ._problem import check_in


class Match(enum.IntEnum):
    """What became of one attractor. The codes are frozen."""

    undecided = 0
    matched = 1
    missing = 2
    spurious = 3
    other_kind = 4


class AttractorCheck(Result):
    r"""Two sets of attractors, row against row. NumPy, float64.

    **Attributes:**

    - `true_verdict`, `fitted_verdict`: `rnndyn.Verdict` of every attractor.
    - `true_state`, `fitted_state`: one state on each, a root itself.
    - `true_share`, `fitted_share`: of the given starts that ended there.
    - `true_sign`, `fitted_sign`: signs of the read-outs, `(attractor, output)`: -1, 1,
        or 0 within the tolerance of 0; of cycles, of the mean read-out, 0 where that is
        less than a twentieth of the largest (means of few states are not exact).
    - `true_code`: `matched`, `missing`, `other_kind` or `undecided`; `fitted_code`:
        `matched`, `spurious`, `other_kind` or `undecided`.
    - `partner`: row of the fitted attractor that a true one is matched with, or -1.
    - `nearest`: row of the nearest fitted attractor of any kind, or -1; `distance`: to
        it, Hausdorff between orbits; NaN if there is none.
    - `spacing`: distance of a true attractor to the next true one; with only one, the
        rms spread of the starts.
    - `leads_to`: row of the fitted attractor that the fitted network ends on when
        started on the true one, or -1 if that was not decided.
    - `fitted_leads_to`: the same with the roles exchanged.
    - `sign_agrees`: of matched attractors whose read-outs have the same signs.
    - `true_points`, `fitted_points`: certified fixed points, unstable ones included;
        None if they were not asked for.
    - `caveats`: what was not decided, in words.
    """

    true_verdict: Int[np.ndarray, " true"]
    fitted_verdict: Int[np.ndarray, " fitted"]
    true_state: Float[np.ndarray, "true state"]
    fitted_state: Float[np.ndarray, "fitted state"]
    true_share: Float[np.ndarray, " true"]
    fitted_share: Float[np.ndarray, " fitted"]
    true_sign: Int[np.ndarray, "true output"]
    fitted_sign: Int[np.ndarray, "fitted output"]
    true_code: Int[np.ndarray, " true"] = eqx.field(metadata={"flags": Match})
    fitted_code: Int[np.ndarray, " fitted"] = eqx.field(metadata={"flags": Match})
    partner: Int[np.ndarray, " true"]
    nearest: Int[np.ndarray, " true"]
    distance: Float[np.ndarray, " true"]
    spacing: Float[np.ndarray, " true"]
    leads_to: Int[np.ndarray, " true"]
    fitted_leads_to: Int[np.ndarray, " fitted"]
    true_points: FixedPoints | None = eqx.field(metadata={"export": False})
    fitted_points: FixedPoints | None = eqx.field(metadata={"export": False})
    caveats: tuple[str, ...] = eqx.field(static=True)

    def headline(self) -> str:
        """How many attractors of either network have which counterpart."""
        tell = lambda codes: ", ".join(
            f"{n} {Match(code).name}" for code, n in Counter(codes.tolist()).items()
        )
        return f"true: {tell(self.true_code)}; fitted: {tell(self.fitted_code)}"

    @property
    def relative(self) -> Float[np.ndarray, " true"]:
        """Distance over spacing."""
        return self.distance / self.spacing

    @property
    def sign_agrees(self) -> Bool[np.ndarray, " true"]:
        if not len(self.fitted_sign):
            return np.zeros(len(self.partner), bool)
        fitted = self.fitted_sign[np.maximum(self.partner, 0)]
        same = (fitted == self.true_sign).all(axis=1)
        return same & (self.partner >= 0)

    @property
    def complete(self) -> bool:
        """Every true attractor matched, with the same read-out, and none spurious;
        False if none were found."""
        return bool(
            len(self.true_code)
            and self.sign_agrees.all()
            and (self.true_code == Match.matched).all()
            and (self.fitted_code == Match.matched).all()
        )

    def __str__(self):
        count = lambda codes, code: int((codes == code).sum())
        return (
            f"{count(self.true_code, Match.matched)} of {len(self.true_code)} "
            f"attractors matched, {count(self.true_code, Match.missing)} missing, "
            f"{count(self.fitted_code, Match.spurious)} spurious; "
            f"true {_tally(self.true_verdict)}, fitted {_tally(self.fitted_verdict)}"
        )


def attractor_check(
    fitted: Any,
    true: Any,
    x0s: Any,
    args: Any = None,
    *,
    readout: Any = None,
    tol_match: float = 0.25,
    tol_sign: float = 1e-6,
    points: bool = True,
    key: KeyLike | None = None,
    **options: Any,
) -> AttractorCheck:
    """Which attractors of a network its fit has kept, lost and made up.

    Both systems are followed from the same starts (`rnndyn.dynamics.attractors`). The
    fitted one is started beside every true attractor as well, and the true one beside
    every fitted one (moved by 1e-3 of the spread of the starts, lest a run rests on a
    saddle), so that *missing* and *spurious* are statements about where
    such runs go, not about starts that did not hit a small basin:

    - *matched*: each is the other's nearest, both are of one kind, and they are closer
      than `tol_match` times the distance of the true attractor to the next true one.
    - *other_kind*: as close, but of another kind, such as a cycle where a root was.
    - *missing*: not matched, and the fitted network, started there, ends elsewhere.
    - *spurious*: not matched, and the true network, started there, ends elsewhere.
    - *undecided*: not matched, and such a run was not decided.

    ```python
    maps = fit.network.map(dt), generator.map(dt)
    check = attractor_check(*maps, rates[::50], readout=generator.readout)
    print(check)
    check.relative, check.sign_agrees, check.complete
    ```

    **Arguments:**

    - `fitted`, `true`: two flows or two `Map`s with the same state. Compare maps with
      maps: stability and cycles of a flow differ from those of its Euler map.
    - `x0s`: starts, `(starts, state)`, e.g. frames of the recording, or a sampler.
    - `args`: the input, held constant, for both.
    - `readout`: a callable from a state to outputs, or weights `(output, state)`; no
      outputs by default.
    - `tol_match`: in units of the spacing. Below 0.5 a match is unambiguous; that it is
      good is another matter: look at `relative`.
    - `tol_sign`: read-outs within it of 0, relative to the largest of both networks'
      attractors and of the starts, have sign 0.
    - `points`: whether to search for all fixed points as well.
    - `key`: for samplers and searches.
    - `options`: passed to `attractors` (`steps`, `rounds`, `chunk`, ...).

    **Returns:** `AttractorCheck`. Host level. Not guaranteed: that all attractors of
    either network are known. Chaotic attractors are compared by samples only.

    **Raises:** a `ValueError` for starts or a read-out of the wrong shape, starts that
    are all one, or a map beside a flow.
    """
    if is_map(fitted) != is_map(true):
        raise ValueError(
            "one system is a Map and the other a flow, expected two of one kind. Pass "
            "network.map(dt) for both."
        )
    key = jax.random.key(0) if key is None else check_key(key)
    if isinstance(x0s, AbstractSampler):
        x0s = x0s(true, args, key=key)
    x0s = np.asarray(x0s, np.float64)
    check_shape("x0s", x0s, (None, None), "Pass (starts, state).")
    spread = float(np.sqrt(np.mean((x0s - x0s.mean(axis=0)) ** 2) * x0s.shape[1]))
    if not 0 < spread < np.inf:
        raise ValueError(
            f"the {len(x0s)} starts have a spread of {spread}, expected finite starts "
            "that differ: it says what is close. Pass frames of the recording."
        )
    check_in("tol_match", tol_match, "(0, inf)", "Pass a share, such as 0.25.")
    check_in("tol_sign", tol_sign, "[0, inf)", "Pass a share, such as 1e-6.")
    if readout is not None and not callable(readout):
        remedy = "Weights (output, state), or a callable."
        check_shape("readout", readout, (None, x0s.shape[1]), remedy)
    known = attractors(true, x0s, args, **options)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    beside = lambda x: x + 1e-3 * spread * rng.normal(size=x.shape) / x.shape[1] ** 0.5
    starts = np.concatenate([x0s, beside(known.state)])
    ours = attractors(fitted, starts, args, **options)
    given = len(x0s)
    leads_to = ours.label[given:]
    true_sets, kinds = _orbits(true, args, known), known.verdict
    states, shares = known.state, known.share
    back = np.zeros(0, int)
    caveats = [f"true: {c}" for c in known.caveats]
    caveats += [f"fitted: {c}" for c in ours.caveats]
    if len(ours.state):
        # Where the true network goes from the fitted attractors; new ends count too.
        # At least 8, so that few different numbers of starts are compiled for.
        more = np.resize(ours.state, (max(8, len(ours.state)), x0s.shape[1]))
        again = attractors(true, beside(more), args, **options)
        caveats += [f"true, from fitted attractors: {c}" for c in again.caveats]
        row = np.full(len(again.verdict) + 1, -1)
        for i, orbit in enumerate(_orbits(true, args, again)):
            gaps = [hausdorff(orbit, s) for s in true_sets]
            size = 1e-3 * max(1.0, float(np.abs(orbit).max()))
            size = max(size, 0.2 * float(again.extent[i]))
            same = (np.array(gaps) <= size) & (kinds == again.verdict[i])
            if same.any():
                row[i] = int(np.argmax(same))
            else:
                row[i] = len(true_sets)
                true_sets.append(orbit)
                kinds = np.append(kinds, again.verdict[i])
                states = np.concatenate([states, again.state[i : i + 1]])
                shares = np.append(shares, 0.0)
        back = row[again.label[: len(ours.state)]]
        leads_to = np.append(leads_to, np.full(len(kinds) - len(leads_to), -1))
    fitted_sets = _orbits(fitted, args, ours)
    gaps = np.array([[hausdorff(t, f) for f in fitted_sets] for t in true_sets])
    gaps = gaps.reshape(len(true_sets), len(fitted_sets))
    spacing = _spacing(true_sets, spread)
    matched = _match(gaps, kinds, ours.verdict, spacing, tol_match, leads_to, back)
    true_code, fitted_code, partner, nearest = matched
    distance = np.full(len(kinds), np.nan)
    if len(fitted_sets):
        distance = gaps[np.arange(len(kinds)), nearest]
    first = ours.label[:given]
    signs = _signs(readout, true_sets, fitted_sets, x0s, tol_sign)
    found = (None, None)
    if points:
        starts = np.concatenate([x0s, states, ours.state])
        found = tuple(_points(s, starts, args, key) for s in (true, fitted))
    return AttractorCheck(
        true_verdict=kinds,
        fitted_verdict=ours.verdict,
        true_state=states,
        fitted_state=ours.state,
        true_share=shares,
        fitted_share=np.array(
            [np.mean(first == i) for i in range(len(fitted_sets))], np.float64
        ),
        true_sign=signs[0],
        fitted_sign=signs[1],
        true_code=true_code,
        fitted_code=fitted_code,
        partner=partner,
        nearest=nearest,
        distance=distance,
        spacing=spacing,
        leads_to=leads_to,
        fitted_leads_to=back,
        true_points=found[0],
        fitted_points=found[1],
        caveats=tuple(caveats),
    )


def hausdorff(a: Any, b: Any) -> float:
    """Largest distance of a state of one set `(states, state)` to the other set."""
    one_way = lambda a, b: max(
        float(np.sqrt(((b - row) ** 2).sum(axis=1).min())) for row in a
    )
    return max(one_way(a, b), one_way(b, a))


def _match(gaps, kinds, others, spacing, tol, leads_to, back):
    """Codes of both sides, partners and nearest rows."""
    number, fitted = gaps.shape
    true_code = np.full(number, int(Match.undecided))
    fitted_code = np.full(fitted, int(Match.undecided))
    partner, nearest = np.full((2, number), -1)
    close = np.zeros(fitted, bool)
    for i in range(number if fitted else 0):
        j = nearest[i] = int(np.argmin(gaps[i]))
        if np.argmin(gaps[:, j]) != i or gaps[i, j] >= tol * spacing[i]:
            continue
        close[j] = True
        same = kinds[i] == others[j]
        code = Match.matched if same else Match.other_kind
        true_code[i] = fitted_code[j] = int(code)
        partner[i] = j if same else -1
    for i in np.flatnonzero(true_code == Match.undecided):
        if leads_to[i] >= 0:
            true_code[i] = int(Match.missing)
    for j in np.flatnonzero(~close):
        if back[j] >= 0:
            fitted_code[j] = int(Match.spurious)
    return true_code, fitted_code, partner, nearest


def _orbits(system: Any, args: Any, found: Attractors) -> list[np.ndarray]:
    """The states of every attractor."""
    sets = []
    for i, verdict in enumerate(found.verdict):
        if verdict == Verdict.root:
            sets.append(found.state[i : i + 1])
        elif found.kind == "map" and verdict in _DENSE:
            # A rotation near a rational number leaves gaps in a short orbit.
            with in_double():
                frozen = Frozen(*Frozen(system, args).thaw(np.float64))
                sets.append(np.asarray(_iterate(frozen, found.state[i])))
        else:
            sets.append(found.orbit[i])
    return sets


_DENSE = (Verdict.invariant_circle, Verdict.torus, Verdict.chaotic)


@eqx.filter_jit
def _iterate(frozen, x0):
    system, args = frozen.thaw()
    return jax.lax.scan(lambda x, _: (system(x, args), x), x0, length=2048)[1]


def _spacing(sets, spread):
    if len(sets) < 2:
        return np.full(len(sets), spread)
    gaps = np.array([[hausdorff(a, b) for b in sets] for a in sets])
    return (gaps + np.diag(np.full(len(sets), np.inf))).min(axis=1)


def _signs(readout, true_sets, fitted_sets, x0s, tol):
    """Signs of the mean read-outs of both sides, on one scale."""
    sides = true_sets, fitted_sets
    if readout is None:
        return tuple(np.zeros((len(sets), 0), int) for sets in sides)
    if not callable(readout):
        weights = np.asarray(readout, np.float64)
        function = lambda x: jnp.asarray(weights) @ x
    else:
        function = readout
    with in_double():
        read = lambda states: np.asarray(jax.vmap(function)(jnp.asarray(states)))
        # The starts say what is large where every attractor lies at the origin.
        large = read(x0s)

        def mean(states):
            out = read(states)
            value, most = out.mean(axis=0), np.abs(out).max(axis=0)
            return np.where(np.abs(value) < 0.05 * most, 0, value)

        means = [
            np.reshape([mean(s) for s in sets], (len(sets), *large.shape[1:]))
            for sets in sides
        ]
    floor = tol * max(np.abs(out).max(initial=0.0) for out in (large, *means))
    return tuple(
        np.where(np.abs(out) <= floor, 0, np.sign(out)).astype(int) for out in means
    )


def _points(system, starts, args, key):
    """Certified fixed points; no starts far out, where rates never are."""
    with in_double():
        system, args, x0s = to_double((system, args, jnp.asarray(starts)))
        strategy = MultiStart(num_large=0, rounds=2)
        found = fixed_points(system, x0s, args, strategy=strategy, key=key)
        return certify(found)


def _tally(verdicts) -> str:
    labels = names(verdicts)
    return ", ".join(f"{labels.count(n)} {n}" for n in dict.fromkeys(labels)) or "none"
