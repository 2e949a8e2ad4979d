"""Jacobians by diagonal tangents against those of `jax.jacfwd`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnndyn._core._jacobian import jacobian


SIZE = 5
W, V, U = jax.random.normal(jax.random.key(0), (3, SIZE, SIZE))
low = W[:, :2]
sigmoid = jax.nn.sigmoid


def gated(x):
    z, r = jnp.split(sigmoid(jnp.concatenate([U, V]) @ x), 2)
    return z * (-x + jnp.tanh(W @ (r * x)))


FUNCTIONS = {
    "rate": lambda x: -x + jnp.tanh(W @ x),
    "current": lambda x: -x + W @ jnp.tanh(x) + 1.0,
    "low rank": lambda x: low @ (low.T @ jnp.tanh(x)) / SIZE - x,
    "gated": gated,
    "from the left": lambda x: jnp.sin(x @ W) - (x @ W) ** 2,
    "einsum": lambda x: jnp.einsum("ij,j,i->i", W, x, x),
    "relu": lambda x: jax.nn.relu(W @ x) - jax.nn.softplus(x),
    "ring": lambda x: x * (1 - x @ x) + jnp.sum(x) * jnp.tanh(x) + jnp.max(x),
    "identity": lambda x: x,
    "constant": lambda x: jnp.ones(3),
    "scaled": lambda x: 3.0 * x - x / 2,
    "shifted": lambda x: jnp.concatenate([x[1:], jnp.sin(x[:1])]),
    "mixed": lambda x: jnp.stack([x[1] - x[0], x[0] * x[1], jnp.sum(x), x @ x]),
    "pieces": lambda x: jnp.where(x > 0, x, jnp.exp(x) - 1),
    "branches": lambda x: jax.lax.cond(x[0] > 0, lambda x: W @ x, lambda x: -x, x),
    "scan": lambda x: jax.lax.scan(
        lambda c, _: (jnp.tanh(W @ c), None), x, None, length=3
    )[0],
    "solve": lambda x: jnp.linalg.solve(V, x) - x,
    "jit": jax.jit(lambda x: jnp.tanh(W @ x)),
    "checkpoint": jax.checkpoint(lambda x: jnp.tanh(W @ x)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_is_that_of_jacfwd(name):
    f, x = FUNCTIONS[name], jax.random.normal(jax.random.key(1), (SIZE,))
    xs = jnp.stack([x, -2 * x])
    ours, theirs = lambda x: jacobian(f, x)[0], jax.jacfwd(f)
    agree = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    agree(ours(x), theirs(x))
    agree(jax.jit(jax.vmap(ours))(xs), jax.vmap(theirs)(xs))
    agree(jacobian(f, x)[1], f(x))
    total = lambda jac: lambda x: jnp.sum(jnp.sin(jac(x)))
    agree(jax.grad(total(ours))(x), jax.grad(total(theirs))(x))
    agree(jax.jacfwd(ours)(x), jax.jacfwd(theirs)(x))


@pytest.mark.parametrize("name", ["rate", "current", "from the left"])
def test_weights_are_not_multiplied_with_an_identity(name):
    text = str(jax.make_jaxpr(lambda x: jacobian(FUNCTIONS[name], x))(jnp.ones(SIZE)))
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products and all(f"f64[{SIZE},{SIZE}] = dot" not in p for p in products)
    text = str(jax.make_jaxpr(jax.jacfwd(FUNCTIONS[name]))(jnp.ones(SIZE)))
    assert f"f64[{SIZE},{SIZE}] = dot" in text


def test_another_jax_falls_back_to_jacfwd(monkeypatch):
    def changed(*_):
        raise AttributeError("replace")

    monkeypatch.setattr("rnndyn._core._jacobian._evaluate", changed)
    x = jnp.arange(1.0, SIZE + 1)
    for name in ("rate", "mixed", "constant"):
        f = FUNCTIONS[name]
        np.testing.assert_allclose(jacobian(f, x)[0], jax.jacfwd(f)(x), atol=1e-12)
