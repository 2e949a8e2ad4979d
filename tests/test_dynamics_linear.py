"""Jacobians, eigenvalues, stability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn.dynamics as rdd
from rnndyn import Map


A = jnp.array([[-0.2, -2.0], [2.0, -0.2]])


def spiral(t, x, args):
    return A @ x + args * x**2


def test_jacobian_of_flow_and_map():
    x = jnp.array([0.5, -1.0])
    want = np.asarray(A) + np.diag([0.5, -1.0]) * 2 * 0.3
    np.testing.assert_allclose(rdd.jacobian(spiral, x, 0.3), want)
    euler = Map(lambda x, args: x + 0.1 * spiral(0.0, x, args))
    np.testing.assert_allclose(rdd.jacobian(euler, x, 0.3), np.eye(2) + 0.1 * want)
    with pytest.raises(ValueError, match="vmap"):
        rdd.jacobian(spiral, jnp.zeros((3, 2)), 0.3)
    with pytest.raises(ValueError, match="same shape"):
        rdd.eigenvalues(lambda t, x, args: x[:1], x)


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match="kind = 'Map' is not known"):
        rdd.stability(jnp.array([1j]), kind="Map", tol=0.0)


def test_eigenvalues_are_sorted_and_differentiable():
    x = jnp.zeros(2)
    got = rdd.eigenvalues(spiral, x, 0.0)
    np.testing.assert_allclose(got, [-0.2 + 2j, -0.2 - 2j])
    real = lambda a: rdd.eigenvalues(lambda t, x, a: a * A @ x, x, a)[0].real
    np.testing.assert_allclose(jax.grad(real)(1.0), -0.2, rtol=1e-12)


@pytest.mark.parametrize("kind", ["flow", "map"])
def test_stability_on_both_sides_of_the_threshold(kind):
    base = 0.0 if kind == "flow" else 1.0
    values = base + jnp.array([[-2e-3], [2e-3], [-5e-4], [5e-4]]) + 0j
    code, margin = rdd.stability(values, kind=kind, tol=1e-3)
    assert list(code) == [-1, 1, 0, 0]
    np.testing.assert_allclose(margin, [-2e-3, 2e-3, -5e-4, 5e-4], atol=1e-12)


def test_second_derivative_of_an_eigenvalue_of_a_root():
    plain = rdd.MultiStart(num_large=0, rounds=0, detect_odd=False)

    def value(w):
        rows = [jnp.stack([1.2, w]), jnp.stack([0.5 * w * w, 0.3])]
        f = lambda t, x, a: -x + jnp.tanh(jnp.stack(rows) @ x)
        points = rdd.fixed_points(f, jnp.zeros((1, 2)), strategy=plain)
        return points.eigenvalues[0, 0].real

    # At the root 0: lambda = -1 + (a + d)/2 + sqrt((a - d)^2/4 + b c), b c = w^3/2.
    exact = lambda w: -0.25 + jnp.sqrt(0.45**2 + w**3 / 2)
    np.testing.assert_allclose(value(0.7), exact(0.7), rtol=1e-12)
    np.testing.assert_allclose(jax.grad(value)(0.7), jax.grad(exact)(0.7), rtol=1e-10)
    second = jax.grad(jax.grad(value))(0.7)
    np.testing.assert_allclose(second, jax.grad(jax.grad(exact))(0.7), rtol=1e-9)
