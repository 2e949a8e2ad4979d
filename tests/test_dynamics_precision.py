"""What is said where precision, range or the device do not suffice."""

import os
import subprocess
import sys
import textwrap

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import hadamard

import rnndyn.dynamics as rdd
from rnndyn import Verdict
from rnndyn.dynamics._linear import distance_to_root


NONE = rdd.MultiStart(num_large=0, rounds=0, detect_odd=False)
F32, F64 = jnp.float32, jnp.float64


def grid(dtype, scale=2.0, n=24):
    return jnp.linspace(-scale, scale, n, dtype=dtype)[:, None]


class Net(eqx.Module):
    W: jax.Array

    def __call__(self, t, x, args):
        return -x + jnp.tanh(self.W @ x)


def fold(t, x, mu):
    return mu + x**2


search_fold = eqx.filter_jit(
    lambda mu, x0s: rdd.fixed_points(fold, x0s, mu, strategy=NONE)
)


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("mu", [1e-6, 1e-9, 1e-12])
def test_no_root_is_seen_where_there_is_none(mu, dtype):
    pts = search_fold(jnp.asarray(mu, dtype), grid(dtype))
    assert not np.any(pts.mask)
    # Nothing but padding of duplicates may carry the word.
    assert not np.any(pts.unique & (pts.verdict == Verdict.root))
    assert rdd.certify(pts).roots().shape == (0, 1)


def test_two_close_roots_in_both_precisions():
    want = [[-np.sqrt(1e-9)], [np.sqrt(1e-9)]]
    pts = search_fold(jnp.asarray(-1e-9, F64), grid(F64))
    np.testing.assert_allclose(np.sort(pts.roots(), axis=0), want, atol=1e-12)
    # float32 does not resolve them: one of the two, or no decision.
    pts = search_fold(jnp.asarray(-1e-9, F32), grid(F32))
    found = np.asarray(pts.x[pts.mask])
    assert np.all(np.abs(np.abs(found) - 10**-4.5) < 4e-4)
    roots = rdd.certify(pts).roots()
    assert len(roots) == 2
    np.testing.assert_allclose(np.abs(roots), 10**-4.5, rtol=1e-6)


def test_folds_under_vmap_and_grad():
    mus = jnp.asarray([1e-12, 1e-9, -0.25], F32)
    pts = eqx.filter_vmap(lambda mu: search_fold(mu, grid(F32)))(mus)
    assert list(pts.mask.sum(axis=1)) == [0, 0, 2]
    largest = lambda mu: jnp.max(
        jnp.where(
            search_fold(mu, grid(F32)).mask, search_fold(mu, grid(F32)).x[:, 0], 0
        )
    )
    # d sqrt(-mu) / d mu = -1; without a root there is nothing to differentiate.
    np.testing.assert_allclose(jax.grad(largest)(mus[2]), -1, rtol=1e-5)
    assert jax.grad(largest)(mus[0]) == 0


@pytest.mark.parametrize(
    "kind", ["random", pytest.param("hopfield", marks=pytest.mark.slow)]
)
def test_float32_roots_are_roots(kind):
    """Newton in float64 from each float32 root stays there."""
    rng = np.random.default_rng(0)
    patterns = hadamard(16)[[1, 2, 4]].astype(float)
    W = {
        "hopfield": 1.5 / 16 * patterns.T @ patterns,
        "random": 2 * rng.standard_normal((16, 16)) / 4,
    }[kind].astype(np.float32)
    starts = jnp.asarray(2 * rng.standard_normal((128, 16)), F32)
    pts = rdd.fixed_points(Net(jnp.asarray(W)), starts)
    assert pts.x.dtype == F32 and int(pts.mask.sum()) >= 3
    W = W.astype(float)
    for x in np.asarray(pts.x[pts.mask], float):
        y = x.copy()
        for _ in range(4):
            gain = 1 - np.tanh(W @ y) ** 2
            jac = gain[:, None] * W - np.eye(16)
            y -= np.linalg.solve(jac, np.tanh(W @ y) - y)
        assert np.linalg.norm(np.tanh(W @ y) - y) < 1e-12
        assert np.linalg.norm(y - x) < 1e-3 * max(1, np.linalg.norm(x))


TAILS = {
    "gaussian": lambda x: jnp.exp(-(x**2)),
    "odd": lambda x: x * jnp.exp(-(x**2)),
    "exponential": lambda x: jnp.exp(-jnp.abs(x)),
    "steep": lambda x: jnp.exp(-50 * jnp.abs(x)),
    "algebraic": lambda x: 1 / (1 + x**2) ** 8,
}


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(
    "name",
    ["gaussian", "steep"]
    + [
        pytest.param(n, marks=pytest.mark.slow)
        for n in TAILS
        if n not in "gaussian steep"
    ],
)
def test_a_tail_that_only_tends_to_zero_holds_no_root(name, dtype):
    tail = TAILS[name]
    # Alone, and beside an equation with a root: there the Newton step is short.
    beside = lambda t, x, a: jnp.stack([tail(x[0]), -x[1]])
    first = jnp.concatenate([grid(dtype, 10, 16), grid(dtype, 300, 16)])
    x0s = jnp.concatenate([first, jnp.ones_like(first)], axis=1)
    for f, starts in [(lambda t, x, a: tail(x), first), (beside, x0s)]:
        pts = rdd.fixed_points(f, starts, strategy=NONE)
        found = np.asarray(pts.x[pts.mask])[:, 0]
        if name == "odd":
            assert np.all(np.abs(found) < 1e-3)
        else:
            assert len(found) == 0


@pytest.mark.parametrize("dtype", [F32, F64])
def test_equations_that_vanish_everywhere_are_no_tails(dtype):
    f = lambda t, x, a: jnp.stack([0 * x[0], -x[1]])
    x0s = jnp.asarray([[30.0, 1.0], [-5.0, 2.0]], dtype)
    pts = rdd.fixed_points(f, x0s, strategy=NONE)
    np.testing.assert_allclose(pts.x[pts.mask][:, 0], [30, -5])
    assert np.all(pts.stability[pts.mask] == 0)


def test_without_eigenvalues_the_host_fills_them_in():
    f = lambda t, x, a: -x + jnp.tanh(1.5 * x)
    x0s = grid(F64)
    with_them = rdd.fixed_points(f, x0s, strategy=NONE)
    pts = rdd.fixed_points(f, x0s, strategy=NONE, spectrum=False)
    assert np.array_equal(pts.x, with_them.x) and int(pts.mask.sum()) == 3
    assert np.all(np.isnan(pts.eigenvalues[pts.mask]))
    assert np.all(np.isfinite(pts.eigenvalues[~np.asarray(pts.unique)]))
    assert np.all(pts.stability == 0)
    np.testing.assert_allclose(pts.condition, with_them.condition)
    root = lambda s: rdd.fixed_points(
        lambda t, x, s: -x + jnp.tanh(s * x), x0s[-1:], s, strategy=NONE, spectrum=False
    ).x[0, 0]
    np.testing.assert_allclose(jax.grad(root)(1.5), 0.37262509309998005, rtol=1e-10)
    certified, want = rdd.certify(pts), rdd.certify(with_them)
    np.testing.assert_allclose(certified.eigenvalues, want.eigenvalues)
    np.testing.assert_allclose(certified.condition, want.condition)
    assert sorted(certified.stability[certified.mask]) == [-1, -1, 1]


def test_a_search_without_eigenvalues_compiles_for_a_backend_that_has_none():
    x0s = jax.ShapeDtypeStruct((8, 4), F32)
    run = lambda spectrum: jax.export.export(
        jax.jit(
            lambda x0s: (
                rdd.fixed_points(
                    lambda t, x, a: -x + jnp.tanh(2 * x), x0s, spectrum=spectrum
                ).x
                if not spectrum
                else rdd.fixed_points(
                    lambda t, x, a: -x + jnp.tanh(2 * x), x0s, spectrum=spectrum
                ).eigenvalues
            )
        ),
        platforms=["tpu"],
    )(x0s)
    assert run(False).platforms == ("tpu",)
    with pytest.raises(NotImplementedError, match="eig"):
        run(True)


SINGLE = """
import jax, jax.numpy as jnp, numpy as np
import rnndyn.dynamics as rdd
assert not jax.config.jax_enable_x64
W = np.random.default_rng(0).standard_normal((12, 12)).astype(np.float32) / 12**.5 * 2
starts = jnp.asarray(np.random.default_rng(1).standard_normal((32, 12)), jnp.float32)
net = lambda t, x, W: -x + jnp.tanh(W @ x)
pts = rdd.fixed_points(net, starts, jnp.asarray(W))
assert pts.x.dtype == jnp.float32 and int(pts.mask.sum()) >= 1
done = rdd.certify(pts)
assert done.x.dtype == np.float64 and done.speed.dtype == np.float64
assert done.eigenvalues.dtype == np.complex128 and len(done.roots()) >= 1
W = W.astype(float)
for x in done.roots():
    assert np.linalg.norm(np.tanh(W @ x) - x) <= 1e-12
assert jnp.ones(()).dtype == jnp.float32
print("all float64")
"""


def test_certify_decides_in_float64_in_a_process_without_it():
    env = dict(os.environ, JAX_ENABLE_X64="0", JAX_PLATFORMS="cpu")
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SINGLE)],
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert "all float64" in run.stdout


def test_length_to_a_root_far_from_singular_is_that_of_singular_vectors():
    rng = np.random.default_rng(0)
    A = jnp.asarray(np.eye(6) + 0.3 * rng.standard_normal((6, 6)))
    f = lambda x: A @ x + 0.1 * x**2
    for scale in (1e-3, 1e-9):
        x = jnp.asarray(scale * rng.standard_normal(6))
        jac = jax.jacfwd(f)(x)
        found = distance_to_root(f, jac, f(x), x)[0]
        want = np.linalg.norm(np.linalg.solve(jac, f(x)))
        np.testing.assert_allclose(found, want, rtol=1e-10)
    # A constant left over in a singular equation: there is no root.
    jac = jnp.diag(jnp.asarray([1.0, 0.0]))
    bump = lambda x: jnp.stack([x[0], 1e-3 + x[1] ** 2])
    at = jnp.zeros(2)
    assert distance_to_root(bump, jac, bump(at), at)[0] > 1e20


def matrix_products(jaxpr):
    """The precision of every product of matrices, those of inner programs too."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            yield eqn.params["precision"]
        for sub in jax.core.jaxprs_in_params(eqn.params):
            yield from matrix_products(sub)


@pytest.mark.parametrize("derivative", [False, True])
def test_products_of_matrices_keep_all_digits(derivative):
    """On a GPU float32 would be rounded to ten bits."""

    def f(t, x, w):
        return -x + jnp.tanh(w @ x)

    def found(w):
        points = rdd.fixed_points(f, jnp.ones((4, 3), F32), w)
        cycle = rdd.limit_cycle(f, jnp.ones(3, F32), 4.0, w)
        if derivative:  # that of QR, which is JAX's, is for the caller to say
            return points.x, points.eigenvalues, cycle.period, cycle.log_multipliers
        spectrum = rdd.lyapunov_spectrum(
            f, jnp.ones(3, F32), w, t_transient=1.0, t_total=40.0, dt=0.1
        )
        return points.x, points.eigenvalues, cycle.period, spectrum.exponents

    w = jnp.eye(3, dtype=F32) * 1.5
    program = jax.jacfwd(found) if derivative else found
    seen = list(matrix_products(jax.make_jaxpr(program)(w).jaxpr))
    highest = jax.lax.Precision.HIGHEST
    assert len(seen) > 20 and set(seen) == {(highest, highest)}
