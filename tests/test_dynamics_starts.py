"""Samplers and the strategies that add starts."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import rnndyn.dynamics as rdd
from rnndyn import Map, Verdict, flows
from rnndyn.dynamics import Deflation, NoisyRestarts
from rnndyn.dynamics.points._starts import Seen


def decay(t, x, args):
    return -x


def test_samplers_have_their_shape_and_stay_where_they_should(getkey):
    box = rdd.Box(jnp.array([-1.0, 2.0]), jnp.array([0.0, 3.0]), 50)
    x = box(decay, None, key=getkey())
    assert x.shape == (50, 2)
    assert np.all((x >= box.low[None]) & (x <= box.high[None]))
    x = rdd.Gaussian(jnp.array([1.0, 5.0, 0.0]), 400)(decay, None, key=getkey())
    np.testing.assert_allclose(np.std(x, axis=0), [1, 5, 0], rtol=0.2)
    states = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    x = rdd.NearStates(states, 0.0, 5)(decay, None, key=getkey())
    assert np.array_equal(x, states[jnp.array([0, 1, 0, 1, 0])])


def test_states_from_trajectories(getkey):
    x0s = jnp.array([[1.0, 2.0], [2.0, 4.0], [-1.0, -2.0]])
    sampler = rdd.FromTrajectories(x0s, 20, flow=flows.ScanFlow(dt=0.01), duration=1.0)
    x = sampler(decay, None, key=getkey())
    assert x.shape == (20, 2)
    # Trajectories of x' = -x are rays.
    np.testing.assert_allclose(x[:, 1], 2 * x[:, 0])
    assert np.all(np.abs(x[:, 0]) >= np.exp(-1.0) - 1e-6)
    halve = Map(lambda x, args: 0.5 * x)
    x = rdd.FromTrajectories(x0s, 20, num_times=3)(halve, None, key=getkey())
    assert np.all(np.abs(x[:, 0]) >= 0.125)
    with pytest.raises(ValueError, match="ScanFlow"):
        rdd.FromTrajectories(x0s, 20)(decay, None, key=getkey())


def test_sampler_in_place_of_starts(getkey):
    none = rdd.MultiStart(num_large=0, rounds=0)
    sampler = rdd.Gaussian(jnp.ones(2), 8)
    pts = rdd.fixed_points(decay, sampler, strategy=none, key=getkey())
    np.testing.assert_allclose(pts.roots(), [[0.0, 0.0]], atol=1e-12)


def test_scalar_scale_is_refused():
    with pytest.raises(ValueError, match="one number per"):
        rdd.Gaussian(3.0, 8)


def test_given_symmetry_completes_the_set():
    # Roots at the third roots of unity (and 0); rotation by a third of a turn.
    def f(t, x, args):
        re, im = x[0], x[1]
        return jnp.stack([re - re**2 + im**2, im + 2 * re * im])  # z - conj(z)^2

    c, s = np.cos(2 * np.pi / 3), np.sin(2 * np.pi / 3)
    turn = jnp.array([[c, -s], [s, c]])
    search = lambda *symmetries: rdd.fixed_points(
        f,
        jnp.array([[1.1, 0.01]]),
        strategy=rdd.MultiStart(num_large=0, rounds=0, symmetries=symmetries),
    )
    assert int(search().mask.sum()) == 1
    two = search(lambda x: turn @ x, lambda x: turn.T @ x)
    angles = np.sort(np.angle(two.x[two.mask] @ np.array([1, 1j])))
    np.testing.assert_allclose(angles, [-2 * np.pi / 3, 0, 2 * np.pi / 3], atol=1e-12)
    # A wrong symmetry invents nothing.
    assert int(search(lambda x: x + 0.3).mask.sum()) == 1


def test_oddness_is_found_and_not_imagined(getkey):
    probes = jax.random.normal(getkey(), (4, 3))
    strategy = rdd.MultiStart()
    assert strategy.is_odd(lambda x: jnp.tanh(2 * x) - x, probes)
    assert not strategy.is_odd(lambda x: jnp.tanh(2 * x + 1e-9) - x, probes)
    assert not strategy.is_odd(lambda x: x * jnp.nan, probes)


def test_states_after_pulses_and_inside_the_search(getkey):
    leak = lambda t, x, u: -x + (0.0 if u is None else u)
    flow = flows.ScanFlow(dt=0.05)
    amplitudes = jnp.array([[1.0, 0.0], [0.0, -2.0]])
    sampler = rdd.AfterPulses(
        jnp.zeros(2), amplitudes, 30, flow=flow, duration=1.0, after=2.0
    )
    x = sampler(leak, None, key=getkey())
    # One coordinate responds to each pulse and decays from 1 - 1/e of the amplitude.
    assert np.all(np.sort(np.abs(x), axis=1)[:, 0] < 1e-12)
    assert np.abs(x).max() <= 2 * (1 - np.exp(-1.0)) + 1e-6
    assert np.abs(x).max(axis=1).min() >= (1 - np.exp(-1.0)) * np.exp(-2.0) - 1e-6
    paths = rdd.FromTrajectories(jnp.ones((2, 2)), 6, flow=flow, duration=1.0)
    none = rdd.MultiStart(num_large=0, rounds=0)
    for each in (sampler, paths):
        pts = rdd.fixed_points(leak, each, strategy=none, key=getkey())
        np.testing.assert_allclose(pts.roots(), [[0.0, 0.0]], atol=1e-12)
    with pytest.raises(ValueError, match="expected a flow"):
        sampler(Map(lambda x, u: x), None, key=getkey())


NONE = rdd.MultiStart(num_large=0, rounds=0, detect_odd=False)


def quintic(t, x, roots):
    return -jnp.prod(x[0] - roots)[None]


def test_deflation_finds_several_roots_from_one_start():
    start, roots = jnp.array([[9.0]]), jnp.arange(1.0, 6.0)
    alone = rdd.fixed_points(quintic, start, roots, strategy=NONE)
    assert int(alone.mask.sum()) == 1
    pts = rdd.fixed_points(
        quintic, start, roots, strategy=Deflation(rounds=12, per_round=1)
    )
    np.testing.assert_allclose(np.sort(pts.roots().ravel()), roots, atol=1e-10)
    found = np.asarray(pts.x[pts.mask]).ravel()
    np.testing.assert_allclose(np.sort(found), roots, atol=1e-10)
    # The rest of the rounds found nothing new and says so.
    ends = {Verdict.lost, Verdict.undetermined, Verdict.root}
    assert set(np.asarray(pts.verdict[5:]).tolist()) <= ends
    assert np.all(np.isfinite(pts.speed)) and np.all(np.isfinite(pts.x))


@pytest.mark.slow
def test_deflation_pays_where_starts_share_a_root(getkey):
    # A Rastrigin-like gradient system from a single start.
    f = lambda t, x, a: -2 * x - 6 * jnp.pi * jnp.sin(2 * jnp.pi * x)
    start, key = jnp.array([[0.2, 0.3]]), getkey()
    count = lambda strategy: int(
        rdd.fixed_points(f, start, strategy=strategy, key=key).mask.sum()
    )
    assert count(NONE) == 1
    deflated = rdd.fixed_points(
        f, start, strategy=Deflation(rounds=24, per_round=1), key=key
    )
    assert int(deflated.mask.sum()) >= 15
    x = np.asarray(deflated.x[deflated.mask])
    assert np.abs(2 * x + 6 * np.pi * np.sin(2 * np.pi * x)).max() < 1e-11
    assert count(NoisyRestarts(rounds=24, per_round=1)) >= 5


def test_deflation_invents_nothing():
    f = lambda t, x, a: (1 - x) * (1 + x**2)
    strategy = (rdd.MultiStart(num_large=0, rounds=1, per_round=4), Deflation(rounds=4))
    pts = rdd.fixed_points(f, jnp.array([[3.0], [-2.0]]), strategy=strategy)
    np.testing.assert_allclose(pts.x[pts.mask], [[1.0]], atol=1e-12)
    np.testing.assert_allclose(rdd.certify(pts).roots(), [[1.0]], atol=1e-12)


def test_deflation_under_jit_vmap_and_grad():
    starts = jnp.array([[9.0]])
    strategy = Deflation(rounds=8, per_round=2)
    search = lambda roots: rdd.fixed_points(quintic, starts, roots, strategy=strategy)
    batch = jnp.stack([jnp.arange(1.0, 6.0), jnp.array([-1.0, 0, 1, 2, 4])])
    together = eqx.filter_jit(eqx.filter_vmap(search))(batch)
    for i, roots in enumerate(batch):
        one = search(roots)
        assert np.array_equal(one.mask, together.mask[i])
        np.testing.assert_allclose(one.x[:5], together.x[i, :5], atol=1e-10)


@pytest.mark.slow
def test_roots_found_by_deflation_are_differentiable():
    # The sum of all roots moves with the sum of the parameters.
    def total(roots):
        pts = rdd.fixed_points(
            quintic, jnp.array([[9.0]]), roots, strategy=Deflation(rounds=12)
        )
        return jnp.sum(jnp.where(pts.mask, pts.x[:, 0], 0))

    slope = jax.grad(total)(jnp.arange(1.0, 6.0))
    np.testing.assert_allclose(slope, np.ones(5), atol=1e-9)


def test_rounds_end_when_one_finds_nothing_new():
    def ran(f, rounds):
        strategy = rdd.MultiStart(
            num_large=0, rounds=rounds, per_round=4, detect_odd=False
        )
        pts = rdd.fixed_points(f, jnp.asarray([[0.9]]), strategy=strategy)
        later = np.asarray(pts.stats["num_steps"]) > 0
        assert np.all(pts.verdict[~later] == Verdict.lost)
        return int(later.sum()), int(pts.mask.sum())

    # One root: of three rounds the first finds nothing, and the others do not run.
    assert ran(decay, 3) == (5, 1)
    assert ran(decay, 1) == (5, 1)
    # Three roots from one start: a round that found some is followed by another.
    runs, roots = ran(lambda t, x, a: x - x**3, 3)
    assert roots == 3 and runs >= 9


def test_log_weight_of_deflation():
    roots = jnp.array([[0.0, 0.0], [3.0, 4.0], [7.0, 7.0]])
    count = lambda n: jnp.asarray(n, jnp.int32)
    seen = lambda n: Seen(roots[:1], roots, count(n), roots, count(0))
    x = jnp.array([3.0, 0.0])
    # Mean squares are 9/2 and 16/2; padding does not count.
    strategy = Deflation(radius=2.0, power=0.5)
    want = np.log(1 + 2 / np.sqrt(4.5) + 2 / np.sqrt(8.0))
    np.testing.assert_allclose(strategy.log_weight(seen(2))(x), want, rtol=1e-12)
    assert strategy.log_weight(seen(0))(x) == 0
    on_root = strategy.log_weight(seen(3))
    assert (
        np.isfinite(on_root(roots[2]))
        and np.isfinite(jax.grad(on_root)(roots[2])).all()
    )


def test_noisy_restarts_start_where_they_should(getkey):
    rows = lambda value: jnp.full((4, 3), value)
    count = lambda n: jnp.asarray(n, jnp.int32)
    strategy = NoisyRestarts(scales=(0.0, 1e-3))
    seen = Seen(rows(0.0), rows(10.0), count(2), rows(20.0), count(1))
    x = strategy.propose(seen, 40, getkey())
    np.testing.assert_allclose(x[::2], 10, atol=0.1)
    np.testing.assert_allclose(x[1::2], 20, atol=0.2)
    exact = np.all(x == jnp.round(x), axis=1)
    assert 5 < exact.sum() < 35
    # Nothing known: around the given starts.
    seen = Seen(rows(0.0), rows(10.0), count(0), rows(20.0), count(0))
    np.testing.assert_allclose(strategy.propose(seen, 8, getkey()), 0, atol=0.01)


def test_bad_strategies_are_refused():
    f, x0s = decay, jnp.ones((2, 2))
    for strategy, words in [
        ("deflation", "expected MultiStart"),
        ((Deflation(), Deflation()), "at most one"),
    ]:
        with pytest.raises(ValueError, match=words):
            rdd.fixed_points(f, x0s, strategy=strategy)
    with pytest.raises(ValueError, match="per_round = 0"):
        Deflation(per_round=0)
    with pytest.raises(ValueError, match="at least one"):
        NoisyRestarts(scales=())


def test_whole_numbers_make_samplers(getkey):
    for sampler in (
        rdd.Box([-1], [1], 4),
        rdd.Gaussian([1], 4),
        rdd.NearStates([[0], [1]], 0.1, 4),
        rdd.FromTrajectories([[1]], 4, flow=flows.ScanFlow(dt=0.1)),
    ):
        states = sampler(decay, None, key=getkey())
        assert states.shape == (4, 1) and states.dtype == jnp.float64


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda: rdd.Box([0.0], [1.0], 0), "n = 0"),
        (lambda: rdd.Box([0.0], [1.0], 2.5), "n = 2.5"),
        (lambda: rdd.Box([0.0], [1.0, 2.0], 4), "`high` has shape"),
        (lambda: rdd.Box("a", [1.0], 4), "`low` is no array of numbers"),
        (lambda: rdd.Box([1.0], [0.0], 4), "expected low <= high"),
        (lambda: rdd.Gaussian([1.0], -1), "n = -1"),
        (lambda: rdd.Gaussian([-1.0], 4), "deviations of at least 0"),
        (lambda: rdd.NearStates(jnp.zeros((0, 2)), 0.1, 4), "at least one"),
        (lambda: rdd.FromTrajectories(jnp.ones((1, 1)), 4, num_times=0), "num_times"),
        (lambda: rdd.MultiStart(num_large=-1), "num_large = -1"),
        (lambda: rdd.MultiStart(rounds=1.5), "rounds = 1.5"),
        (lambda: rdd.MultiStart(scale=jnp.ones(3)), "`scale`"),
        (lambda: rdd.MultiStart(symmetries=jnp.negative), "tuple of callables"),
        (lambda: Deflation(rounds=1.5), "rounds = 1.5"),
        (lambda: Deflation(power=-1.0), "`power` = -1.0"),
        (lambda: Deflation(radius=0), "`radius` = 0"),
        (lambda: NoisyRestarts(per_round=True), "per_round = True"),
    ],
)
def test_bad_parts_are_refused(wrong, words, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=words):
        wrong()
