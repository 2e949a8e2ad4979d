"""Flows against closed forms, each other and scipy's DOP853."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import pytest
from helpers import all_models, lorenz, van_der_pol
from scipy.integrate import solve_ivp

import rnndyn as rd


flows = rd.flows


def decay(t, x, args):
    return -x if args is None else -x + args


@pytest.mark.parametrize(
    "method, order",
    [
        (flows.Euler(), 1),
        (flows.Heun(), 2),
        (flows.RK4(), 4),
        (flows.Dopri8(), 8),
        (flows.Dop853(), 8),
    ],
    ids=["euler", "heun", "rk4", "dopri8", "dop853"],
)
def test_order_of_convergence(method, order):
    field = lambda t, x, args: x * jnp.cos(t)  # x = exp(sin t)
    steps = {1: 200, 2: 50, 4: 20, 8: 4}[order]
    errors = [
        abs(
            flows.ScanFlow(num_steps=n, method=method)(field, jnp.ones(1), 0.0, 2.0)[0]
            - np.exp(np.sin(2.0))
        )
        for n in (steps, 2 * steps)
    ]
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.1 * order


@pytest.mark.parametrize("field", [van_der_pol, lorenz], ids=["van der Pol", "Lorenz"])
def test_both_flows_match_dop853(field):
    x0 = jnp.array([1.0, 2.0, 20.0])[: 2 if field is van_der_pol else 3]
    ts = np.linspace(0, 1.0, 6)
    exact = solve_ivp(
        lambda t, x: np.asarray(field(t, x, None)),
        (0, 1),
        np.asarray(x0),
        method="DOP853",
        t_eval=ts,
        rtol=1e-13,
        atol=1e-13,
    ).y.T
    scan = flows.ScanFlow(num_steps=100, method=flows.Dopri8())
    adaptive = flows.DiffraxFlow(
        dfx.Dopri8(), dfx.PIDController(rtol=1e-12, atol=1e-12)
    )
    for flow in (scan, adaptive):
        path = flow.trajectory(field, x0, ts)
        assert bool(path.ok)
        np.testing.assert_allclose(path.xs, exact, rtol=1e-10, atol=1e-10)
        end = flow(field, x0, 0.0, 1.0)
        np.testing.assert_allclose(end, exact[-1], rtol=1e-10, atol=1e-10)


def test_scan_flow_by_dt_takes_equal_steps_to_the_end():
    flow = flows.ScanFlow(dt=0.3, method=flows.Euler())
    x = flow(decay, jnp.ones(1), 0.0, 1.0)
    np.testing.assert_allclose(x, (1 - 0.25) ** 4, rtol=1e-14)
    exact = flows.ScanFlow(dt=0.1, method=flows.Euler())(decay, jnp.ones(1), 0.0, 0.3)
    np.testing.assert_allclose(exact, 0.9**3, rtol=1e-14)


def test_euler_flow_is_the_models_map(getkey):
    for model in all_models(getkey()).values():
        dt = 0.005
        inputs = jr.normal(getkey(), (12, 2))
        flow = flows.ScanFlow(dt=dt, method=flows.Euler())
        held = flows.HeldInput(inputs, dt)
        ts = dt * np.arange(13)
        by_flow = flow.trajectory(model, model.x0 + 0.1, ts, held).xs[1:]
        by_map = flows.iterate(model.map(dt), model.x0 + 0.1, 12, inputs)
        np.testing.assert_allclose(by_flow, by_map, rtol=1e-12, atol=1e-13)


def test_gradient_in_both_modes_and_by_traced_end_time():
    flow = flows.ScanFlow(num_steps=50)

    def end(mu, t1):
        return flow(van_der_pol, jnp.array([1.0, 0.5]), 0.0, t1, mu)[0]

    point = (1.0, 2.0)
    reverse = jax.jit(jax.grad(end, argnums=(0, 1)))(*point)
    forward = jax.jacfwd(end, argnums=(0, 1))(*point)
    h = 1e-5
    central = (
        (end(1 + h, 2.0) - end(1 - h, 2.0)) / (2 * h),
        (end(1.0, 2 + h) - end(1.0, 2 - h)) / (2 * h),
    )
    np.testing.assert_allclose(reverse, forward, rtol=1e-12)
    np.testing.assert_allclose(reverse, central, rtol=1e-8)


def test_direct_adjoint_differentiates_both_ways():
    flow = flows.DiffraxFlow(adjoint=dfx.DirectAdjoint(), max_steps=256)

    def end(mu):
        return flow(van_der_pol, jnp.array([1.0, 0.5]), 0.0, 1.0, mu)[0]

    np.testing.assert_allclose(jax.grad(end)(1.0), jax.jacfwd(end)(1.0), rtol=1e-9)


def test_held_input_is_exact_for_scan_and_adaptive_flows():
    values = jnp.array([[1.0], [-2.0], [0.5]])
    held = flows.HeldInput(values, 0.1)
    field = lambda t, x, u: -x + (u(t) if callable(u) else u)
    x = 0.0
    for v in (1.0, -2.0, 0.5):
        x = v + (x - v) * np.exp(-0.1)
    scan = flows.ScanFlow(dt=0.01, method=flows.Dopri8())
    adaptive = flows.DiffraxFlow(controller=dfx.PIDController(rtol=1e-12, atol=1e-12))
    for flow in (scan, adaptive):
        got = flow(field, jnp.zeros(1), 0.0, 0.3, held)
        np.testing.assert_allclose(got, x, rtol=1e-11)


def test_pulse_input():
    pulse = flows.PulseInput([2.0], 0.1, 0.2)
    np.testing.assert_allclose(
        jax.vmap(pulse)(jnp.array([0.0, 0.1, 0.2, 0.31]))[:, 0], [0, 2, 2, 0]
    )
    flow = flows.DiffraxFlow(controller=dfx.PIDController(rtol=1e-11, atol=1e-11))
    field = lambda t, x, u: -x + u(t)
    got = flow(field, jnp.zeros(1), 0.0, 0.5, pulse)
    np.testing.assert_allclose(got, 2 * (1 - np.exp(-0.2)) * np.exp(-0.2), rtol=1e-9)


@pytest.mark.parametrize("adaptive", [False, True])
def test_noise_has_the_stationary_variance_of_ornstein_uhlenbeck(adaptive, getkey):
    if adaptive:
        flow = flows.DiffraxFlow(dfx.Euler(), sigma=0.5, dt0=0.02)
    else:
        flow = flows.ScanFlow(dt=0.02, method=flows.EulerMaruyama(0.5))
    keys = jr.split(getkey(), 2000)
    x = jax.vmap(lambda k: flow(decay, jnp.zeros(2), 0.0, 4.0, key=k))(keys)
    # Var = sigma^2/2, with the Euler correction 1/(1 - dt/2).
    expected = 0.125 / (1 - 0.01)
    assert abs(np.var(x) / expected - 1) < 4 * (2 / 4000) ** 0.5


def test_event_stops_a_diffrax_flow():
    event = dfx.Event(lambda t, x, args, **kw: x[0] - 0.5, None)
    flow = flows.DiffraxFlow(event=event, throw=False)
    assert float(flow(decay, jnp.ones(1), 0.0, 10.0)[0]) < 0.6


def test_float32_stays_float32_in_a_float64_process():
    x0 = jnp.ones(2, jnp.float32)
    for flow in (flows.ScanFlow(dt=0.1), flows.DiffraxFlow()):
        assert flow(decay, x0, 0.0, 1.0).dtype == jnp.float32


def test_jit_and_vmap_agree_with_eager():
    flow = flows.ScanFlow(num_steps=20)
    x0s = jnp.array([[1.0, 0.0], [0.2, -1.0]])
    run = lambda x0: flow(van_der_pol, x0, 0.0, 1.0)
    loop = jnp.stack([run(x0) for x0 in x0s])
    np.testing.assert_allclose(jax.vmap(run)(x0s), loop, rtol=1e-13)
    np.testing.assert_allclose(jax.jit(run)(x0s[0]), loop[0], rtol=1e-13)


def test_failed_solves_say_so():
    blow_up = lambda t, x, args: x**2
    path = flows.ScanFlow(dt=0.01).trajectory(
        blow_up, jnp.ones(1), jnp.array([0.0, 5.0])
    )
    assert not bool(path.ok)
    lazy = flows.DiffraxFlow(max_steps=8, throw=False)
    assert not bool(
        lazy.trajectory(van_der_pol, jnp.ones(2), jnp.array([0.0, 50.0])).ok
    )


def test_bad_input():
    with pytest.raises(ValueError, match="exactly one"):
        flows.ScanFlow()
    with pytest.raises(ValueError, match="dt = -1.0, expected > 0"):
        flows.ScanFlow(dt=-1.0)
    for end in (np.nan, np.inf):
        with pytest.raises(ValueError, match="times are .*, expected finite"):
            flows.ScanFlow(dt=0.1)(decay, jnp.ones(1), 0.0, end)
    with pytest.raises(ValueError, match="values has shape .0, 2., expected at least"):
        flows.HeldInput(jnp.zeros((0, 2)), 0.1)
    with pytest.raises(ValueError, match="num_steps"):
        jax.jit(lambda t: flows.ScanFlow(dt=0.1)(decay, jnp.ones(1), 0.0, t))(1.0)
    with pytest.raises(ValueError, match="expected floats"):
        flows.ScanFlow(dt=0.1)(decay, jnp.ones(1, int), 0.0, 1.0)
    with pytest.raises(ValueError, match="dt0 = None"):
        flows.DiffraxFlow(dfx.Euler(), sigma=1.0)(
            decay, jnp.ones(1), 0.0, 1.0, key=jax.random.key(0)
        )
    with pytest.raises(ValueError, match="PRNG key"):
        flows.ScanFlow(dt=0.1, method=flows.EulerMaruyama(1.0))(
            decay, jnp.ones(1), 0.0, 1.0
        )


def test_noise_of_many_short_steps_is_white(getkey):
    # Euler steps of x' = -500 x + dW: x <- a x + dW, a = 1/2, variance dt / (1 - a^2).
    dt, steps = 1e-3, 12_000
    flow = rd.flows.DiffraxFlow(solver=dfx.Euler(), dt0=dt, sigma=1.0)
    ts = dt * jnp.arange(0, steps, 1)
    f = lambda t, x, args: -500 * x
    x = flow.trajectory(f, jnp.zeros(8), ts, key=getkey()).xs[100:]
    np.testing.assert_allclose(jnp.var(x), dt / 0.75, rtol=0.05)
    lag = jnp.mean(x[1:] * x[:-1]) / jnp.mean(x**2)
    np.testing.assert_allclose(lag, 0.5, atol=0.02)


def test_states_after_an_event_are_not_ok():
    stop = dfx.Event(lambda t, y, args, **kwargs: y[0] > 0.5)
    flow = rd.flows.DiffraxFlow(event=stop)
    run = flow.trajectory(lambda t, x, args: 1 + 0 * x, jnp.zeros(1), jnp.arange(3.0))
    assert not run.ok


def test_noise_is_white_where_adaptive_steps_are_far_below_the_first(getkey):
    # One step of Heun's method takes x' = -500 x to (1 - h + h^2/2) x, h = 1/2.
    dt, steps = 1e-3, 6000
    short = dfx.PIDController(rtol=1e6, atol=1e6, dtmax=dt)
    flow = rd.flows.DiffraxFlow(dfx.Heun(), short, sigma=1.0, dt0=0.1)
    f = lambda t, x, args: -500 * x
    x = flow.trajectory(f, jnp.zeros(16), dt * jnp.arange(steps), key=getkey()).xs[100:]
    lag = jnp.mean(x[1:] * x[:-1]) / jnp.mean(x**2)
    np.testing.assert_allclose(lag, 0.625, atol=0.02)


def test_time_may_run_backwards_whatever_the_sign_of_the_first_step():
    for dt0 in (0.01, -0.01):
        end = flows.DiffraxFlow(dt0=dt0)(decay, jnp.ones(1), 1.0, 0.0)
        np.testing.assert_allclose(end, np.e, rtol=1e-8)
    noisy = flows.DiffraxFlow(dfx.Euler(), sigma=0.1, dt0=0.01)
    end = noisy(decay, jnp.ones(1), 1.0, 0.0, key=jr.key(0))
    np.testing.assert_allclose(end, np.e, rtol=0.2)


def test_noise_of_no_time_is_none_and_of_nested_states_independent():
    noisy = flows.DiffraxFlow(dfx.Euler(), sigma=0.1, dt0=0.01)
    assert noisy(decay, jnp.ones(1), 1.0, 1.0, key=jr.key(0)) == 1.0
    field = lambda t, x, args: jax.tree.map(jnp.negative, x)
    x0 = {"a": jnp.zeros(2), "b": jnp.zeros(())}
    run = lambda key: noisy(field, x0, 0.0, 1.0, key=key)
    ends = jax.vmap(run)(jr.split(jr.key(0), 1000))
    ends = np.column_stack([ends["a"], ends["b"]])
    expected = 0.01 * (1 - np.exp(-2)) / 2 * np.eye(3)
    np.testing.assert_allclose(np.cov(ends.T), expected, atol=5e-4)


def test_a_time_that_is_nan_is_no_success():
    end = flows.DiffraxFlow(throw=False)(decay, jnp.ones(1), 0.0, jnp.nan)
    assert np.isnan(end).all()


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda: flows.ScanFlow(num_steps=2.5), "num_steps = 2.5, expected a whole"),
        (lambda: flows.ScanFlow(dt="a"), "dt = a, expected > 0"),
        (lambda: flows.ScanFlow(dt=0.1, method=flows.RK4), "method = .*Euler"),
        (lambda: flows.DiffraxFlow(dfx.Tsit5), "solver = .*expected an object"),
        (lambda: flows.DiffraxFlow(dt0=0.0), "dt0 = 0.0"),
        (lambda: flows.HeldInput(jnp.ones((2, 1)), 0.0), "dt = 0.0, expected > 0"),
        (lambda: flows.HeldInput(jnp.ones((2, 1)), jnp.ones(2)), "dt has shape"),
        (lambda: flows.PulseInput(jnp.ones(1), 0.0, -1.0), "duration = -1.0"),
        (lambda: flows.EulerMaruyama(1j), "complex"),
        (lambda: flows.iterate(decay, jnp.ones(1), 3), "expected a rnndyn.Map"),
        (lambda: flows.iterate(rd.Map(decay), jnp.ones(1), 2.5), "num_steps = 2.5"),
    ],
)
def test_bad_parts_are_refused(wrong, words, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=words):
        wrong()


@pytest.mark.parametrize("flow", [flows.ScanFlow(num_steps=4), flows.DiffraxFlow()])
def test_bad_calls_are_refused(flow):
    x0 = jnp.ones(2)
    with pytest.raises(ValueError, match="got a Map"):
        flow(rd.Map(lambda x, args: x), x0, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"times have shape \(2,\)"):
        flow(decay, x0, 0.0, jnp.ones(2))
    for ts in (1.0, jnp.zeros(0), jnp.zeros((2, 2))):
        with pytest.raises(ValueError, match="times have shape"):
            flow.trajectory(decay, x0, ts)
    with pytest.raises(ValueError):
        flow(lambda t, x, args: jnp.ones(3), x0, 0.0, 1.0)


def test_a_number_is_no_key(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    scan = flows.ScanFlow(dt=0.1, method=flows.EulerMaruyama(1.0))
    for flow in (scan, flows.DiffraxFlow(dfx.Euler(), sigma=1.0, dt0=0.1)):
        with pytest.raises(ValueError, match="key = 0, expected a PRNG key"):
            flow(decay, jnp.ones(1), 0.0, 1.0, key=0)
        with pytest.raises(ValueError, match="key = 0, expected a PRNG key"):
            flow.trajectory(decay, jnp.ones(1), jnp.ones(2), key=0)
