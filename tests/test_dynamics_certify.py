"""Final verdicts in float64, for batches, in few compiled programs."""

import os
import subprocess
import sys
import textwrap

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import rnndyn.dynamics as rdd
from rnndyn import Verdict
from rnndyn.models import ContinuousGRU


NONE = rdd.MultiStart(num_large=0, rounds=0)
FEW = rdd.MultiStart(num_large=16, rounds=1, per_round=16)


class Net(eqx.Module):
    W: jax.Array

    def __call__(self, t, x, args):
        return -x + jnp.tanh(self.W @ x)


def networks(count, size, gain=1.5):
    rng = np.random.default_rng(0)
    return gain * rng.standard_normal((count, size, size)) / size**0.5


def test_batch_in_three_programs_whatever_the_values():
    compiled = []
    listen = lambda event, duration, **_: compiled.append(event)
    W = networks(64, 6).astype(np.float32)
    starts = np.random.default_rng(1).standard_normal((64, 6)).astype(np.float32)
    starts = jax.device_put(starts)
    search = eqx.filter_jit(
        eqx.filter_vmap(lambda net: rdd.fixed_points(net, starts, strategy=FEW))
    )
    jax.monitoring.register_event_duration_secs_listener(listen)
    count = lambda: sum("backend_compile" in event for event in compiled)
    try:
        nets = Net(jax.device_put(W))
        before = count()
        pts = rdd.certify(search(nets))
        assert count() - before <= 3
        # Other values, one network broken, other numbers of candidates: no new ones.
        W[5] = np.nan
        W[6] *= 100
        W = 2 * W
        before = count()
        other = rdd.certify(search(Net(jax.device_put(W))))
        assert count() == before
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert pts.certified and pts.x.dtype == np.float64
    assert pts.x.shape[0] == 64 and pts.mask.any(1).all()
    assert np.all(pts.q[pts.mask] < 1e-24)
    assert not other.mask[5].any()
    f = lambda W, x: -x + np.tanh(np.einsum("nij,nkj->nki", W, x))
    speed = np.linalg.norm(f(networks(64, 6).astype(np.float32), pts.x), axis=2)
    assert speed[pts.mask].max() < 1e-11


def test_long_and_short_polishes_are_one_program():
    names = []
    listen = lambda event, _, **about: names.append((event, about.get("fun_name")))
    net = Net(jnp.asarray(networks(1, 7)[0]))
    pts = rdd.fixed_points(net, jnp.ones((4, 7)), strategy=NONE)
    # One is followed at length and one, which the search gave up, for a few steps.
    x, verdict = pts.x.at[:2].add(0.05), pts.verdict.at[1].set(Verdict.undetermined)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        rdd.certify(eqx.tree_at(lambda p: (p.x, p.verdict), pts, (x, verdict)))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    compiled = [f for e, f in names if e.endswith("backend_compile_duration")]
    assert compiled.count("jit(_polish_roots)") == 1


def test_rejects_what_the_polish_moves():
    net = Net(jnp.asarray(networks(1, 6)[0]))
    pts = rdd.fixed_points(net, jnp.ones((4, 6)), strategy=NONE)
    forged = eqx.tree_at(lambda p: p.x, pts, pts.x.at[0].add(0.05))
    got = rdd.certify(forged)
    assert np.sum(got.mask) <= np.sum(pts.mask)
    residual = jax.vmap(lambda x: net(0.0, x, None))(jnp.asarray(got.roots()))
    assert np.linalg.norm(residual, axis=1).max(initial=0) < 1e-12


def test_degenerate_roots_are_undecided_not_invented():
    grid = jnp.linspace(-2, 2, 8)[:, None]
    cubic = rdd.certify(
        rdd.fixed_points(lambda t, x, args: -(x**3), grid, strategy=NONE)
    )
    np.testing.assert_allclose(cubic.roots(), [[0.0]], atol=1e-6)
    assert np.all(cubic.stability[cubic.mask] == 0)
    assert np.all(cubic.condition[cubic.mask] >= 1)


def test_saddle_of_the_speed_is_not_a_slow_point():
    # q = |f|^2 / 2 with f = (1 + x y, 0.5): at 0 the gradient of q vanishes and its
    # Hessian [[0, 1], [1, 0]] is indefinite.
    f = lambda t, x, args: jnp.stack([1 + x[0] * x[1], 0.5 + 0 * x[0]])
    pts = rdd.slow_points(f, jnp.zeros((1, 2)), strategy=NONE)
    assert pts.verdict[0] == Verdict.slow_point
    assert rdd.certify(pts).verdict[0] == Verdict.undetermined


def test_traced_points_and_captured_float32_are_errors():
    f = lambda t, x, args: -x
    with pytest.raises(ValueError, match="traced"):
        jax.jit(lambda x: rdd.certify(rdd.fixed_points(f, x, strategy=NONE)).x)(
            jnp.ones((2, 2))
        )
    fixed = lambda t, x, args: (-x).astype(jnp.float32)
    pts = rdd.fixed_points(fixed, jnp.ones((2, 2), jnp.float32), strategy=NONE)
    with pytest.raises(ValueError, match="float64"):
        rdd.certify(pts)


@pytest.mark.slow
def test_works_in_a_float32_process():
    code = """
    import jax, jax.numpy as jnp, numpy as np
    import rnndyn.dynamics as rdd
    f = lambda t, x, w: -x + jnp.tanh(w * x)
    x0s = jnp.linspace(-2, 2, 8)[:, None]
    pts = rdd.certify(rdd.fixed_points(f, x0s, jnp.asarray(1.5)))
    assert not jax.config.jax_enable_x64
    assert pts.x.dtype == np.float64
    want = np.array([-0.85855963664011036215, 0, 0.85855963664011036215])
    assert np.allclose(np.sort(pts.roots()[:, 0]), want, atol=1e-12, rtol=0)
    assert np.all(pts.q[pts.mask] < 1e-24)
    """
    env = {**os.environ, "JAX_ENABLE_X64": "0"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    subprocess.run(command, check=True, env=env)


def test_a_diverging_network_leaves_the_other_63_bit_identical():
    W = networks(64, 5)
    starts = jnp.asarray(np.random.default_rng(2).standard_normal((16, 5)))
    search = eqx.filter_jit(
        eqx.filter_vmap(lambda net: rdd.fixed_points(net, starts, strategy=FEW))
    )
    good = search(Net(jnp.asarray(W)))
    W[17] = np.nan
    bad = search(Net(jnp.asarray(W)))
    others = np.arange(64) != 17
    for a, b in zip(jax.tree.leaves(good), jax.tree.leaves(bad), strict=True):
        if a.ndim and a.shape[0] == 64 and not np.array_equal(a, W):
            np.testing.assert_array_equal(a[others], b[others])
    assert not np.asarray(bad.mask)[17].any()


PLAIN = rdd.MultiStart(num_large=0, rounds=0, detect_odd=False)


def certified(f, x0s, **options):
    return rdd.certify(rdd.slow_points(f, jnp.asarray(x0s), strategy=PLAIN, **options))


def test_a_stiff_direction_excuses_no_ghost():
    f = lambda t, x, args: jnp.stack([1e-13 + x[0] ** 2, -1e3 * x[1]])
    points = certified(f, [[2e-6, 0.1], [0.0, 0.5], [1e-3, 0.0]])
    assert not np.any(np.asarray(points.verdict) == Verdict.root)


def test_inflections_and_maxima_of_the_speed_are_no_slow_points():
    inflection = lambda t, x, a: jnp.stack([1 + x[0] ** 3, -x[1]])
    maximum = lambda t, x, a: jnp.stack([0.05 / (1 + x[0] ** 2), -1e3 * x[1]])
    for f, x0s in [
        (inflection, [[0.3, 0.2], [0.1, 0.3], [0.01, 0.01]]),
        (maximum, [[0.0, 0.5], [1e-9, 0.1]]),
    ]:
        assert len(certified(f, x0s).slow()) == 0
    valley = lambda t, x, a: jnp.stack([0.1 + x[0] ** 2, -1e3 * x[1]])
    points = certified(valley, [[0.3, 0.2], [-0.1, 0.3]])
    assert np.asarray(points.verdict)[np.asarray(points.mask)] == [Verdict.ghost]


def test_an_isolated_double_root_is_no_continuum():
    f = lambda t, x, a: jnp.stack([-x[0], 1e3 * x[1] ** 2 * (x[1] - 1e-3)])
    points = certified(f, [[0.1, 0.1], [0.0, 0.0], [0.0, 1e-3], [0.1, -0.1]])
    assert not np.any(np.asarray(points.verdict) == Verdict.continuum)


def test_stability_is_undecided_on_a_kink():
    W = jnp.array([[0.0, 3.0], [3.0, 0.0]])
    relu = lambda t, x, a: -x + jax.nn.relu(W @ x)
    points = rdd.certify(rdd.fixed_points(relu, jnp.zeros((1, 2)), strategy=PLAIN))
    assert np.asarray(points.stability)[np.asarray(points.mask)] == [0]


def test_a_small_unit_is_no_kink():
    """Roots at 1e-6, as of concentrations in mol/l: f is smooth, if fast, there."""
    f = lambda t, x, a: -1e12 * (x - 1e-6) * (x + 1e-6) * (x - 3e-6)
    x0s = jnp.array([[0.0], [1e-6], [3e-6], [-1e-6]])
    pts = rdd.certify(rdd.fixed_points(f, x0s, strategy=NONE))
    order = np.argsort(pts.roots()[:, 0])
    np.testing.assert_allclose(pts.roots()[order, 0], [-1e-6, 1e-6, 3e-6], rtol=1e-6)
    np.testing.assert_array_equal(pts.stability[pts.mask][order], [-1, 1, -1])


def test_bad_options_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    pts = rdd.fixed_points(lambda t, x, a: -x, jnp.ones((1, 1)), strategy=NONE)
    for wrong in (dict(tol=-1.0), dict(tol_unique="a"), dict(tol_margin=np.nan)):
        with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` = "):
            rdd.certify(pts, **wrong)
    with pytest.raises(ValueError, match="max_steps = 2.5"):
        rdd.certify_points(pts, max_steps=2.5)


def test_a_root_beside_a_slow_point_does_not_erase_it():
    f = lambda t, x, a: (x**2 - 1) * ((x - 4) ** 2 + 0.1) / 10
    points = certified(f, [[1.2], [4.05]])
    assert np.any(np.abs(points.slow() - 3.973) < 0.01)


def test_verdicts_without_spectra_are_the_same():
    f = lambda t, x, a: x - x**3
    points = rdd.fixed_points(f, jnp.linspace(-2, 2, 7)[:, None], strategy=PLAIN)
    full, plain = rdd.certify(points), rdd.certify(points, spectrum=False)
    np.testing.assert_array_equal(full.verdict, plain.verdict)
    np.testing.assert_array_equal(full.x, plain.x)
    found = np.asarray(plain.mask)
    assert (
        np.isnan(plain.eigenvalues[found]).all() and np.isnan(plain.margin[found]).all()
    )
    assert (np.asarray(plain.stability) == 0).all()
    # Without a step, points are judged as they stand.
    assert len(rdd.certify(points, max_steps=0).roots()) == 3


def test_a_closure_over_a_batch_is_refused_with_advice():
    def search(W):
        return rdd.fixed_points(lambda t, x, a: -x + W @ x, jnp.ones((2, 2)))

    points = eqx.filter_vmap(search)(jnp.stack([jnp.zeros((2, 2))] * 2))
    with pytest.raises(ValueError, match="through `args`"):
        rdd.certify(points)


class Keyed(Net):
    """A network that holds the key of its noise, which is off."""

    key: jax.Array

    def __call__(self, t, x, args):
        noise = jax.random.normal(self.key, x.shape)
        return super().__call__(t, x, args) + 0 * noise


def test_systems_may_hold_keys_one_or_many():
    W, x0s = 1.5 * jnp.eye(2), jax.random.normal(jax.random.key(0), (16, 2))
    find = lambda key: rdd.fixed_points(Keyed(W, key), x0s, strategy=FEW)
    keys = jax.random.split(jax.random.key(1))
    assert len(rdd.certify(find(keys[0])).roots()) == 9
    many = rdd.certify(eqx.filter_vmap(find)(keys))
    assert np.sum(many.unique & (many.verdict == Verdict.root), axis=1).tolist() == [
        9,
        9,
    ]


def test_one_line_says_what_was_found():
    points = rdd.fixed_points(lambda t, x, a: x - x**3, jnp.array([[0.9], [0.1]]))
    certified = rdd.certify(points)
    assert "3 roots (2 stable), 0 slow points" in repr(certified)
    assert "not certified" in repr(points) and "certified" in repr(certified)


def test_a_wrong_width_says_so():
    with pytest.raises(ValueError, match="transpose"):
        rdd.fixed_points(lambda t, x, a: -x + jnp.eye(2) @ x, jnp.ones((4, 3)))


@pytest.mark.parametrize("gap", [1e-13, 1e-18, 1e-30])
def test_a_fold_that_has_just_vanished_is_no_root(gap):
    # The second equation makes the Jacobian regular by any other measure.
    fold = lambda t, x, args: jnp.stack([x[0] ** 2 + gap, 1 - x[1]])
    points = rdd.fixed_points(fold, jnp.array([[0.3, 0.0], [0.31, 2.0]]))
    assert not np.any(points.verdict == Verdict.root)
    assert not np.any(rdd.certify(points).mask)


@pytest.mark.parametrize(("dtype", "far"), [(jnp.float32, 1e3), (jnp.float64, 1e6)])
def test_the_way_to_a_root_far_out_is_no_slow_point(dtype, far):
    field = lambda t, x, far: jnp.stack([far - x[0], 1 - x[1]])
    starts = jnp.array([[0.0, 0.0], [1.0, -2.0]], dtype)
    points = rdd.slow_points(field, starts, jnp.asarray(far, dtype))
    assert not np.any(points.verdict == Verdict.slow_point)
    assert np.all(points.verdict[points.mask] == Verdict.root)
    np.testing.assert_allclose(rdd.certify(points).roots(), [[far, 1.0]], rtol=1e-10)


def test_where_all_gates_are_closed_is_no_root():
    """Gated units far out move by less than a rounding error, and not at all: fixed
    points lie in (-1, 1)."""
    gru = ContinuousGRU(0, 8, 0, tau=1.0, gain=4.0, key=jax.random.key(1))
    starts = 10 * jax.random.normal(jax.random.key(0), (32, 8))
    points = rdd.fixed_points(gru, starts)
    for found in (points, rdd.certify(points)):
        assert np.sum(found.mask) >= 1
        assert np.abs(np.asarray(found.roots())).max() < 1
        assert not np.any(found.verdict[found.mask] == Verdict.continuum)
    ends = rdd.attractors(gru, np.asarray(starts), rounds=2)
    assert np.abs(ends.state).max(initial=0) < 1 and ends.undecided > 0
