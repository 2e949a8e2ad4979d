"""Poincare sections and return maps against closed forms and known cycles.

The digits of the van der Pol cycle come from 26-40-digit Taylor integration.
"""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import lorenz, van_der_pol
from jax.test_util import check_grads

import rnndyn.dynamics as rdd
from rnndyn import Map, Verdict
from rnndyn.dynamics import poincare_section, return_map
from rnndyn.flows import RK4, DiffraxFlow, ScanFlow


X = jnp.array([1.0, 0.0])
Y = jnp.array([0.0, 1.0])
ALONE = rdd.MultiStart(num_large=0, rounds=0)
LIGHT = ScanFlow(num_steps=1, method=RK4())  # small programs where digits do not matter


def circle(t, x, w):
    return w * jnp.stack([-x[1], x[0]])


def stuart_landau(t, z, mu):
    r2 = z[0] ** 2 + z[1] ** 2
    # z' = (mu + i) z - (1 + .5 i) |z|^2 z
    real = mu * z[0] - z[1] - r2 * (z[0] - 0.5 * z[1])
    imag = mu * z[1] + z[0] - r2 * (z[1] + 0.5 * z[0])
    return jnp.stack([real, imag])


def around(x0, w=2.0, normal=X, offset=0.0, **options):
    options = {"crossings": 4, "dt": 0.05, "max_time": 40.0} | options
    return poincare_section(circle, x0, normal, offset, jnp.asarray(w), **options)


@pytest.mark.parametrize("direction", [-1, 0, 1])
def test_times_of_a_rotation(direction):
    section = around(X, direction=direction)
    # x falls through 0 at a quarter turn and rises at three quarters.
    quarters = {-1: [1, 5, 9, 13], 0: [1, 3, 5, 7], 1: [3, 7, 11, 15]}[direction]
    signs = {-1: [-1] * 4, 0: [-1, 1, -1, 1], 1: [1] * 4}[direction]
    exact = np.array(quarters) * np.pi / 4
    np.testing.assert_allclose(section.times, exact, rtol=1e-13)
    np.testing.assert_allclose(section.intervals, np.diff(exact, prepend=0), 1e-12)
    np.testing.assert_array_equal(section.sign, signs)
    np.testing.assert_allclose(section.points[:, 1], -np.array(signs), rtol=1e-12)
    np.testing.assert_allclose(section.transversality, 1, rtol=1e-12)
    assert bool(section.mask.all()) and bool(section.finite)
    assert float(section.residual.max()) < 1e-15


def test_start_on_the_section_is_no_crossing():
    for y in (Y, -Y):
        for nudge in (0.0, 1e-16, -1e-16, 1e-14, -1e-14):
            section = around(y + nudge * X, crossings=1)
            first = np.pi if y[1] < 0 else np.pi / 2
            np.testing.assert_allclose(section.times[0], first, rtol=1e-12)
    # A start clearly before the section is one.
    section = around(-Y - 1e-6 * X, crossings=1)
    np.testing.assert_allclose(section.times[0], 0.5e-6, rtol=1e-9)


def test_landing_on_the_end_of_a_step():
    # The crossing falls on a grid point: it is counted once, whichever way it rounds.
    fall = lambda t, x, args: -jnp.ones(1)
    for level in (0.75, 0.5, 0.25):
        section = poincare_section(
            fall, jnp.ones(1), jnp.ones(1), level, crossings=3, dt=0.25, max_time=2.0,
            direction=-1, flow=LIGHT,
        )  # fmt: skip
        np.testing.assert_array_equal(section.mask, [True, False, False])
        np.testing.assert_allclose(section.times[0], 1 - level, rtol=1e-14)


def test_never_crossing():
    section = around(X, offset=2.0)
    assert not section.mask.any() and bool(section.finite)
    assert not section.points.any() and not section.times.any()
    some = around(X, max_time=5.0)
    np.testing.assert_array_equal(some.mask, [True, False, False, False])
    assert not some.points[1:].any() and not some.sign[1:].any()


def test_diverging_lane_leaves_the_others_alone():
    explode = lambda t, x, args: jnp.stack([x[0] * x[0], jnp.ones((), x.dtype)])

    def time(x):
        section = poincare_section(
            explode, x, Y, 0.5, crossings=1, dt=0.05, max_time=1.0, flow=LIGHT
        )
        return section.times[0], section

    starts = jnp.array([[0.1, 0.0], [1e3, 0.0], [jnp.nan, 0.0], [-1.0, 0.25]])
    gradient, section = jax.vmap(jax.grad(time, has_aux=True))(starts)
    np.testing.assert_array_equal(section.mask[:, 0], [True, False, False, True])
    np.testing.assert_array_equal(section.finite, [True, False, False, True])
    np.testing.assert_allclose(section.times[:, 0], [0.5, 0, 0, 0.25], atol=1e-14)
    assert jnp.isfinite(section.points).all()
    np.testing.assert_allclose(gradient[::3], [[0, -1], [0, -1]], atol=1e-12)

    def total(rate):  # what all lanes share
        field = lambda t, x, rate: rate * explode(t, x, None)
        go = lambda x: poincare_section(
            field, x, Y, 0.5, rate, crossings=2, dt=0.05, max_time=1.0, flow=LIGHT
        )
        return jax.vmap(go)(starts).times.sum()

    np.testing.assert_allclose(jax.grad(total)(1.0), -0.75, rtol=1e-12)


def test_tangential_orbit_is_flagged():
    graze = around(X, offset=1 - 1e-7, normal=X, crossings=2, direction=0)
    assert float(graze.transversality.max()) < 1e-3


def test_a_dip_shorter_than_a_step_is_a_crossing_of_its_own():
    # From (-d, 0), y = (t - d)^2 - d^2 is below the section for a time 2 d.
    dive = lambda t, x, args: jnp.stack([jnp.ones_like(x[0]), 2 * x[0]])
    d = jnp.array([0.3, 1e-2, 1e-4, 1e-6])
    start = jnp.stack([-d, 0 * d], axis=1)
    returning = return_map(dive, Y, dt=0.05, max_time=2.0)
    times = jax.vmap(returning.F.time)(start)
    np.testing.assert_allclose(times, 2 * d, rtol=1e-9)
    back = jax.vmap(lambda x: returning(x, None))(start)
    np.testing.assert_allclose(back[:, 0], d, rtol=1e-8)
    # Where the flow is tangent, an orbit would return at once to where it began.
    assert jnp.isnan(returning.F.time(jnp.array([-1e-10, 0.0])))


def test_curved_section_and_offset():
    # The orbit of radius 2 meets the parabola y = x^2 where y^2 + y = 4.
    y = (np.sqrt(17) - 1) / 2
    section = around(2 * X, normal=lambda x: x[1] - x[0] ** 2, crossings=1)
    np.testing.assert_allclose(section.points[0], [np.sqrt(y), y], rtol=1e-13)
    shifted = around(2 * X, normal=lambda x: x[1] - x[0] ** 2 + 3, offset=3.0,
                     crossings=1)  # fmt: skip
    np.testing.assert_allclose(shifted.points[0], section.points[0], rtol=1e-13)


def test_empty_slots_do_not_spoil_derivatives():
    # Field and section are singular at 0, where the empty slots are.
    def field(t, x, w):
        return w * circle(t, x, 1.0) / jnp.sqrt(x[0] ** 2 + x[1] ** 2)

    def time(w):
        height = lambda x: jnp.sqrt((x**2).sum()) * x[0]
        section = poincare_section(
            field, X, height, 0.0, w, crossings=5, dt=0.05, max_time=6.0, flow=LIGHT
        )
        return section.times[0] + section.points.sum()

    for mode in (jax.grad, jax.jacfwd):
        np.testing.assert_allclose(mode(time)(1.0), -1.5 * np.pi, rtol=1e-5)


def test_forced_flow_sees_the_time():
    forced = lambda t, x, args: jnp.stack([jnp.cos(t)])  # x = sin t
    section = poincare_section(
        forced, jnp.zeros(1), jnp.ones(1), 0.5, crossings=3, dt=0.1, max_time=20.0
    )
    exact = np.pi / 6 + 2 * np.pi * np.arange(3)
    np.testing.assert_allclose(section.times, exact, rtol=1e-12)


def test_derivatives_of_a_rotation():
    def last(w, x, offset):
        section = around(x, w, offset=offset, flow=LIGHT, dt=0.01)
        return section.times[3], section.points[3]

    inputs = jnp.asarray(2.0), X, jnp.asarray(0.3)
    # cos(angle + w t) = offset at t = (2 pi n - arccos(offset) - angle) / w.
    arc, slope = np.arccos(0.3), 1 / np.sqrt(1 - 0.09)
    t = (8 * np.pi - arc) / 2
    radial = -0.3 * slope / 2
    time, point = jax.jacfwd(last, (0, 1, 2))(*inputs)
    np.testing.assert_allclose(time[0], -t / 2, rtol=1e-6)
    np.testing.assert_allclose(time[1], [radial, -0.5], rtol=1e-6)
    np.testing.assert_allclose(time[2], slope / 2, rtol=1e-6)
    np.testing.assert_allclose(point[2], [1, 0.3 * slope], rtol=1e-6)
    np.testing.assert_allclose(point[1][1], [-slope, 0], atol=1e-6)


def test_derivatives_of_lorenz_against_differences():
    def last(x, level, rate):
        field = lambda t, x, r: lorenz(t, x, None) + jnp.stack([0 * r, r * x[0], 0 * r])
        section = poincare_section(
            field, x, jnp.array([0.0, 0.1, 1.0]), level, rate, crossings=3,
            direction=-1, dt=0.01, max_time=4.0, flow=LIGHT,
        )  # fmt: skip
        return section.times, section.points, section.intervals

    x0 = jnp.array([1.0, 2.0, 20.0])
    inputs = x0, jnp.asarray(27.0), jnp.asarray(0.0)
    check_grads(
        jax.jit(last), inputs, 1, modes=("fwd", "rev"), eps=1e-6, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(
    "mode", [jax.jacfwd, pytest.param(jax.grad, marks=pytest.mark.slow)]
)
def test_second_derivative(mode):
    time = lambda w: around(X, w, crossings=1, flow=LIGHT, dt=0.01).times[0]
    t = 1.5 * np.pi / 2
    np.testing.assert_allclose(mode(mode(time))(2.0), 2 * t / 4, rtol=1e-6)


def test_jit_vmap_and_float32():
    starts = jnp.array([[1.0, 0.0], [0.0, 1.0], [-0.5, 0.5], [3.0, -3.0]])
    one = lambda x: around(x, flow=LIGHT)
    batch = jax.jit(jax.vmap(one))(starts)
    for i, x in enumerate(starts):
        for a, b in zip(jax.tree.leaves(one(x)), jax.tree.leaves(batch), strict=True):
            np.testing.assert_allclose(a, b[i], rtol=1e-13, atol=1e-14)
    section = poincare_section(
        circle, X.astype(jnp.float32), X, 0.0, jnp.float32(2.0), crossings=4, dt=0.05,
        max_time=20.0,
    )  # fmt: skip
    assert section.times.dtype == section.points.dtype == jnp.float32
    exact = np.array([3, 7, 11, 15]) * np.pi / 4
    np.testing.assert_allclose(section.times, exact, rtol=3e-6)
    assert float(section.residual.max()) < 1e-6


def test_lorenz_maxima_follow_a_cusp_map():
    # Successive maxima of z: zeros of z' = x y - 8/3 z from above.
    turning = lambda x: x[0] * x[1] - 8 / 3 * x[2]
    section = poincare_section(
        lorenz, jnp.array([1.0, 2.0, 20.0]), turning, crossings=200, direction=-1,
        dt=0.01, max_time=300.0,
    )  # fmt: skip
    assert bool(section.mask.all()) and float(section.residual.max()) < 1e-12
    z = np.asarray(section.points[20:, 2])
    assert 27 < z.min() and z.max() < 48
    # One tent: rises to the cusp near 38.5 and falls after it.
    order = np.argsort(z[:-1])
    before, after = z[:-1][order], z[1:][order]
    cusp = before[np.argmax(after)]
    assert 37.5 < cusp < 39.5
    assert np.all(np.diff(after[before < cusp - 0.2]) > 0)
    assert np.all(np.diff(after[before > cusp + 0.2]) < 0)
    assert 0.6 < float(section.intervals[20:].mean()) < 0.85


@pytest.fixture(scope="module")
def returning():
    # Order 4 in short steps: the small program of the search compiles faster.
    P = return_map(van_der_pol, Y, dt=0.0025, max_time=8.0, flow=LIGHT)
    starts = jnp.array([[-2.0, 0.0], [-1.0, 0.5], [-3.0, 0.0]])
    points = eqx.filter_jit(rdd.fixed_points)(
        P, starts, jnp.asarray(1.0), strategy=ALONE
    )
    return P, points


def test_fixed_point_of_the_return_map_is_the_cycle(returning):
    P, points = returning
    assert int(points.mask.sum()) == 1 and int(points.verdict[0]) == Verdict.root
    assert int(points.stability[0]) == -1 and points.kind == "map"
    x, mu = points.x[0], jnp.asarray(1.0)
    np.testing.assert_allclose(x, [-2.0086198608748431365, 0], atol=1e-9)
    np.testing.assert_allclose(P.F.time(x, mu), 6.66328685932313018969968, rtol=1e-10)
    fine = return_map(van_der_pol, Y, dt=0.05, max_time=10.0)
    np.testing.assert_allclose(
        fine.F.time(jnp.array([-2.0086198608748431365, 0]), mu),
        6.66328685932313018969968,
        rtol=1e-13,
    )
    moduli = np.sort(np.abs(points.eigenvalues[0]))
    # The error of the step; order 8 agrees to 2e-10.
    np.testing.assert_allclose(moduli[1], 8.596950636038051862e-4, rtol=1e-7)
    assert moduli[0] < 1e-12  # the direction off the section


@pytest.mark.slow
def test_gradient_of_the_period_through_the_return_map():
    P = return_map(van_der_pol, Y, dt=0.05, max_time=10.0)

    def period(mu):
        points = rdd.fixed_points(P, jnp.array([[-2.0, 0.0]]), mu, strategy=ALONE)
        return P.F.time(points.x[0], mu), jnp.abs(points.eigenvalues[0]).max()

    for mode in (jax.grad, jax.jacfwd):
        go = jax.jit(mode(period, has_aux=True))
        slope, multiplier = go(jnp.asarray(1.0))
        np.testing.assert_allclose(multiplier, 8.596950636038051862e-4, rtol=1e-9)
        np.testing.assert_allclose(slope, 0.73159659776592525374, rtol=1e-9)


def test_return_map_of_stuart_landau():
    # r' = r (mu - r^2): the map is explicit, and so are its multiplier and time.
    mu = jnp.asarray(0.25)
    P = return_map(stuart_landau, Y, dt=0.05, max_time=20.0)
    x, T = jnp.array([0.5, 0.0]), 7.1807832082052416879
    values = jax.jit(lambda x, mu: (P(x, mu), P.F.time(x, mu), jax.jacfwd(P)(x, mu)))
    image, time, jac = values(x, mu)
    np.testing.assert_allclose(image, x, atol=1e-12)
    np.testing.assert_allclose(time, T, rtol=1e-12)
    np.testing.assert_allclose(jac[0, 0], np.exp(-0.5 * T), rtol=1e-10)
    np.testing.assert_allclose(jac[1], 0, atol=1e-12)
    # A point beside the section is moved onto it first, along its normal.
    np.testing.assert_allclose(jac[:, 1], 0, atol=1e-12)
    # Against the orbit r^2 = mu / (1 - (1 - mu / r0^2) exp(-2 mu t)).
    image, time, _ = values(jnp.array([1.0, 0.3]), mu)
    r2 = 0.25 / (1 - 0.75 * np.exp(-0.5 * float(time)))
    np.testing.assert_allclose(image, [np.sqrt(r2), 0], atol=1e-12)


def test_no_return_is_no_fixed_point():
    P = return_map(circle, Y, dt=0.05, max_time=2.0, flow=LIGHT)
    x = jnp.array([1.0, 0.0])
    assert jnp.isnan(P(x, jnp.asarray(1.0))).all()
    assert jnp.isnan(P.F.time(x, jnp.asarray(1.0)))
    assert not P.F.section(x, jnp.asarray(1.0)).mask.any()


def test_stiff_flow_by_diffrax():
    flow = DiffraxFlow(
        dfx.Kvaerno5(),
        dfx.PIDController(rtol=1e-6, atol=1e-6),
        adjoint=dfx.DirectAdjoint(),
        max_steps=2048,
    )

    # Fast collapse onto the circle of radius 1 at a rate of 2e3.
    def field(t, x, w):
        return circle(t, x, w) + 1e3 * x * (1 - jnp.sum(x**2))

    section = poincare_section(
        field, 2 * X, X, 0.0, jnp.asarray(1.0), crossings=2, dt=0.5, max_time=15.0,
        flow=flow,
    )  # fmt: skip
    exact = 1.5 * np.pi + 2 * np.pi * np.arange(2)
    np.testing.assert_allclose(section.times, exact, rtol=1e-5)  # the solver's own
    assert float(section.residual.max()) < 1e-12


def test_a_crossing_after_the_time_is_over_is_none():
    turn = lambda t, x, a: jnp.stack([-x[1], x[0]])
    options = {"crossings": 1, "direction": -1, "dt": 2.0}
    late = poincare_section(turn, X, jnp.array([0.0, 1.0]), max_time=2.5, **options)
    assert not late.mask[0] and late.times[0] == 0 and np.all(late.points == 0)
    found = poincare_section(turn, X, jnp.array([0.0, 1.0]), max_time=3.2, **options)
    np.testing.assert_allclose(found.times, [np.pi], rtol=1e-4)  # long steps
    P = return_map(turn, jnp.array([0.0, 1.0]), direction=-1, dt=2.0, max_time=2.5)
    assert np.all(np.isnan(P(X, None)))


def test_a_driven_flow_has_sections_but_no_return_map():
    def driven(t, x, a):
        return jnp.stack([x[1], -0.2 * x[1] + x[0] - x[0] ** 3 + 0.3 * jnp.cos(t)])

    options, start = {"dt": 0.02, "max_time": 60.0}, jnp.array([0.0, 1.0])
    found = poincare_section(driven, start, X, crossings=2, **options)
    np.testing.assert_allclose(found.points[1, 1], 0.775005708, rtol=1e-8)  # SciPy
    P = return_map(driven, X, **options)
    with pytest.raises(ValueError, match="changes with time"):
        P(start, None)
    with pytest.raises(ValueError, match="written with its time"):
        jax.jit(lambda x: P(x, None))(start)


def test_bad_input():
    ok = {"crossings": 1, "dt": 0.1, "max_time": 1.0}
    go = lambda x=X, normal=X, offset=0.0, **kw: poincare_section(
        circle, x, normal, offset, 1.0, **(ok | kw)
    )
    for match, options in {
        "`x0` has shape": {"x": jnp.ones((2, 2))},
        "dtype int": {"x": jnp.array([1, 0])},
        "`normal` has shape": {"normal": jnp.ones(3)},
        "`normal` is 0": {"normal": jnp.zeros(2)},
        "crossings = 0": {"crossings": 0},
        "`direction` = 2": {"direction": 2},
        "`dt` = 0": {"dt": 0.0},
        "`max_time` = 0.01": {"max_time": 0.01},
    }.items():
        with pytest.raises(ValueError, match=match):
            go(**options)
    with pytest.raises(ValueError, match="got a Map"):
        poincare_section(Map(lambda x, a: x), X, X, **ok)
    with pytest.raises(ValueError, match="got a Map"):
        return_map(Map(lambda x, a: x), X, dt=0.1, max_time=1.0)
    with pytest.raises(ValueError, match="one component"):
        return_map(circle, jnp.ones(3), dt=0.1, max_time=1.0)(X, 1.0)
    with pytest.raises(ValueError, match="returns shape"):
        go(normal=lambda x: x)
    with pytest.raises(ValueError, match="is traced"):
        jax.jit(lambda dt: go(dt=dt).times)(0.1)
