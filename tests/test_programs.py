"""Programs of the verbs: with options of compilation only where nothing is traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn.dynamics as rdd
from rnndyn._core import _closures
from rnndyn._core._closures import program


@pytest.fixture
def traces():
    return []


@pytest.fixture
def root(traces):
    """The square root by Newton's method, in a loop."""

    def body(_, carry):
        a, x = carry
        return a, 0.5 * (x + a / x)

    @program
    def sqrt(a, scale=1):
        traces.append(scale)
        return scale * jax.lax.fori_loop(0, 8, body, (a, jnp.ones_like(a)))[1]

    return sqrt


def test_eager_calls_share_one_program_of_their_own(root, traces):
    for a in (2.0, 3.0, 2.0):
        np.testing.assert_allclose(root(jnp.asarray(a)), a**0.5, rtol=1e-14)
    assert len(traces) == 1
    jax.jit(root)(jnp.asarray(2.0))
    assert len(traces) <= 2


def test_transformations_of_an_eager_call(root):
    a = jnp.asarray([2.0, 3.0])
    np.testing.assert_allclose(jax.vmap(root)(a), a**0.5, rtol=1e-14)
    for derivative in (jax.grad, jax.jacfwd):
        np.testing.assert_allclose(derivative(root)(a[0]), 0.5 / 2**0.5, rtol=1e-12)
        inside = jax.jit(jax.vmap(derivative(root)))
        np.testing.assert_allclose(inside(a), 0.5 / a**0.5, rtol=1e-12)
    with jax.disable_jit():
        np.testing.assert_allclose(root(a[0]), 2**0.5, rtol=1e-14)


def test_a_system_that_closes_over_what_is_differentiated():
    def lowest(mu):
        points = rdd.fixed_points(lambda t, x, _: mu - x**2, jnp.ones((4, 1)))
        return points.x[0, 0]

    for slope in (jax.grad(lowest), jax.jacfwd(lowest), jax.jit(jax.grad(lowest))):
        np.testing.assert_allclose(slope(2.0), 0.5 / 2**0.5, rtol=1e-12)


def test_whole_numbers_and_flags_of_numpy_are_options(root, traces):
    two = jnp.asarray(2.0)
    np.testing.assert_allclose(root(two, scale=np.int64(3)), 3 * 2**0.5)
    np.testing.assert_allclose(root(two, scale=3), 3 * 2**0.5)
    assert traces == [3]


def test_options_are_for_eager_calls_alone(root, monkeypatch):
    # Options that no compiler knows fail where they are in force.
    monkeypatch.setattr(
        _closures,
        "_quickly",
        lambda: {"compiler_options": {"xla_no_such_option": True}},
    )
    two = jnp.asarray(2.0)
    np.testing.assert_allclose(jax.jit(root)(two), 2**0.5, rtol=1e-14)
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
        root(two)


def test_other_versions_compile_as_they_do(root, monkeypatch):
    monkeypatch.setattr(_closures, "version", lambda name: "0.11.0")
    _closures._quickly.cache_clear()
    try:
        assert _closures._quickly() is None
        np.testing.assert_allclose(root(jnp.asarray(2.0)), 2**0.5, rtol=1e-14)
    finally:
        _closures._quickly.cache_clear()
