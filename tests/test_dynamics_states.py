"""Nested and multi-dimensional states."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import rnndyn.dynamics as rdd
from rnndyn import Map
from rnndyn._core._system import AbstractVectorField
from rnndyn.dynamics import states


NONE = rdd.MultiStart(num_large=0, rounds=0, detect_odd=False)


class Cell(eqx.Module):
    """An LSTM-like cell: 3 hidden units, 2 memory cells."""

    A: jax.Array
    B: jax.Array

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.A = jnp.asarray(0.5 * rng.standard_normal((3, 2)))
        self.B = jnp.asarray(0.5 * rng.standard_normal((2, 3)))

    def step(self, state, u):
        h, c = state["h"], state["c"]
        gate = jax.nn.sigmoid(self.B @ h + u)
        c = gate * c + (1 - gate) * jnp.tanh(self.B @ h)
        return {"h": jnp.tanh(self.A @ c + 0.1), "c": c}

    def __call__(self, t, state, u):
        return jax.tree.map(jnp.subtract, self.step(state, u), state)


def starts(n=4, dtype=jnp.float64):
    rng = np.random.default_rng(1)
    draw = lambda size: jnp.asarray(rng.standard_normal((n, size)), dtype)
    return {"h": draw(3), "c": draw(2)}


U = jnp.asarray(0.3)


def test_two_leaves_equal_the_vector_made_by_hand():
    cell, x0s = Cell(), starts()
    _, unravel = ravel_pytree(jax.tree.map(lambda a: a[0], x0s))
    flat = lambda t, x, u: ravel_pytree(cell(t, unravel(x), u))[0]
    by_hand = rdd.fixed_points(
        flat, jax.vmap(lambda s: ravel_pytree(s)[0])(x0s), U, strategy=NONE
    )
    pts = rdd.fixed_points(cell, x0s, U, strategy=NONE)
    assert np.array_equal(pts.x, by_hand.x) and np.array_equal(pts.mask, by_hand.mask)
    nested = states(pts)
    assert nested["h"].shape == (4, 3) and nested["c"].shape == (4, 2)
    first = jax.tree.map(lambda a: a[0], nested)
    for leaf in jax.tree.leaves(cell(0.0, first, U)):
        np.testing.assert_allclose(leaf, 0, atol=1e-12)


def test_flow_and_map_are_certified_and_share_their_roots():
    cell, x0s = Cell(), starts()
    flow = rdd.certify(rdd.fixed_points(cell, x0s, U, strategy=NONE))
    step = rdd.certify(rdd.fixed_points(Map(cell.step), x0s, U, strategy=NONE))
    assert (flow.kind, step.kind) == ("flow", "map")
    assert flow.certified and int(flow.mask.sum()) == int(step.mask.sum()) == 1
    np.testing.assert_allclose(flow.x[0], step.x[0], atol=1e-12)
    np.testing.assert_allclose(flow.eigenvalues[0] + 1, step.eigenvalues[0], atol=1e-9)
    assert states(step)["c"].shape == (4, 2)


def test_gradient_through_a_nested_root():
    x0s = starts(1)

    def memory(scale):
        cell = eqx.tree_at(lambda c: c.A, Cell(), replace_fn=lambda a: scale * a)
        return states(rdd.fixed_points(cell, x0s, U, strategy=NONE))["c"][0, 0]

    h = 1e-5
    want = (memory(1 + h) - memory(1 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(memory)(1.0), want, rtol=1e-6)
    np.testing.assert_allclose(jax.jacfwd(memory)(1.0), want, rtol=1e-6)


def test_networks_by_vmap_and_float32():
    cells = eqx.filter_vmap(lambda k: jax.tree.map(lambda a: k * a, Cell()))(
        jnp.array([0.5, 1.0])
    )
    narrow = jax.tree.map(lambda a: a.astype(jnp.float32), cells)
    x0s = starts(2, jnp.float32)
    search = lambda c: rdd.fixed_points(c, x0s, U.astype(jnp.float32), strategy=NONE)
    pts = eqx.filter_vmap(search)(narrow)
    assert pts.x.dtype == jnp.float32 and states(pts)["h"].shape == (2, 2, 3)
    certified = rdd.certify(pts)
    assert states(certified)["h"].dtype == np.float64
    wide = jax.tree.map(lambda a: a.astype(jnp.float64), narrow)
    for i in range(2):
        cell, state = jax.tree.map(lambda a, i=i: a[i], (wide, states(certified)))
        state = jax.tree.map(lambda a: jnp.asarray(a[0]), state)
        u = U.astype(jnp.float32).astype(jnp.float64)
        for leaf in jax.tree.leaves(cell(0.0, state, u)):
            np.testing.assert_allclose(leaf, 0, atol=1e-12)


def test_a_state_may_be_a_matrix_or_a_tuple():
    target = jnp.arange(6.0).reshape(2, 3)
    pts = rdd.fixed_points(lambda t, x, a: a - x, jnp.ones((2, 2, 3)), target)
    assert pts.x.shape[1] == 6
    np.testing.assert_allclose(states(pts)[0], target, atol=1e-12)
    pair = (jnp.ones((2, 2)), jnp.ones((2, 1)))
    pts = rdd.slow_points(
        lambda t, x, a: (1 - x[0], 2 - x[1]), pair, strategy=NONE, max_steps=20
    )
    assert type(states(pts)) is tuple
    np.testing.assert_allclose(pts.x[0], [1, 1, 2], atol=1e-12)
    flat = rdd.fixed_points(lambda t, x, a: -x, jnp.ones((2, 3)), strategy=NONE)
    assert states(flat) is flat.x


class Slow(AbstractVectorField):
    tau: jax.Array

    def __call__(self, t, x, args):
        return jax.tree.map(lambda a: (1 + a**2) / self.tau, x)

    @property
    def time_scale(self):
        return self.tau


def test_time_scale_of_a_nested_field_is_kept():
    pts = rdd.slow_points(
        Slow(jnp.asarray(0.01)), {"a": jnp.ones((2, 1)), "b": jnp.ones((2, 1))}
    )
    assert pts.time_scale == 0.01
    certified = rdd.certify(pts)
    np.testing.assert_allclose(certified.speed[certified.mask], 2**0.5, rtol=1e-10)


@pytest.mark.parametrize(
    "f, x0s, words",
    [
        (lambda t, x, a: x, {"a": jnp.ones((2, 1)), "b": jnp.ones((3, 1))}, "leading"),
        (
            lambda t, x, a: x,
            {"a": jnp.ones((2, 1)), "b": jnp.ones((2, 1), jnp.float32)},
            "dtypes",
        ),
        (lambda t, x, a: {"b": x["a"]}, {"a": jnp.ones((2, 1))}, "same structure"),
        (lambda t, x, a: {"a": x["a"][:1]}, {"a": jnp.ones((2, 3))}, "same structure"),
        (lambda t, x, a: x, {"a": jnp.ones(())}, "leading"),
        (lambda t, x, a: x, {}, "a sampler"),
    ],
)
def test_bad_states_are_a_value_error(f, x0s, words):
    with pytest.raises(ValueError, match=words):
        rdd.fixed_points(f, x0s)


@pytest.mark.parametrize(
    "verb",
    [
        lambda f, x: rdd.k_cycles(f, x["a"], 2),
        lambda f, x: rdd.attractors(f, np.asarray(x["a"])),
        lambda f, x: rdd.invariant_circle(f, x["a"][0]),
        lambda f, x: rdd.lyapunov_spectrum(f, x["a"][0], t_transient=0, t_total=100),
    ],
)
def test_maps_of_another_shape_are_refused_by_every_verb(verb):
    with pytest.raises(ValueError, match="expected the same shape"):
        verb(Map(lambda x, a: x[:1]), {"a": jnp.ones((3, 2))})


FOLD = lambda t, x, a: a + x**2
SPIN = lambda t, x, a: a * jnp.stack([-x[1], x[0]]) + x * (1 - x @ x)
HENON = Map(lambda x, a: jnp.stack([1 - a * x[0] ** 2 + x[1], 0.3 * x[0]]))
ONE, TWO = jnp.array([[0.4]]), jnp.array([[0.6, 0.2]])


@pytest.mark.parametrize(
    "verb",
    [
        lambda a: rdd.certify(rdd.slow_points(FOLD, ONE, a, strategy=NONE)),
        lambda a: rdd.ghost_passage(FOLD, jnp.zeros(1), a),
        lambda a: rdd.limit_cycle(SPIN, TWO[0], 6.28 / a, a).period,
        lambda a: rdd.poincare_section(
            SPIN, TWO[0], TWO[0], args=a, crossings=1, dt=0.1, max_time=9.0
        ),
        lambda a: rdd.k_cycles(HENON, TWO, 2, a),
        lambda a: rdd.lyapunov_spectrum(HENON, TWO[0], a, t_transient=9, t_total=999),
    ],
)
def test_another_python_float_compiles_nothing(verb):
    names = []
    listen = lambda name, seconds, **_: names.append(name)
    jax.monitoring.register_event_duration_secs_listener(listen)
    compiled = lambda: sum("backend_compile" in name for name in names)
    verb(1.0)
    assert compiled() > 0
    before = compiled()
    verb(1.1)
    assert compiled() == before


def test_states_of_no_result_are_refused():
    with pytest.raises(ValueError, match="expected the result of"):
        rdd.states(jnp.ones((2, 2)))


def test_verbs_of_vectors_say_so():
    nested = {"a": jnp.ones((3, 2))}
    with pytest.raises(ValueError, match="is a dict.*ravel_pytree"):
        rdd.k_cycles(Map(lambda x, a: x), nested, 2)
    with pytest.raises(ValueError, match="is a dict.*ravel_pytree"):
        rdd.limit_cycle(lambda t, x, a: x, nested, 1.0)
