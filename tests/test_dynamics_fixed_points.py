"""Fixed points: known answers, verdicts, transformations, derivatives."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from scipy.linalg import hadamard

import rnndyn.dynamics as rdd
from rnndyn import Map, Verdict


# x = tanh(w x): closed form, specs/dynamics.md 4.1.
ROOT = 0.85855963664011036215
EIGENVALUE = -0.60568697450139750319
SLOPE = {1.5: 0.37262509309998005093, 2.0: 0.095547390613829940317}
GRID = jnp.linspace(-2, 2, 8)[:, None]
FEW = rdd.MultiStart(num_large=16, rounds=1, per_round=16)
NONE = rdd.MultiStart(num_large=0, rounds=0, detect_odd=False)


class Net(eqx.Module):
    W: jax.Array

    def __call__(self, t, x, args):
        return -x + jnp.tanh(self.W @ x)


def scalar(t, x, w):
    return -x + jnp.tanh(w * x)


def hopfield(size=64, gain=1.5):
    patterns = hadamard(size)[[1, 2, 4]].astype(float)
    return Net(jnp.asarray(gain / size * patterns.T @ patterns)), patterns


def hopfield_roots(patterns):
    """All 27 by overlap, m = g-scaled closed forms of specs/dynamics.md 4.1."""
    amplitude = {0: 0.0, 1: 0.85855963664011036, 2: 0.42927981832005518}
    amplitude[3] = 0.34970396883516037
    signs = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), -1).reshape(-1, 3)
    overlaps = signs * np.array([amplitude[k] for k in np.abs(signs).sum(1)])[:, None]
    # The root is x = tanh(g sum_k m_k xi_k).
    return np.tanh(1.5 * overlaps @ patterns)


def same_set(a, b, tol):
    near = np.linalg.norm(a[:, None] - b[None], axis=2) < tol
    return len(a) == len(b) and near.any(0).all() and near.any(1).all()


def test_scalar_roots_and_eigenvalues():
    pts = rdd.fixed_points(scalar, GRID, jnp.asarray(1.5), strategy=FEW)
    roots = pts.x[pts.mask]
    assert same_set(np.asarray(roots), np.array([[0.0], [ROOT], [-ROOT]]), 1e-12)
    outer = np.abs(pts.x[:3, 0]) > 0.5
    values = jnp.real(pts.eigenvalues[:3])[outer]
    np.testing.assert_allclose(values, EIGENVALUE, atol=1e-12)
    assert pts.mask[:3].all() and not pts.mask[3:].any()
    assert list(pts.stability[:3][outer]) == [-1, -1]
    assert int(pts.stability[:3][~outer][0]) == 1
    np.testing.assert_allclose(pts.q, pts.speed**2 / 2)
    for leaf in jax.tree.leaves(eqx.filter(pts, eqx.is_inexact_array)):
        assert np.all(np.isfinite(leaf))


@pytest.mark.parametrize("case", ["patterns", "large", "small"])
def test_hopfield_has_exactly_27(case):
    net, patterns = hopfield()
    rng = np.random.default_rng(0)
    starts = {
        "patterns": rng.uniform(-1.2, 1.2, (1024, 3)) @ patterns
        + 0.1 * rng.standard_normal((1024, 64)),
        "large": 3 * rng.standard_normal((1024, 64)),
        "small": rng.uniform(-1, 1, (1024, 64)),
    }[case]
    pts = rdd.fixed_points(net, jnp.asarray(starts))
    want = hopfield_roots(patterns)
    assert same_set(np.asarray(pts.x[pts.mask]), want, 1e-11)
    assert int(np.sum(pts.stability[pts.mask] == -1)) == 6
    certified = rdd.certify(pts)
    assert same_set(certified.roots(), want, 1e-11)
    assert np.all(certified.q[certified.mask] < 1e-24)


def test_rank_one_matches_its_exact_reduction():
    rng = np.random.default_rng(3)
    size = 12
    m = rng.standard_normal(size)
    n = 3 * m + 0.5 * rng.standard_normal(size)

    def f(t, x, args):
        return -x + jnp.asarray(m) * jnp.vdot(jnp.asarray(n), jnp.tanh(x)) / size

    kappa = 2.0
    for _ in range(2000):
        kappa = np.mean(n * np.tanh(kappa * m))
    slope = np.mean(n * m / np.cosh(kappa * m) ** 2) - 1
    starts = jnp.asarray(rng.standard_normal((8, size)))
    pts = rdd.fixed_points(f, starts, strategy=FEW)
    want = np.stack([0 * m, kappa * m, -kappa * m])
    assert same_set(np.asarray(pts.x[pts.mask]), want, 1e-11)
    outer = int(np.argmax(np.linalg.norm(pts.x, axis=1) * pts.mask))
    np.testing.assert_allclose(pts.eigenvalues[outer, 0].real, slope, atol=1e-10)


def outer_root(w, strategy=NONE):
    pts = rdd.fixed_points(scalar, GRID, w, strategy=strategy)
    return jnp.max(jnp.where(pts.mask, pts.x[:, 0], -jnp.inf))


def test_derivative_in_both_modes_under_jit_and_vmap():
    for derivative in (jax.grad, jax.jacfwd):
        got = jax.jit(jax.vmap(derivative(outer_root)))(jnp.array([1.5, 2.0]))
        np.testing.assert_allclose(got, list(SLOPE.values()), atol=1e-10)
    np.testing.assert_allclose(jax.grad(outer_root)(1.5), SLOPE[1.5], atol=1e-10)


def test_derivative_in_closed_over_arrays_and_of_eigenvalues():
    rng = np.random.default_rng(0)
    # A contraction: one root, so that differences compare the same one.
    W = jnp.asarray(0.3 * rng.standard_normal((5, 5)))
    b = jnp.asarray(rng.standard_normal(5))
    starts = jnp.asarray(rng.standard_normal((4, 5)))
    direction = jnp.asarray(rng.standard_normal((5, 5)))

    def quantities(s):
        W_s = W + s * direction
        pts = rdd.fixed_points(
            lambda t, x, args: -x + jnp.tanh(W_s @ x + b), starts, strategy=NONE
        )
        return jnp.concatenate([pts.x[0], pts.eigenvalues[0].real[:1]])

    h = 1e-5
    want = (quantities(h) - quantities(-h)) / (2 * h)
    np.testing.assert_allclose(jax.jacrev(quantities)(0.0), want, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(jax.jacfwd(quantities)(0.0), want, rtol=1e-6, atol=1e-8)


def test_second_derivative():
    h = 1e-4
    want = (jax.grad(outer_root)(1.5 + h) - jax.grad(outer_root)(1.5 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(jax.grad(outer_root))(1.5), want, rtol=1e-6)


def test_jit_equals_eager_and_vmap_equals_loop():
    gains = jnp.array([1.2, 1.5, 3.0])
    search = lambda w: rdd.fixed_points(scalar, GRID, w, strategy=NONE)
    eager = [search(w) for w in gains]
    jitted = eqx.filter_jit(search)(gains[1])
    batched = eqx.filter_vmap(search)(gains)
    # Rounding decides in which order equally good roots come.
    assert np.array_equal(eager[1].mask, jitted.mask)
    assert same_set(np.asarray(eager[1].x[:3]), np.asarray(jitted.x[:3]), 1e-14)
    for i, one in enumerate(eager):
        n = int(one.mask.sum())
        assert int(batched.mask[i].sum()) == n
        assert same_set(np.asarray(batched.x[i, :n]), np.asarray(one.x[:n]), 1e-12)


def test_one_bad_network_leaves_the_others_bit_identical():
    rng = np.random.default_rng(0)
    W = 1.5 * rng.standard_normal((4, 8, 8)) / 8**0.5
    starts = jnp.asarray(rng.standard_normal((16, 8)))
    search = eqx.filter_jit(
        eqx.filter_vmap(lambda net: rdd.fixed_points(net, starts, strategy=NONE))
    )
    good = search(Net(jnp.asarray(W)))
    for bad in (np.nan, 1e30):
        broken = W.copy()
        broken[2] *= bad
        got = search(Net(jnp.asarray(broken)))
        for i in (0, 1, 3):
            for name in ("x", "speed", "verdict", "eigenvalues", "unique"):
                a, b = getattr(good, name)[i], getattr(got, name)[i]
                assert np.array_equal(a, b), name
        if np.isnan(bad):
            assert not got.mask[2].any()
            assert np.all(np.isfinite(got.x[2]))


def test_float32_in_a_float64_process():
    net, patterns = hopfield(8)
    net = Net(net.W.astype(jnp.float32))
    starts = jax.random.normal(jax.random.key(1), (32, 8), jnp.float32)
    pts = rdd.fixed_points(net, starts, strategy=NONE)
    assert pts.x.dtype == pts.speed.dtype == jnp.float32
    assert pts.eigenvalues.dtype == jnp.complex64
    certified = rdd.certify(pts)
    # The float32 weights are exact here (multiples of 3/16): so are the roots.
    distance = certified.roots()[:, None] - hopfield_roots(patterns)[None]
    assert len(distance) >= 1
    assert np.linalg.norm(distance, axis=2).min(axis=1).max() < 1e-11


def test_nothing_to_find():
    pts = rdd.fixed_points(lambda t, x, args: 1 + x**2, GRID, strategy=NONE)
    assert not pts.mask.any()
    best = int(np.argmin(pts.speed))
    assert pts.verdict[best] == Verdict.slow_point
    certified = rdd.certify(pts)
    assert certified.roots().shape == (0, 1)
    np.testing.assert_allclose(certified.slow(), [[0.0]], atol=1e-12)
    np.testing.assert_allclose(certified.speed[certified.unique], [1.0])
    nowhere = rdd.fixed_points(lambda t, x, args: jnp.exp(-x), GRID, strategy=NONE)
    assert not nowhere.mask.any() and rdd.certify(nowhere).roots().shape == (0, 1)


@pytest.mark.parametrize("mu", [1e-2, 1e-4, -1e-4])
def test_slow_points_on_both_sides_of_a_saddle_node(mu):
    pts = rdd.slow_points(
        lambda t, x, m: m + x**2, GRID, jnp.asarray(mu), strategy=NONE
    )
    certified = rdd.certify(pts)
    if mu > 0:
        assert certified.roots().size == 0
        np.testing.assert_allclose(certified.slow(), [[0.0]], atol=1e-9)
        np.testing.assert_allclose(certified.q[certified.mask], [mu**2 / 2])
    else:
        want = np.sqrt(-mu) * np.array([[1.0], [-1.0]])
        assert same_set(certified.roots(), want, 1e-12)
        assert certified.slow().size == 0


def test_roots_alone_cost_fewer_steps():
    W = jnp.asarray(np.random.default_rng(1).standard_normal((24, 24)) * 3 / 24**0.5)
    x0s = 2 * jax.random.normal(jax.random.key(0), (64, 24))
    everything = rdd.fixed_points(Net(W), x0s, strategy=NONE)
    alone = rdd.fixed_points(Net(W), x0s, strategy=NONE, slow=False)
    assert np.any(everything.verdict == Verdict.slow_point)
    assert not np.any(alone.verdict == Verdict.slow_point)
    is_root = everything.verdict == Verdict.root
    # The same starts end at the same roots.
    by_start = lambda pts: np.lexsort(np.asarray(pts.x_init).T)
    a, b = by_start(everything), by_start(alone)
    assert np.array_equal(is_root[a], (alone.verdict == Verdict.root)[b])
    assert same_set(rdd.certify(alone).roots(), rdd.certify(everything).roots(), 1e-10)
    assert alone.stats["num_steps"].sum() < everything.stats["num_steps"].sum()
    # Where there is nothing to find every start is given up.
    bump = rdd.fixed_points(lambda t, x, m: m + x**2, GRID, 1e-3, slow=False)
    assert not bump.mask.any() and np.all(bump.verdict == Verdict.lost)
    with pytest.raises(ValueError, match="gives slow points up"):
        rdd.slow_points(Net(W), x0s, slow=False)


def test_line_attractor_stays_finite_and_is_named():
    def line(t, x, args):
        return jnp.stack([x[1] - x[0], x[0] - x[1]])

    starts = jax.random.normal(jax.random.key(0), (8, 2))
    pts = rdd.fixed_points(line, starts, strategy=NONE)
    assert np.all(np.isfinite(pts.x)) and np.all(np.isfinite(pts.eigenvalues))
    assert np.all(pts.condition[pts.mask] > 1e12)
    assert np.all(pts.stability[pts.mask] == 0)
    certified = rdd.certify(pts)
    assert np.all(certified.verdict[certified.mask] == Verdict.continuum)
    roots = certified.roots()
    assert len(roots) >= 8
    np.testing.assert_allclose(roots[:, 0], roots[:, 1], atol=1e-12)
    grad = jax.grad(lambda s: rdd.fixed_points(line, s * starts, strategy=NONE).x.sum())
    assert grad(1.0) == 0


def test_map_and_flow_share_roots_but_not_stability():
    W = jnp.array([[0.8, -2.0], [2.0, 0.8]])
    f = lambda t, x, args: -x + W @ jnp.tanh(x)
    starts = jax.random.normal(jax.random.key(0), (8, 2))
    flow = rdd.fixed_points(f, starts, strategy=NONE)
    euler = rdd.fixed_points(
        Map(lambda x, args: x + 0.5 * f(0.0, x, args)), starts, strategy=NONE
    )
    for pts in (flow, rdd.certify(flow)):
        assert (pts.kind, int(pts.mask.sum()), int(pts.stability[0])) == ("flow", 1, -1)
        np.testing.assert_allclose(pts.margin[0], -0.2, atol=1e-12)
    for pts in (euler, rdd.certify(euler)):
        assert (pts.kind, int(pts.mask.sum()), int(pts.stability[0])) == ("map", 1, 1)
        # |1 + 0.5 (-0.2 + 2i)| - 1
        np.testing.assert_allclose(pts.margin[0], abs(0.9 + 1j) - 1, atol=1e-12)
    a, b = flow.to_fpf(dt=0.5), euler.to_fpf()
    for name in ("J_xstar", "eigval_J_xstar", "is_stable"):
        np.testing.assert_allclose(a[name], b[name], atol=1e-12)
    assert not a["is_stable"][0]


def test_unconverged_is_never_a_root():
    rng = np.random.default_rng(0)
    net = Net(jnp.asarray(1.5 * rng.standard_normal((16, 16)) / 4))
    starts = jnp.asarray(2 * rng.standard_normal((32, 16)))
    pts = rdd.fixed_points(net, starts, max_steps=1, strategy=NONE)
    assert not pts.mask.any()
    assert np.all(pts.verdict == Verdict.undetermined)
    pts = rdd.fixed_points(net, starts, max_steps=5, strategy=NONE)
    x = np.asarray(pts.x)
    speed = np.linalg.norm(np.tanh(x @ np.asarray(net.W).T) - x, axis=1)
    assert np.all(speed[pts.verdict == Verdict.root] < 1e-11)
    assert np.any(pts.verdict == Verdict.undetermined)


def test_random_network_set_is_certified_and_closed(size=64):
    # Same shapes as the Hopfield tests, hence the same compiled programs.
    rng = np.random.default_rng(size)
    net = Net(jnp.asarray(1.5 * rng.standard_normal((size, size)) / size**0.5))
    starts = np.random.default_rng(1).standard_normal((1024, size))
    pts = rdd.certify(rdd.fixed_points(net, jnp.asarray(2 * starts)))
    roots = pts.roots()
    # 5 is what batched LM finds from these starts, benchmarks/fixed_points.py.
    assert len(roots) >= 5
    assert same_set(roots, -roots, 1e-9)
    assert np.all(pts.q[pts.mask] < 1e-24)
    residual = np.linalg.norm(-roots + np.tanh(roots @ np.asarray(net.W).T), axis=1)
    assert residual.max() < 1e-12


def test_time_scale_makes_speed_scale_free_and_eigenvalues_physical():
    f = lambda t, x, tau: (1 + x**2) / tau
    tau = jnp.asarray(0.01)
    pts = rdd.slow_points(f, GRID, tau, time_scale=0.01, strategy=NONE)
    certified = rdd.certify(pts)
    np.testing.assert_allclose(certified.speed[certified.mask], [1.0], rtol=1e-10)
    slow = rdd.fixed_points(
        lambda t, x, tau: scalar(t, x, 1.5) / tau,
        GRID,
        tau,
        time_scale=0.01,
        strategy=NONE,
    )
    for pts in (slow, rdd.certify(slow)):
        outer = int(np.argmax(pts.x[:, 0] * pts.mask))
        np.testing.assert_allclose(pts.eigenvalues[outer, 0].real, EIGENVALUE / 0.01)
        np.testing.assert_allclose(pts.margin[outer], EIGENVALUE)


@pytest.mark.parametrize(
    "x0s, f, words",
    [
        (jnp.zeros(3), scalar, "expected (starts, state)"),
        ((jnp.zeros((2, 3)), jnp.zeros((3, 3))), scalar, "leading axis of starts"),
        ("nowhere", scalar, "a sampler"),
        (jnp.zeros((2, 3), int), scalar, "floating-point"),
        (jnp.zeros((2, 3)), lambda t, x, w: x[:2], "same shape"),
        (jnp.zeros((2, 3)), lambda t, x, w: (x, x), "same shape"),
        (jnp.zeros((2, 3)), lambda t, x, w: x.astype(jnp.float32), "dtype"),
        (jnp.zeros((2, 3)), lambda t, x, w: x * 1j, "two real ones"),
        ([[0.5], [1.0]], scalar, "jnp.asarray(x0s)"),
    ],
)
def test_bad_input_is_a_value_error(x0s, f, words):
    with pytest.raises(ValueError) as error:
        rdd.fixed_points(f, x0s, jnp.asarray(1.5))
    assert words in str(error.value)


@pytest.mark.parametrize(
    "wrong",
    [
        *(dict(max_steps=v) for v in (0, 2.5, "3", True)),
        *(dict(lanes=v) for v in (0, -2, 2.5)),
        *(dict(tol=v) for v in (-1.0, np.nan, "a", jnp.ones(3))),
        dict(tol_unique=-1.0),
        *(dict(time_scale=v) for v in (0.0, -1.0, jnp.ones(2), "s")),
        *(dict(unseen=v) for v in (0.0, 2, "a")),
        *(dict(key=v) for v in (0, "a")),
        dict(solver="lm"),
    ],
    ids=str,
)
def test_bad_options_are_refused(wrong, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for search in (rdd.fixed_points, rdd.slow_points):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            search(scalar, GRID, jnp.asarray(1.5), **wrong)


def test_whole_numbers_and_tolerances_of_numpy_are_welcome(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    options = dict(max_steps=np.int64(64), lanes=np.int32(2), tol=np.float64(1e-11))
    pts = rdd.fixed_points(scalar, GRID, jnp.asarray(1.5), strategy=NONE, **options)
    assert int(pts.mask.sum()) == 3


def test_results_in_other_forms():
    pts = rdd.fixed_points(scalar, GRID, jnp.asarray(1.5), strategy=NONE)
    table = pts.to_dict()
    assert table["verdict_name"][0] == "root" and table["kind"] == "flow"
    assert pts.system is scalar and pts.args == 1.5
    with pytest.raises(ValueError, match="Euler map"):
        pts.to_fpf()
    batched = eqx.filter_vmap(
        lambda w: rdd.fixed_points(scalar, GRID, w, strategy=NONE)
    )(jnp.array([1.5, 2.0]))
    with pytest.raises(ValueError, match="expected one"):
        batched.roots()
    first = jax.tree.map(lambda a: a[0], batched)
    assert len(first.roots()) == 3


def test_the_given_start_decides_the_first_slot():
    f = lambda t, x, w: -x + jnp.tanh(w * x)
    m = 0.85855963664011036
    for x0, root in [(1.0, m), (-1.0, -m), (0.0, 0)]:
        points = rdd.fixed_points(f, jnp.array([[x0]]), 1.5)
        np.testing.assert_allclose(points.x[0, 0], root, atol=1e-12)
        certified = rdd.certify(points)
        np.testing.assert_allclose(certified.x[0, 0], root, atol=1e-12)


# Inputs as parameters: x = tanh(w x + u) with w = 0.5 has one root for every u, and
# u = atanh(x) - w x gives it in closed form, with dx/du = s / (1 - w s), s = 1 - x^2.
INPUT_ROOTS = np.array([-0.7, 0.1, 0.5])
INPUTS = np.arctanh(INPUT_ROOTS) - 0.5 * INPUT_ROOTS


def driven(t, x, u):
    return -x + jnp.tanh(0.5 * x + u)


def test_held_inputs_by_vmap_with_shared_starts():
    search = lambda u: rdd.fixed_points(driven, GRID, u, strategy=NONE)
    pts = eqx.filter_vmap(search)(jnp.asarray(INPUTS))
    np.testing.assert_allclose(pts.x[:, 0, 0], INPUT_ROOTS, atol=1e-12)
    assert np.array_equal(pts.mask.sum(axis=1), [1, 1, 1])
    certified = rdd.certify(pts)
    np.testing.assert_allclose(certified.x[:, 0, 0], INPUT_ROOTS, atol=1e-12)


def test_derivative_of_roots_in_the_input():
    root = lambda u: rdd.fixed_points(driven, GRID, u, strategy=NONE).x[0, 0]
    slope = (1 - INPUT_ROOTS**2) / (1 - 0.5 * (1 - INPUT_ROOTS**2))
    for derivative in (jax.grad, jax.jacfwd):
        got = jax.vmap(derivative(root))(jnp.asarray(INPUTS))
        np.testing.assert_allclose(got, slope, rtol=1e-10)


def test_pairs_of_start_and_input():
    starts = jnp.asarray([[1.0], [-1.0], [2.0]])
    pair = lambda x0, u: rdd.fixed_points(driven, x0[None], u, strategy=NONE)
    pts = eqx.filter_vmap(pair)(starts, jnp.asarray(INPUTS))
    assert pts.x.shape == (3, 1, 1)
    np.testing.assert_allclose(pts.x[:, 0, 0], INPUT_ROOTS, atol=1e-12)
    np.testing.assert_allclose(pts.x_init[:, 0], starts)


@pytest.mark.parametrize(
    "f",
    [
        lambda t, x, a: -(x**3),
        lambda t, x, a: -x + jnp.tanh(x),
        # A Hopf point: both eigenvalues on the imaginary axis.
        lambda t, x, a: jnp.stack([-x[1], x[0]]) - x * jnp.sum(x**2),
    ],
    ids=["cubic", "pitchfork", "hopf"],
)
def test_marginal_roots_are_roots_of_undecided_stability(f, request):
    size = 2 if "hopf" in request.node.name else 1
    pts = rdd.fixed_points(f, jnp.tile(GRID, (1, size)), strategy=NONE)
    assert int(pts.mask.sum()) >= 1
    assert np.all(np.abs(pts.x[pts.mask]) < 1e-7)
    assert np.all(pts.stability[pts.mask] == 0)


def test_a_stable_direction_hides_no_degenerate_root():
    f = lambda t, x, a: jnp.stack([-(x[0] ** 3), -x[1]])
    x0s = jnp.concatenate([GRID, GRID[::-1]], axis=1)
    pts = rdd.certify(rdd.fixed_points(f, x0s, strategy=NONE))
    assert pts.roots().shape == (1, 2) and np.all(np.abs(pts.roots()) < 1e-7)
    assert pts.stability[0] == 0 and pts.num_marginal[0] == 1


def test_variables_of_very_different_units():
    """One network, in units of 1 and with a variable in units of 1e-6."""
    unit = jnp.array([1e-6, 1.0])
    W = jnp.array([[2.0, 0.5], [-0.3, 2.2]])
    f = lambda t, x, W: unit * (-x / unit + jnp.tanh(W @ (x / unit)))
    plain = lambda t, x, W: -x + jnp.tanh(W @ x)
    x0s = rdd.Box(-jnp.ones(2), jnp.ones(2), 64)(None, None, key=jax.random.key(0))
    expected = rdd.fixed_points(plain, x0s, W).roots()
    found = rdd.fixed_points(f, x0s * unit[None], W).roots() / np.asarray(unit)
    assert len(expected) == len(found) == 9
    gaps = np.linalg.norm(found[:, None] - expected[None], axis=2)
    assert gaps.min(axis=0).max() < 1e-6


def test_roots_closer_than_the_tolerance_are_one():
    f = lambda t, x, gap: -x * (x - gap)
    count = lambda gap: int(rdd.fixed_points(f, GRID, gap, strategy=NONE).mask.sum())
    assert count(jnp.asarray(2e-7)) <= 1
    assert count(jnp.asarray(2e-5)) == 2
