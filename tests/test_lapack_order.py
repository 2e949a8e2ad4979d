"""Programs in which batched LAPACK calls could run side by side.

XLA's CPU runtime runs what is independent on its threads, and a batched LAPACK call of
jaxlib 0.10 waits there for the same threads: on two cores two can wait for ever.
"""

import itertools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import rnndyn as rd
import rnndyn.dynamics as rdd


HEAD = re.compile(r"^(?:ENTRY )?%([\w.\-]+) \(.*\{$")
LINE = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (.*)$")
NAME = re.compile(r"%([\w.\-]+)")


def side_by_side(text):
    """Pairs of LAPACK calls, or of loops and branches that hold some, of which neither
    depends on the other."""
    computations, lines = {}, None
    for line in text.splitlines():
        if head := HEAD.match(line):
            lines = computations.setdefault(head[1], {})
        elif lines is not None and (match := LINE.match(line)):
            lines[match[1]] = match[2].split(", metadata=")[0]
    known = {}

    def holds(name):
        if name not in known:
            known[name] = False  # of a name that is no computation
            known[name] = any(map(calls, computations.get(name, {}).values()))
        return known[name]

    def calls(right):
        return "lapack_" in right or any(map(holds, NAME.findall(right)))

    pairs = []
    for lines in computations.values():
        before = {}
        for name, right in lines.items():
            direct = [n for n in NAME.findall(right) if n in before]
            before[name] = set(direct).union(*(before[n] for n in direct))
        heavy = [name for name, right in lines.items() if calls(right)]
        pairs += [
            (a, b)
            for a, b in itertools.combinations(heavy, 2)
            if a not in before[b] and b not in before[a]
        ]
    return pairs


def compiled(fn, *args):
    return jax.jit(fn).lower(*args).compile().as_text()


def test_the_reader_sees_pairs():
    a = jnp.ones((4, 3, 3))
    both = compiled(lambda a: (jnp.linalg.eigvals(a), jnp.linalg.svd(a)[1]), a)
    assert len(side_by_side(both)) == 1
    one = compiled(lambda a: jnp.linalg.eigvals(jnp.linalg.inv(a)), a)
    assert "lapack_" in one and side_by_side(one) == []


def tanh_net(t, x, W):
    return -x + jnp.tanh(W @ x)


TANH_MAP = rd.Map(lambda x, W: jnp.tanh(W @ x))


VERBS = {
    "flow": lambda W, x: rdd.fixed_points(tanh_net, x, W).x,
    "linear map": lambda W, x: (
        rdd.fixed_points(rd.Map(lambda x, W: W @ x + 1), x, W).eigenvalues
    ),
    "slow": lambda W, x: rdd.slow_points(tanh_net, x, W, spectrum=False).x,
    "ghost": lambda W, x: rdd.ghost_passage(tanh_net, x[0], W).speed,
    "cycle": lambda W, x: rdd.limit_cycle(tanh_net, x[0], 6.0, W).period,
    "map": lambda W, x: rdd.k_cycles(TANH_MAP, x, 2, W).x,
    "circle": lambda W, x: rdd.invariant_circle(TANH_MAP, x[0], W).gap,
    "exponents": lambda W, x: (
        rdd.lyapunov_spectrum(
            tanh_net, x[0], W, t_transient=1.0, t_total=40.0, dt=0.1
        ).exponents
    ),
}


# From 48 unknowns on there are Krylov steps and factors in float32.
@pytest.mark.parametrize(
    "name, size", [("flow", 5), ("linear map", 5), *((name, 50) for name in VERBS)]
)
def test_no_two_lapack_calls_run_side_by_side(name, size):
    Ws = jax.random.normal(jax.random.key(0), (3, size, size)) / size**0.5
    x0s = jax.random.normal(jax.random.key(1), (4, size))
    batched = lambda W, x: eqx.filter_vmap(VERBS[name], in_axes=(0, None))(W, x)
    assert side_by_side(compiled(batched, Ws, x0s)) == []
