"""Cycles that do not exist, are not isolated, or are hard to tell apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import van_der_pol

import rnndyn as rd
import rnndyn.dynamics as rdd
from rnndyn import Verdict


def radial(t, x, c):
    """r' = r (c0 + c1 r^2 + c2 r^4), theta' = 1."""
    r2 = jnp.vdot(x, x)
    return (c[0] + c[1] * r2 + c[2] * r2**2) * x + jnp.stack([-x[1], x[0]])


@pytest.mark.parametrize(
    "c, start",
    [
        ((0.0, -1.0, 0.0), 0.3),  # r' = -r^3: a weak focus
        ((0.0, 0.0, 1.0), 0.02),
        ((-0.25 - 1e-12, 1.0, -1.0), 0.72),  # just past a fold of cycles
        ((-0.25, 1.0, -1.0), 0.72),  # semistable
        ((0.0, 0.0, 0.0), 1.0),  # a centre
    ],
)
def test_no_isolated_cycle_is_none(c, start):
    x0 = jnp.array([start, 0.0])
    cycle = rdd.limit_cycle(radial, x0, 6.3, jnp.array(c))
    assert int(cycle.verdict) in (Verdict.undetermined, Verdict.constant)
    assert int(cycle.stability) == 0


def test_one_of_many_orbits_is_named_as_such():
    prey = lambda t, x, a: jnp.stack([x[0] * (1 - x[1]), x[1] * (x[0] - 1)])
    cycle = rdd.limit_cycle(prey, jnp.array([1.5, 1.0]), 6.5)
    with pytest.raises(ValueError, match="second multiplier is 1"):
        cycle.check()


def test_both_sides_of_a_fold_of_cycles():
    x0s = jnp.array([[0.9, 0], [0.7, 0], [0.6, 0]])
    e = 1e-7
    result = rdd.limit_cycles(radial, x0s, jnp.array([-0.25 + e, 1.0, -1.0]))
    radii = {int(c.stability): float(jnp.linalg.norm(c.x0)) for c in result.found()}
    for sign, code in ((1, -1), (-1, 1)):
        exact = np.sqrt(0.5 + sign * np.sqrt(e))
        np.testing.assert_allclose(radii[code], exact, rtol=1e-9)


def test_orbits_of_a_pendulum_have_no_derivative():
    pendulum = lambda t, x, g: jnp.stack([x[1], -g * jnp.sin(x[0])])

    def solve(g):
        cycle = rdd.limit_cycle(pendulum, jnp.array([1.5, 0.0]), 7.0, g)
        return cycle.period, cycle

    slope, cycle = jax.jit(jax.jacfwd(solve, has_aux=True))(jnp.asarray(1.0))
    assert int(cycle.verdict) == Verdict.undetermined and float(slope) == 0


def test_what_shrank_to_a_point_has_no_derivative():
    """Roessler from a poor guess: the derivative was 1e12."""

    def solve(c):
        f = lambda t, x, c: jnp.stack(
            [-x[1] - x[2], x[0] + 0.2 * x[1], 0.2 + x[2] * (x[0] - c)]
        )
        cycle = rdd.limit_cycle(f, jnp.array([0.0, -5.8, 0.05]), 5.88, c)
        return cycle.period, cycle

    slope, cycle = jax.jit(jax.jacfwd(solve, has_aux=True))(jnp.asarray(5.7))
    assert int(cycle.verdict) == Verdict.constant and float(slope) == 0


def test_resolved_cycles_of_any_size():
    small = lambda t, x, mu: 1e-7 * van_der_pol(t, 1e7 * x, mu)
    cycle = rdd.limit_cycle(small, jnp.array([2e-7, 0.0]), 6.6, 1.0)
    assert int(cycle.verdict) == Verdict.limit_cycle
    np.testing.assert_allclose(cycle.period, 6.66328685932313, rtol=1e-9)


def driven(extra):
    """A planar clock that drives further variables."""

    def field(t, x, args):
        r2 = x[0] ** 2 + x[1] ** 2
        clock = jnp.stack([x[0] - x[1] - x[0] * r2, x[1] + x[0] - x[1] * r2])
        return jnp.concatenate([clock, extra(x)])

    return field


@pytest.mark.parametrize("kind", ["resonators", "cascade"])
def test_multipliers_of_equal_modulus(kind):
    if kind == "resonators":  # two, equally damped, of different frequency
        A = np.zeros((4, 4))
        A[0, 1] = A[2, 3] = 1
        A[1, :2], A[3, 2:] = [-1, -0.4], [-2, -0.4]
        drive = np.array([0, 0.3, 0, 0.3])
        tol = 1e-8
    else:  # three equal filters in a row: a Jordan block
        A = -0.2 * np.eye(3) + 0.2 * np.eye(3, k=-1)
        drive = np.array([0.3, 0, 0])
        tol = 1e-3
    f = driven(lambda x: jnp.asarray(A) @ x[2:] + jnp.asarray(drive) * x[0])
    x0 = jnp.concatenate([jnp.array([1.0, 0.0]), jnp.zeros(len(A))])
    cycle = rdd.limit_cycle(f, x0, 6.28)
    others = np.delete(np.asarray(cycle.log_multipliers), int(cycle.trivial))
    exact = 2 * np.pi * np.append(np.linalg.eigvals(A).real, -2)
    np.testing.assert_allclose(np.sort(others.real), np.sort(exact), atol=tol)
    assert int(cycle.verdict) == Verdict.limit_cycle and int(cycle.stability) == -1
    assert float(cycle.accuracy) < tol


def test_pairs_of_close_modulus():
    rng = np.random.default_rng(0)
    pieces, expected = [], []
    for gap in (0.0, 1e-3, 0.05, 0.3):
        rates = np.array([-1, -1 + gap])[:, None] + 1j * np.array([[0.7], [2.1]])
        pairs = np.concatenate([rates, rates.conj()]).ravel()
        blocks = np.zeros((4, 4))
        for i, rate in enumerate(rates[:, 0]):
            turn = np.array([[rate.real, -rate.imag], [rate.imag, rate.real]])
            blocks[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = turn
        S = rng.standard_normal((4, 4)) + 2 * np.eye(4)
        step = np.asarray(jax.scipy.linalg.expm(jnp.asarray(blocks / 10)))
        pieces.append(np.stack([S @ step @ np.linalg.inv(S)] * 10))
        expected.append(pairs)
    results = jax.jit(jax.vmap(rdd.floquet))(jnp.asarray(np.stack(pieces)))
    for logs, pairs in zip(results.log_multipliers, expected, strict=True):
        distance = np.abs(np.asarray(logs)[:, None] - pairs[None])
        assert distance.min(axis=0).max() < 1e-9
    assert float(results.uncertainty.max()) < 1e-9


def rossler(t, x, c):
    return jnp.stack([-x[1] - x[2], x[0] + 0.2 * x[1], 0.2 + x[2] * (x[0] - c)])


@pytest.mark.slow
def test_orbits_with_spikes_are_counted_once():
    x0s = jnp.array([[1.0, 1, 0], [3, 3, 0]])
    result = rd.certify(rdd.limit_cycles(rossler, x0s, 4.0, max_cycles=4))
    found = {round(float(c.period), 3): c for c in result.found()}
    assert len(found) == int(result.mask.sum()) and 23.177 in found
    top = found[23.177].extrema(lambda x: x[2])[1]
    np.testing.assert_allclose(top, 11.1104, atol=1e-4)  # DOP853


def test_bad_guesses():
    start = jnp.array([2.0, 0.0])
    for options, words in (
        ({"period": 0.0}, "a guess > 0"),
        ({"period": 6.6, "period_bounds": (10, 1)}, "low < high"),
        ({"period": 6.6, "max_steps": 0}, "max_steps"),
    ):
        with pytest.raises(ValueError, match=words):
            rdd.limit_cycle(van_der_pol, start, args=1.0, **options)
    with pytest.raises(ValueError, match="64 bits"):
        rdd.limit_cycle(van_der_pol, start.astype(jnp.bfloat16), 6.6)


def test_networks_without_outputs_are_certified_too():
    W = np.array([[2.0, -2.0], [2.0, 2.0]])
    model = rd.models.RateRNN.from_arrays(W, tau=0.1)
    x0s = jnp.array([[1.0, 0.0], [0.0, 0.5]])
    found = rd.certify(rd.limit_cycles(model, x0s))
    assert found.mask.sum() == 1 and "1 distinct limit cycles" in repr(found)
    one = rd.certify(rd.limit_cycle(model, found.cycles.x0[0], found.cycles.period[0]))
    np.testing.assert_allclose(one.period, found.cycles.period[0], rtol=1e-10)


@pytest.mark.parametrize("gap", [1e-6, 1e-12])
def test_a_pair_of_cycles_that_has_vanished_is_not_found(gap):
    def field(t, x, sign):
        r = jnp.sqrt(x @ x)
        growth = (1 - r) ** 2 + sign * gap
        return growth * x / r + jnp.stack([-x[1], x[0]])

    # Not r = 1, midway between the two: nothing says there which way to go.
    for r, stability in ((1.01, 1), (0.98, -1)):
        start = jnp.array([r, 0.0])
        none = rdd.certify(rdd.limit_cycle(field, start, 6.2, 1.0))
        assert none.verdict == Verdict.undetermined
        cycle = rdd.certify(rdd.limit_cycle(field, start, 6.2, -1.0))
        assert cycle.verdict == Verdict.limit_cycle and cycle.stability == stability


@pytest.mark.parametrize(
    "radius, steep, gap",
    [(1.0, 100.0, 0.0), (1.0, 1e3, 1e-14), (100.0, 1.0, 5e-11), (1e3, 1.0, 1e-9)],
)
def test_sharp_folds_of_cycles_are_seen_at_any_scale(radius, steep, gap):
    def field(t, x, p):
        r = jnp.sqrt(x @ x)
        growth = -p[0] * ((r - radius) ** 2 + p[1])
        return growth * x / r + jnp.stack([-x[1], x[0]])

    def search(gap):
        start = jnp.array([radius * 1.003, 0.0])
        return rdd.limit_cycle(field, start, 6.3, jnp.array([steep, gap]))

    none = search(gap)
    assert none.verdict == Verdict.undetermined
    assert rdd.certify(none).verdict == Verdict.undetermined
    # Of a pair of cycles that is there, however close, both are found as before.
    near = 1e-12 * radius**2 / steep
    cycle = rdd.certify(search(-near))
    assert cycle.verdict == Verdict.limit_cycle and cycle.stability == -1
    r = np.linalg.norm(cycle.x0)
    logs = -4 * np.pi * steep * near**0.5
    np.testing.assert_allclose(r - radius, near**0.5, rtol=1e-2)
    np.testing.assert_allclose(np.min(cycle.log_multipliers.real), logs, rtol=1e-2)


def test_a_search_that_has_just_arrived_looks_around_too():
    few = rdd.limit_cycle(van_der_pol, jnp.array([2.0, 0.0]), 6.6, 1.0, max_steps=4)
    assert few.residual < 1e-11 and few.verdict == Verdict.limit_cycle


def test_bounds_and_guesses_of_periods_are_checked():
    start = jnp.array([1.0, 0.0])
    search = lambda period, bounds=None: rdd.limit_cycle(
        lambda t, x, args: -x, start, period, period_bounds=bounds
    )
    with pytest.raises(ValueError, match="expected one finite number"):
        search(jnp.ones(3))
    with pytest.raises(ValueError, match="lowest and the highest"):
        search(6.0, (1.0,))
    with pytest.raises(ValueError, match="lies outside"):
        search(6.0, (7.0, 8.0))
    with pytest.raises(ValueError, match="max_steps"):
        rdd.limit_cycles(lambda t, x, args: -x, start[None], max_steps=0)
    with pytest.raises(ValueError, match="`tol` = -1"):
        rdd.limit_cycle(lambda t, x, args: -x, start, 6.0, tol=-1.0)


def morris_lecar(t, x, current):
    """Membrane potential in mV beside a gate between 0 and 1: Morris & Lecar 1981,
    doi:10.1016/S0006-3495(81)84782-0, parameters of the Hopf regime."""
    v, w = x
    open_ = 0.5 * (1 + jnp.tanh((v + 1.2) / 18))
    rest, rate = 0.5 * (1 + jnp.tanh((v - 2) / 30)), jnp.cosh((v - 2) / 60)
    leak = 4.4 * open_ * (v - 120) + 8 * w * (v + 84) + 2 * (v + 60)
    return jnp.stack([(current - leak) / 20, 0.04 * (rest - w) * rate])


def test_variables_of_very_different_size():
    rng = np.random.default_rng(1)
    x0s = np.stack([rng.uniform(-60, 30, 8), rng.uniform(0, 0.5, 8)], axis=1)
    strategy = rdd.CloseReturns(max_period=200, transient=1000)
    found = rdd.limit_cycles(morris_lecar, jnp.asarray(x0s), 90.0, strategy=strategy)
    found = rd.certify(found).found()
    # Period by scipy (RK45, rtol 1e-9); at 90 the resting state is stable too, and an
    # unstable cycle lies between it and the spikes.
    assert len(found) == 2
    (stable,) = [c for c in found if int(c.stability) == -1]
    (unstable,) = [c for c in found if int(c.stability) == 1]
    np.testing.assert_allclose(stable.period, 102.7271653, rtol=1e-8)
    assert float(unstable.extent) < 0.5 * float(stable.extent)
    assert max(float(c.error) for c in found) < 1e-9


def two_radii(t, x, radii):
    """r' = r (1 - r^2 / a^2) (1 - r^2 / b^2), theta' = 1."""
    growth = jnp.prod(1 - jnp.vdot(x, x) / radii**2)
    return growth * x + jnp.stack([-x[1], x[0]])


def test_cycles_that_repel_strongly():
    """From one turn to the next a distance from the outer cycle grows 10^7 times where
    its radius is 1.5, 10^16 times where it is 2."""
    x0s = jnp.asarray(np.random.default_rng(0).uniform(-3, 3, (16, 2)))
    for radii in (np.array([1.0, 1.5]), np.array([1.0, 2.0])):
        found = rd.certify(rdd.limit_cycles(two_radii, x0s, radii)).found()
        by_radius = {round(float(np.linalg.norm(c.x0)), 9): c for c in found}
        assert set(by_radius) == set(radii)
        for radius, cycle in by_radius.items():
            other = next(R for R in radii if radius != R)
            log = -4 * np.pi * (1 - radius**2 / other**2)
            np.testing.assert_allclose(cycle.margin, log, rtol=1e-8)
            assert int(cycle.stability) == np.sign(log)


def test_nodes_follow_the_orbit_whatever_the_segments():
    """The nodes of a guess are integrated in strides of the pieces: a spike does not
    survive one of a quarter of the period."""
    x, period = jnp.array([-32.61502, 0.10575]), 102.727165
    for segments in (1, 4, 12):
        cycle = rdd.limit_cycle(morris_lecar, x, period, 90.0, segments=segments)
        assert int(cycle.verdict) == Verdict.limit_cycle and int(cycle.num_steps) < 12
        np.testing.assert_allclose(cycle.period, 102.727165327, rtol=1e-10)


@pytest.mark.parametrize(
    "verb",
    [
        lambda f: rdd.limit_cycle(f, jnp.ones(2), 3.0),
        lambda f: rdd.limit_cycles(f, jnp.ones((2, 2))),
        lambda f: rdd.lyapunov_spectrum(
            f, jnp.ones(2), dt=0.1, t_transient=0.0, t_total=100.0
        ),
        lambda f: rdd.attractors(f, jnp.ones((2, 2))),
    ],
)
def test_driven_flows_are_refused(verb):
    def driven(t, x, args):
        return jnp.stack([x[1], -x[0] - 0.2 * x[1] + jnp.cos(2 * t)])

    with pytest.raises(ValueError, match="changes with time"):
        verb(driven)
    # For a while, or nowhere but at the first state.
    pulse = lambda t, x, args: -x + jnp.where((t > 3) & (t < 4), 1.0, 0.0)
    with pytest.raises(ValueError, match="changes with time"):
        verb(pulse)
    silent = lambda t, x, args: -x + jnp.cos(t) * (x - 1)
    with pytest.raises(ValueError, match="changes with time"):
        verb(silent)


def test_a_drive_counts_beside_a_first_state_far_out():
    def duffing(t, x, args):
        return jnp.stack([x[1], x[0] - x[0] ** 3 + 0.3 * jnp.cos(t)])

    with pytest.raises(ValueError, match="changes with time"):
        rdd.limit_cycle(duffing, jnp.array([10.0, 0.0]), 3.0)


def test_time_that_makes_no_difference_is_no_drive():
    nothing = lambda t, x, args: jax.lax.cond(x[0] > 0, lambda t: -x, lambda t: -x, t)
    run = lambda x: rdd.lyapunov_spectrum(
        nothing, x, dt=0.1, t_transient=0.0, t_total=40.0
    )
    np.testing.assert_allclose(jax.jit(run)(jnp.ones(1)).exponents, -1, rtol=1e-5)
    formal = lambda t, x, args: -x + 0 * t
    found = rdd.lyapunov_spectrum(
        formal, jnp.ones(1), dt=0.1, t_transient=0.0, t_total=40.0
    )
    np.testing.assert_allclose(found.exponents, -1, rtol=1e-5)
