"""How much of the space of starts the roots found account for."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn.dynamics as rdd
from rnndyn import Map, Verdict
from rnndyn.dynamics.points._coverage import unseen_upper


ALONE = rdd.MultiStart(num_large=0, rounds=0, detect_odd=False)


def comb(t, x, args):
    """Roots at all multiples of pi."""
    return -jnp.sin(x)


def cubic(t, x, args):
    return x - x**3


SHARES = {
    "even": np.ones(51) / 51,
    "many": np.ones(500) / 500,
    "zipf": 1 / np.arange(1, 101),
    "geometric": 0.7 ** np.arange(60),
    "one and rare ones": np.array([0.97] + [0.001] * 30),
    "two": np.array([0.99, 0.01]),
}


@pytest.mark.parametrize("name", SHARES)
@pytest.mark.parametrize("n", [32, 256, 1024])
def test_interval_covers_the_chance_of_a_new_root(name, n):
    p = SHARES[name] / SHARES[name].sum()
    hits = np.random.default_rng(0).multinomial(n, p, size=4000)
    unseen = np.sum(np.where(hits == 0, p[None], 0), axis=1)
    upper = unseen_upper(np.sum(hits == 1, axis=1), np.sum(hits == 2, axis=1), n)
    assert np.mean(unseen <= upper) > 0.955
    estimate = np.mean(np.sum(hits == 1, axis=1)) / n
    assert abs(estimate - np.mean(unseen)) < 0.05 * np.mean(unseen) + 1 / n


EXPECTED = {0: 3, 2: 2, 4: 1, -2: 0, -4: 0}  # mirror images have no start


def test_counts_of_starts_at_every_root():
    x0s = jnp.array([0.1, 0.2, -0.3, 6.0, 6.5, 12.5])[:, None]
    for system in (comb, Map(lambda x, args: x - jnp.sin(x))):
        pts = rdd.fixed_points(system, x0s, strategy=ALONE)
        seen = pts.coverage()
        found = np.round(pts.roots()[:, 0] / np.pi, 9)
        assert dict(zip(found, seen.hits, strict=True)) == EXPECTED
        assert (seen.num_starts, seen.undecided) == (6, 0)
        assert seen.unseen == pytest.approx(1 / 6) and seen.missing == 0
        assert seen.unseen_upper == pytest.approx((2 + 1.96 * 2) / 6)
        assert "5 roots from 6 starts" in repr(seen)
        again = rdd.certify(rdd.certify(pts)).coverage()
        assert np.array_equal(again.hits, seen.hits) and again.num_starts == 6
    # Roots of added starts and mirror images are known, but no start was at them.
    both = rdd.fixed_points(comb, x0s).coverage()
    assert sorted(both.hits)[-3:] == [1, 2, 3] and len(both.hits) > 3
    assert both.num_starts == 6 and both.unseen == pytest.approx(1 / 6)


def test_a_family_counts_once(getkey):
    def ring(t, x, args):
        return x * (1 - jnp.sum(x**2))

    x0s = 0.3 + jax.random.normal(getkey(), (40, 2))
    seen = rdd.fixed_points(ring, x0s, strategy=ALONE).coverage()
    assert sum(seen.hits) == 40 and max(seen.hits) >= 35 and len(seen.hits) <= 2


def test_nothing_found_and_undecided():
    drift = lambda t, x, args: 1 + x**2
    seen = rdd.fixed_points(drift, jnp.ones((8, 1)), strategy=ALONE).coverage()
    assert seen.hits.size == 0 and seen.unseen == 0 and seen.undecided == 0
    assert seen.unseen_upper == pytest.approx(2.96 / 8)
    assert "undecided" not in seen.headline()
    double = lambda t, x, args: x**2
    seen = rdd.fixed_points(double, jnp.ones((8, 1)), strategy=ALONE).coverage()
    assert seen.undecided == 8 and "from 8 starts (8 undecided)" in seen.headline()
    seen = rdd.fixed_points(
        comb, jnp.array([[1.2]]), strategy=ALONE, max_steps=1
    ).coverage()
    assert seen.num_starts == 1 and seen.unseen_upper == 1


def test_search_ends_when_starts_bring_nothing_new(getkey):
    x0s = 2 * jax.random.normal(getkey(), (600, 1))
    every = rdd.certify(rdd.fixed_points(cubic, x0s, strategy=ALONE))
    some = rdd.certify(rdd.fixed_points(cubic, x0s, strategy=ALONE, unseen=0.05))
    ran = int(np.sum(np.asarray(some.stats["num_steps"]) > 0))
    assert ran in (64, 128, 256)
    assert some.coverage().num_starts == ran
    assert some.coverage().unseen_upper < 0.05 and every.coverage().num_starts == 600
    assert len(some.roots()) == len(every.roots()) == 3
    idle = np.asarray(some.stats["num_steps"]) == 0
    assert np.all(np.asarray(some.verdict)[idle] == Verdict.lost)
    # A ring never has enough: every start is at another root.
    ring = lambda t, x, args: x * (1 - jnp.sum(x**2))
    x0s = jax.random.normal(getkey(), (130, 2))
    pts = rdd.fixed_points(ring, x0s, strategy=ALONE, unseen=0.05)
    assert np.all(np.asarray(pts.stats["num_steps"]) > 0)


def test_early_end_under_vmap_is_that_of_a_loop(getkey):
    def field(t, x, w):
        return -jnp.sin(w * x)

    x0s = jax.random.uniform(getkey(), (512, 1), minval=-2, maxval=2)
    ws = jnp.array([0.5, 1.0, 300.0])
    search = lambda w: rdd.fixed_points(field, x0s, w, unseen=0.05)
    many = eqx.filter_jit(eqx.filter_vmap(search))(ws)
    for i, w in enumerate(ws):
        one = search(w)
        assert np.array_equal(many.stats["num_steps"][i], one.stats["num_steps"])
        assert np.array_equal(many.verdict[i], one.verdict)
    # The last has more roots than starts.
    given = np.asarray(many.stats["given"])
    ran = np.sum((np.asarray(many.stats["num_steps"]) > 0) & given, axis=1)
    assert ran[0] == 256 and ran[2] == 512
    with pytest.raises(ValueError, match="between 0 and 1"):
        rdd.fixed_points(field, x0s, 1.0, unseen=2.0)
