"""Limit cycles from many starts, and their float64 verdicts."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import lorenz, van_der_pol

import rnndyn as rd
import rnndyn.dynamics as rdd
from rnndyn import Verdict


PERIOD = 6.66328685932313018969968  # van der Pol, mu = 1


@pytest.fixture(scope="module")
def cycle():
    return rdd.limit_cycle(van_der_pol, jnp.array([2.0, 0.0]), 6.6, 1.0)


def nested(t, x, args):
    """r' = .3 r (r - 1)(2 - r)(r - 3), theta' = 1: cycles at r = 1 and 3 are stable,
    the one at r = 2 is not."""
    r = jnp.sqrt(jnp.vdot(x, x) + 1e-30)
    return 0.3 * (r - 1) * (2 - r) * (r - 3) * x + jnp.stack([-x[1], x[0]])


def network(t, x, W):
    return -x + W @ jnp.tanh(x)


def oscillating(key, size, rotation=2.0):
    """Random networks with a rotation planted in their first two units."""
    W = 0.3 * jr.normal(key, (size, size)) / np.sqrt(size)
    return W.at[:2, :2].set(jnp.array([[1.8, -rotation], [rotation, 1.8]]))


def test_nested_cycles_are_found_and_told_apart():
    x0s = 2 * jr.normal(jr.key(0), (8, 2))
    result = rd.certify(rdd.limit_cycles(nested, x0s))
    found = result.found()
    assert len(found) == 3
    radii = np.sort([np.linalg.norm(c.x0) for c in found])
    np.testing.assert_allclose(radii, [1, 2, 3], rtol=1e-10)
    for cycle in found:
        r = np.linalg.norm(cycle.x0)
        # d/dr of the radial speed: .3 r (r-1)(2-r)(r-3) at its zeros.
        slope = {1: -0.6, 2: 0.6, 3: -1.8}[round(float(r))]
        np.testing.assert_allclose(cycle.period, 2 * np.pi, rtol=1e-10)
        np.testing.assert_allclose(cycle.margin, 2 * np.pi * slope, rtol=1e-8)
        assert int(cycle.stability) == np.sign(slope) and float(cycle.error) < 1e-9
    # Every guess on a cycle carries its index; the others say why not.
    on = np.asarray(result.index) >= 0
    assert (np.asarray(result.verdict)[on] == Verdict.limit_cycle).all()
    assert (np.asarray(result.verdict)[~on] != Verdict.limit_cycle).all()


def test_one_cycle_from_many_phases_is_one_cycle():
    x0s = 2 * jr.normal(jr.key(1), (12, 2))
    result = rdd.limit_cycles(van_der_pol, x0s)
    assert int(result.mask.sum()) == 1 and not bool(result.overflow)
    (cycle,) = result.found()
    np.testing.assert_allclose(cycle.period, PERIOD, rtol=1e-10)
    assert (np.asarray(result.index)[:, 0] == 0).all()


@pytest.mark.slow
def test_mirror_images_are_two_cycles():
    """x'' = mu (1 - (x - s)^2)... twice: two copies, one the mirror image of the
    other, of the same period."""

    def pair(t, x, args):
        # A symmetric double well in z selects where the oscillator sits.
        z = x[2]
        centre = z
        v = van_der_pol(t, jnp.stack([x[0] - centre, x[1]]), 1.0)
        return jnp.concatenate([v, jnp.stack([z - z**3])])

    x0s = jr.normal(jr.key(2), (10, 3))
    result = rdd.limit_cycles(pair, x0s, strategy=rdd.CloseReturns(backward=False))
    found = [c for c in result.found() if int(c.stability) == -1]
    assert len(found) == 2
    means = sorted(float(jnp.mean(c.orbit[:-1, 0])) for c in found)
    np.testing.assert_allclose(means, [-1, 1], atol=1e-6)


def test_unstable_cycles_of_lorenz_from_close_returns():
    strategy = rdd.CloseReturns(
        max_period=4.0, transient=20.0, backward=False, per_record=2
    )
    x0s = 10 * jr.normal(jr.key(0), (8, 3))
    result = rdd.limit_cycles(lorenz, x0s, strategy=strategy, max_cycles=12)
    found = result.found()
    periods = np.sort([float(c.period) for c in found])
    # AB, and AAB with its mirror image (Viswanath 2003).
    assert np.min(abs(periods - 1.5586522107161747)) < 1e-9
    assert np.sum(abs(periods - 2.3059072639398490) < 1e-9) == 2
    assert all(int(c.stability) == 1 for c in found)


def test_nothing_to_find():
    # Decay to the origin, or escape to infinity, by the sign.
    field = lambda t, x, sign: sign * (x + x**3)
    x0s = jr.normal(jr.key(0), (4, 2))
    for sign, verdict in ((-1.0, Verdict.constant), (1.0, Verdict.diverged)):
        result = rdd.limit_cycles(field, x0s, sign)
        assert not bool(result.mask.any()) and result.found() == []
        assert (np.asarray(result.verdict[:, 0]) == verdict).all()


def test_networks_in_one_program_as_one_by_one():
    keys = jr.split(jr.key(3), 3)
    Ws = jnp.stack([oscillating(keys[i], 6, 1.0 + i) for i in range(3)])
    x0s = jr.normal(jr.key(4), (4, 6))
    traces = []

    @eqx.filter_jit
    def many(Ws):
        traces.append(1)
        return eqx.filter_vmap(lambda W: rdd.limit_cycles(network, x0s, W))(Ws)

    batch = many(Ws)
    many(Ws + 0.001)
    assert len(traces) == 1
    for i, W in enumerate(Ws):
        alone = rdd.limit_cycles(network, x0s, W)
        one = jax.tree.map(lambda a, i=i: a[i] if eqx.is_array(a) else a, batch)
        assert np.array_equal(one.mask, alone.mask) and bool(alone.mask.any())
        np.testing.assert_allclose(
            one.cycles.period[one.mask], alone.cycles.period[alone.mask], rtol=1e-9
        )


@pytest.mark.slow
def test_certificate_of_a_batch():
    Ws = jnp.stack([oscillating(k, 6) for k in jr.split(jr.key(3), 3)])
    x0s = jr.normal(jr.key(4), (4, 6))
    one = lambda W: rdd.limit_cycles(network, x0s, W)
    batch = eqx.filter_jit(eqx.filter_vmap(one))(Ws)
    certified = rd.certify(batch)
    assert np.array_equal(certified.mask, batch.mask)
    assert np.asarray(certified.cycles.error)[certified.mask].max() < 1e-9


@pytest.mark.slow
def test_gradient_of_the_period_of_a_cycle_found():
    W = oscillating(jr.key(5), 4)
    x0s = jr.normal(jr.key(6), (3, 4))
    D = jr.normal(jr.key(7), W.shape)
    period = lambda W: rdd.limit_cycles(network, x0s, W, max_cycles=2).cycles.period[0]
    gradient = jax.jit(jax.grad(period))(W)
    h, value = 1e-5, jax.jit(period)
    central = (value(W + h * D) - value(W - h * D)) / (2 * h)
    np.testing.assert_allclose(jnp.sum(gradient * D), central, rtol=1e-6)


@pytest.mark.slow
def test_float32_search_then_float64_verdict():
    x0s = jr.normal(jr.key(8), (4, 2), jnp.float32)
    mu = jnp.float32(1.0)
    result = rdd.limit_cycles(van_der_pol, x0s, mu)
    assert result.cycles.period.dtype == jnp.float32
    assert int(result.mask.sum()) == 1
    (cycle,) = rd.certify(result).found()
    assert cycle.period.dtype == np.float64
    np.testing.assert_allclose(cycle.period, PERIOD, rtol=1e-10)


def test_float32_cycle_then_float64_verdict():
    start = jnp.array([2.0, 0.0], jnp.float32)
    cycle = rdd.limit_cycle(van_der_pol, start, 6.6, jnp.float32(1.0))
    assert cycle.period.dtype == jnp.float32 and np.isnan(cycle.error)
    certified = rd.certify(cycle)
    assert certified.period.dtype == np.float64 and float(certified.error) < 1e-9
    np.testing.assert_allclose(certified.period, PERIOD, rtol=1e-10)


def test_too_long_steps_are_not_believed():
    # The orbit closes to rounding with steps that are too long for mu = 20.
    cycle = rdd.limit_cycle(van_der_pol, jnp.array([2.0, 0.0]), 34.7, 20.0)
    assert float(cycle.residual) < 1e-12
    assert int(cycle.verdict) == Verdict.undetermined


def test_period_reduction(cycle):
    for turns in (2, 3, 4):
        again = rdd.limit_cycle(van_der_pol, jnp.array([2.0, 0.0]), turns * 6.66, 1.0)
        np.testing.assert_allclose(again.period, PERIOD, rtol=1e-10)


@pytest.mark.slow
def test_period_is_kept_if_wished():
    start = jnp.array([2.0, 0.0])
    kept = rdd.limit_cycle(van_der_pol, start, 13.32, 1.0, reduce_period=False)
    np.testing.assert_allclose(kept.period, 2 * PERIOD, rtol=1e-10)


def test_phase_response_of_the_radial_clock():
    """r' = lam r (1 - r^2), theta' = w: Z = (-sin, cos) / (r w), in time units."""
    w, lam = 2.0, 0.7

    def clock(t, x, args):
        grow = lam * (1 - jnp.vdot(x, x))
        return grow * x + w * jnp.stack([-x[1], x[0]])

    cycle = rdd.limit_cycle(clock, jnp.array([1.1, 0.2]), 3.0).check()
    x, y = np.asarray(cycle.orbit).T
    expected = np.stack([-y, x], axis=1) / w
    np.testing.assert_allclose(cycle.phase_response, expected, atol=1e-9)


def test_phase_response_gives_the_derivative_of_the_period(cycle):
    """dT/dmu = - integral of Z . df/dmu over the orbit."""
    x, v = np.asarray(cycle.orbit[:-1]).T
    push = np.asarray(cycle.phase_response)[:-1, 1] * (1 - x**2) * v
    np.testing.assert_allclose(
        -push.mean() * float(cycle.period), 0.73159659776592525374, rtol=1e-8
    )


def test_amplitude(cycle):
    low, high = jax.jit(lambda: cycle.extrema(lambda x: x[0]))()
    np.testing.assert_allclose(high, 2.0086198608748431365, rtol=1e-12)
    np.testing.assert_allclose(low, -high, rtol=1e-12)


@pytest.mark.slow
def test_derivative_of_the_amplitude():
    def amplitude(mu):
        cycle = rdd.limit_cycle(van_der_pol, jnp.array([2.0, 0.0]), 6.6, mu)
        return cycle.extrema(lambda x: x[0])[1]

    for derivative in (jax.grad, jax.jacfwd):
        slope = jax.jit(derivative(amplitude))(1.0)
        np.testing.assert_allclose(slope, 0.0138741316510, rtol=1e-8)


def test_state_at_any_time(cycle):
    times = jnp.array([0.0, 0.37, 5.0, -1.2, 100.0])
    got = jax.jit(jax.vmap(cycle.at))(times)
    exact = dfx.diffeqsolve(
        dfx.ODETerm(van_der_pol), dfx.Dopri8(), 0.0, float(cycle.period), 0.01,
        cycle.x0, 1.0, saveat=dfx.SaveAt(ts=jnp.sort(times % cycle.period)),
        stepsize_controller=dfx.PIDController(rtol=1e-12, atol=1e-12),
    )  # fmt: skip
    order = jnp.argsort(times % cycle.period)
    np.testing.assert_allclose(got[order], exact.ys, atol=1e-9)


def test_jumps_between_recorded_states():
    """van der Pol at mu = 20: jumps a tenth as long as the time between two states of
    a record, and steps of the search that close the orbit without deciding on it."""
    result = rdd.limit_cycles(van_der_pol, jr.normal(jr.key(0), (8, 2)), 20.0)
    assert "undecided" in str(result)
    forward = np.asarray(result.verdict)[:, :2]
    assert (forward != Verdict.diverged).all()
    result = rd.certify(result)
    (cycle,) = result.found()
    # Radau at a relative tolerance of 1e-12.
    np.testing.assert_allclose(cycle.period, 34.6823233117, rtol=1e-10)
    assert int(cycle.stability) == -1 and float(cycle.error) < 1e-9
    on = np.asarray(result.index) == 0
    assert (
        on.sum() >= 8 and (np.asarray(result.verdict)[on] == Verdict.limit_cycle).all()
    )


@pytest.mark.slow
def test_stiff_relaxation_oscillator_by_an_implicit_solver():
    controller = dfx.PIDController(rtol=1e-10, atol=1e-10)
    flow = rd.DiffraxFlow(
        dfx.Kvaerno5(), controller, adjoint=dfx.DirectAdjoint(), max_steps=16384
    )
    start = jnp.array([2.0, -1e-3])
    solve = lambda mu, period, pieces: rdd.limit_cycle(
        van_der_pol, start, period, mu, flow=flow, floquet_segments=pieces
    )
    # Against the explicit method of order 8 on an adapted mesh.
    explicit = rd.certify(
        rdd.limit_cycle(van_der_pol, jnp.array([2.0, -0.03]), 34.7, 20.0)
    )
    cycle = solve(20.0, 34.7, 60)
    assert int(explicit.verdict) == Verdict.limit_cycle
    assert int(cycle.verdict) == Verdict.limit_cycle and int(cycle.stability) == -1
    np.testing.assert_allclose(cycle.period, explicit.period, rtol=1e-9)
    stiffer = solve(100.0, 162.84, 600)
    assert int(stiffer.verdict) == Verdict.limit_cycle
    # (3 - 2 ln 2) mu + 7.01432 mu^(-1/3) - ..., Dorodnicyn's expansion, to O(ln mu/mu).
    leading = (3 - 2 * np.log(2)) * 100 + 7.014322 * 100 ** (-1 / 3)
    np.testing.assert_allclose(stiffer.period, leading, rtol=2e-3)
    # By scipy (Radau, rtol 1e-10): the integral of the divergence over a period, of
    # which the products of the solver's Jacobians keep a quarter.
    lost = solve(50.0, 82.5, 60)
    assert float(lost.margin) > -3000
    found = rd.certify(lost)
    np.testing.assert_allclose(found.margin, -7296.823865, rtol=1e-8)
    assert int(found.stability) == -1 and float(found.log_error) < 1e-6


@pytest.mark.slow
def test_multipliers_that_a_solver_loses_are_in_the_error():
    """Beside van der Pol a state that decays by e^-1000 in every piece, far below the
    tolerance: its logarithm, -1e4 T, comes out too small at any step."""

    def beside(t, x, args):
        fast = van_der_pol(t, x[:2], 1.0)
        return jnp.append(fast, -1e4 * x[2])

    flow = rd.DiffraxFlow(dfx.Kvaerno5(), adjoint=dfx.DirectAdjoint(), max_steps=2**14)
    cycle = rdd.limit_cycle(beside, jnp.array([2.0, 0, 0]), 6.6, flow=flow)
    cycle = rd.certify(cycle)
    assert int(cycle.verdict) == Verdict.limit_cycle and int(cycle.stability) == -1
    true = -1e4 * float(cycle.period)
    error = abs(float(cycle.log_multipliers[-1].real) / true - 1)
    assert error > 1e-2 and float(cycle.log_error) > 0.5 * error


def test_a_solver_out_of_steps_is_no_divergence():
    flow = rd.DiffraxFlow(
        dfx.Kvaerno5(), adjoint=dfx.DirectAdjoint(), max_steps=4, throw=False
    )
    cycle = rdd.limit_cycle(van_der_pol, jnp.array([2.0, 0]), 6.6, 1.0, flow=flow)
    assert int(cycle.verdict) == Verdict.undetermined
    blow_up = lambda t, x, a: x**3 + jnp.array([-x[1], x[0]])
    cycle = rdd.limit_cycle(blow_up, jnp.array([2.0, 1.0]), 6.6)
    assert int(cycle.verdict) == Verdict.diverged


def test_bad_input():
    with pytest.raises(ValueError, match="got a Map"):
        rdd.limit_cycles(rd.Map(lambda x, a: x), jnp.ones((2, 2)))
    with pytest.raises(ValueError, match=r"shape \(starts, state\)"):
        rdd.limit_cycles(van_der_pol, jnp.ones(2))
    with pytest.raises(ValueError, match="max_cycles"):
        rdd.limit_cycles(van_der_pol, jnp.ones((2, 2)), max_cycles=0)
    for unit in (-1.0, 0.0, float("nan")):
        with pytest.raises(ValueError, match="`time_scale` = "):
            rdd.limit_cycles(van_der_pol, jnp.ones((2, 2)), time_scale=unit)
    with pytest.raises(ValueError, match="CloseReturns got"):
        rdd.CloseReturns(samples=8)
    with pytest.raises(ValueError, match="one dtype"):
        rdd.limit_cycle(van_der_pol, jnp.ones(2, jnp.float32), 6.0, jnp.float64(1.0))


@pytest.mark.slow
def test_networks_spread_over_devices():
    Ws = jnp.stack([oscillating(k, 6) for k in jr.split(jr.key(3), 4)])
    x0s = jr.normal(jr.key(4), (4, 6))
    one = lambda W: rdd.limit_cycles(network, x0s, W, max_cycles=2)
    mapped = lambda Ws: rd.map_members(one, Ws, mesh=rd.device_mesh())
    spread = eqx.filter_jit(mapped)(Ws)
    assert len(spread.cycles.period.sharding.device_set) == 2
    for i, W in enumerate(Ws):
        alone = one(W)
        assert np.array_equal(spread.mask[i], alone.mask) and bool(alone.mask[0])
        np.testing.assert_allclose(
            spread.cycles.period[i, 0], alone.cycles.period[0], rtol=1e-10
        )
