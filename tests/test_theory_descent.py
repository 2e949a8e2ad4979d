"""Gradient descent on the toy models against the critical learning rates."""

import functools
import inspect
import re
import textwrap

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn.theory
from rnndyn import theory


SP, LC = theory.slow_point, theory.limit_cycle
FIRST_TURN = theory.LimitCycle(first_turn=True)
T_D = jnp.array([20.0, 60.0, 200.0])


@pytest.mark.parametrize("toy", [SP, FIRST_TURN, LC], ids=["SP", "LC", "LC exact"])
def test_descent_is_trapped_beyond_the_critical_rate_only(toy):
    rates = jnp.array([[0.95], [1.05]]) * toy.critical_learning_rate(T_D, 5.0)[None]
    share = theory.lost_fraction(toy, rates, T_D[None], 5.0, starts=400, steps=20_000)
    assert share.shape == (2, 3)
    assert jnp.all(share[0] == 0)
    assert jnp.all(share[1] >= 0.99)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: theory.descend(SP, 0.1, 0.1, 20.0, 5.0, steps=-1), "steps = -1"),
        (lambda: theory.lost_fraction(SP, 0.1, 20.0, 5.0, starts=0), "starts = 0"),
        (
            lambda: theory.measure_critical_rate(SP, 20.0, 5.0, bracket=(1.0, 0.1)),
            "the lower rate first",
        ),
        (lambda: theory.measure_critical_rate(SP, 20.0, 5.0, rates=1), "rates = 1"),
    ],
)
def test_impossible_numbers_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_trapped_means_for_ever():
    rate = 1.2 * FIRST_TURN.critical_learning_rate(60.0, 5.0)
    starts = FIRST_TURN.optimum(60.0) * jnp.linspace(1, 1.5, 7)
    end = theory.descend(FIRST_TURN, starts, rate, 60.0, 5.0)
    assert jnp.all(end.trapped & end.lost)
    assert jnp.all(jnp.abs(end.r) <= FIRST_TURN.dead_zone(60.0, 5.0))
    again = theory.descend(FIRST_TURN, end.r, rate, 60.0, 5.0, steps=10)
    np.testing.assert_array_equal(again.r, end.r)
    # Below the critical rate it hovers in a band around the optimum.
    end = theory.descend(FIRST_TURN, starts, rate / 1.3, 60.0, 5.0)
    assert not jnp.any(end.lost)
    assert jnp.all(end.lowest > FIRST_TURN.dead_zone(60.0, 5.0))
    # The exact loss has later valleys, into which most are thrown instead.
    exact = theory.descend(LC, starts, rate, 60.0, 5.0)
    assert jnp.all(exact.lost) and not jnp.all(exact.trapped)


@pytest.mark.parametrize(
    "toy, fixed, equal", [(SP, -4.893, -4.0), (LC, -2.928, -2.0)], ids=["SP", "LC"]
)
def test_measured_critical_rates_scale_as_predicted(toy, fixed, equal):
    T_d = jnp.array([20.0, 40.0, 80.0, 160.0, 320.0])
    T_d, T_r = jnp.stack([T_d, T_d]), jnp.stack([jnp.full(5, 5.0), T_d])
    seen = theory.measure_critical_rate(toy, T_d, T_r)
    assert jnp.all(seen.found)
    assert abs(-theory.mean_exponent(T_d[0], seen.rate[0]) - fixed) < 0.03
    assert abs(-theory.mean_exponent(T_d[1], seen.rate[1]) - equal) < 0.02
    ratio = seen.rate / toy.critical_learning_rate(T_d, T_r)
    np.testing.assert_allclose(ratio[0], 1, atol=0.035)  # 4000 steps: a little late
    # At equal periods a cycle may hop between two places for ever, so the bare rate
    # is only where the first starts are lost.
    assert jnp.all((ratio[1] > 0.99) & (ratio[1] < (1.03 if toy is SP else 2.2)))
    assert jnp.all(seen.high / seen.low < 1.002)


def test_the_bounce_is_where_the_first_starts_are_lost():
    rates = jnp.array([0.705, 0.75]) * LC.critical_learning_rate(10.0, 5.0)
    for toy in (LC, FIRST_TURN):
        share = theory.lost_fraction(toy, rates, 10.0, 5.0)
        assert share[0] == 0 and share[1] > 0


def test_later_valleys_are_reached_a_little_below_the_critical_rate():
    rates = jnp.array([0.96, 0.98]) * LC.bounce_learning_rate(20.0, 5.0)
    share = theory.lost_fraction(LC, rates, 20.0, 5.0, starts=50)
    np.testing.assert_array_equal(share, [0, 1])
    assert jnp.all(theory.lost_fraction(FIRST_TURN, rates, 20.0, 5.0, starts=50) == 0)
    end = theory.descend(LC, 1.2 * LC.optimum(20.0), rates[1], 20.0, 5.0)
    assert end.lost and end.lowest > LC.dead_zone(20.0, 5.0)


def test_one_program_for_all_rates_and_delays():
    traces = []

    @eqx.filter_jit
    def run(rates, T_d):
        traces.append(1)
        return theory.lost_fraction(SP, rates, T_d, 5.0, starts=8, steps=50)

    rates = jnp.geomspace(1e-8, 1e-3, 6)[:, None]
    grid = run(rates, T_D[None])
    assert grid.shape == (6, 3)
    run(2 * rates, T_D[None] + 1)
    assert len(traces) == 1
    one = theory.lost_fraction(SP, rates[2, 0], T_D[1], 5.0, starts=8, steps=50)
    assert one == grid[2, 1]
    mapped = jax.vmap(
        lambda lr: theory.lost_fraction(SP, lr, 60.0, 5.0, starts=8, steps=50)
    )(rates[:, 0])
    np.testing.assert_array_equal(mapped, grid[:, 1])


def test_a_bracket_without_the_threshold_is_not_found():
    kw = dict(rates=4, rounds=2, starts=4, steps=100)
    low = theory.measure_critical_rate(SP, 60.0, 5.0, bracket=(1e-6, 1e-5), **kw)
    high = theory.measure_critical_rate(SP, 60.0, 5.0, bracket=(5.0, 10.0), **kw)
    for seen in (low, high):
        assert not seen.found and jnp.isnan(seen.rate)
    with pytest.raises(ValueError, match="learning_rate"):
        theory.descend(SP, 0.1, -1.0, 20.0, 5.0)
    with pytest.raises(ValueError, match="T_d"):
        theory.measure_critical_rate(SP, jnp.array([20.0, -1.0]), 5.0)


def test_scaling_laws():
    pi = np.pi
    cases = [
        (SP, theory.Response(5.0), 5, 5 * pi**4 / 4),
        (LC, theory.Response(5.0), 3, 5 / 4),
        (SP, theory.Response(1.0, 1.0), 4, 3 * pi**4 / 32),
        (LC, theory.Response(1.0, 1.0), 2, 1 / 24),
        (SP, theory.Response(2.0, 0.5), 4.5, 2 * pi**4 / 4),
        (LC, theory.Response(2.0, 0.5), 2.5, 0.5),
        (SP, theory.Response(3.0, 1.5), 4, pi**4 / 8),
    ]
    for toy, response, exponent, prefactor in cases:
        law = theory.scaling_law(toy, response)
        np.testing.assert_allclose([law.exponent, law.prefactor], [exponent, prefactor])
        far = toy.critical_learning_rate(1e12, response(1e12)) * 1e12**exponent
        np.testing.assert_allclose(far, prefactor, rtol=1e-4)
        local = theory.local_exponent(toy, 1e12, response)
        np.testing.assert_allclose(local, exponent, atol=1e-4)
    law = theory.scaling_law(LC, theory.Response(1.0, 1.2))
    assert law.exponent == 2 and np.isnan(law.prefactor)
    law = theory.scaling_law(FIRST_TURN, theory.Response(1.0, 2.0))
    far = FIRST_TURN.critical_learning_rate(1e6, 1e12) * 1e12
    np.testing.assert_allclose([law.exponent, law.prefactor], [2, far], rtol=1e-5)
    flat = theory.scaling_law(theory.SlowPoint(order=4), theory.Response(5.0))
    np.testing.assert_allclose(flat.exponent, 1 + 8 / 3)


def test_slopes_of_the_exact_formulas():
    T_d = jnp.linspace(10, 400, 100)
    for toy, T_r, want in [
        (SP, 5.0, 4.904),
        (LC, 5.0, 2.934),
        (SP, 10.0, 4.829),
        (LC, 10.0, 2.837),
    ]:
        rate = toy.critical_learning_rate(T_d, T_r)
        assert abs(theory.mean_exponent(T_d, rate) - want) < 2e-3
    h = 1e-5
    for toy in (SP, LC):
        response = lambda T: 5.0 + 0.2 * T
        lr = lambda T, toy=toy, response=response: jnp.log(
            toy.critical_learning_rate(T, response(T))
        )
        central = -(lr(80.0 * (1 + h)) - lr(80.0 * (1 - h))) / (2 * h)
        got = theory.local_exponent(toy, jnp.array([80.0]), response)
        np.testing.assert_allclose(got[0], central, rtol=1e-6)
    for never in (lambda T: 50.0 - T, lambda T: -1.0):
        with pytest.raises(ValueError, match=r"T_r = .*expected > 0"):
            theory.local_exponent(SP, jnp.array([10.0, 100.0]), never)
    for of_values in (np.sqrt, lambda T: 5.0 if T > 20 else 1.0):
        with pytest.raises(ValueError, match="jax.numpy for numpy"):
            theory.local_exponent(SP, 80.0, of_values)
    for bad in ((0.0,), (1.0, np.nan)):
        with pytest.raises(ValueError, match="scale = "):
            theory.Response(*bad)
    with pytest.raises(ValueError, match="all the same"):
        theory.mean_exponent([2.0, 2.0], [1.0, 2.0])


def examples():
    """Every Python block in the docstrings of the room."""
    for name, thing in sorted(vars(theory).items()):
        if name.startswith("_"):
            continue
        parts = [thing]
        if inspect.isclass(thing):
            parts += [v for k, v in sorted(vars(thing).items()) if k[0] != "_"]
        text = "".join(
            textwrap.dedent("    " + (getattr(part, "__doc__", "") or ""))
            for part in parts
        )
        if "```python" in text:
            yield pytest.param(text, id=name)


@pytest.mark.parametrize("text", list(examples()))
def test_examples_run(text):
    names = {"rnndyn": rnndyn, "jax": jax, "jnp": jnp, "np": np, "functools": functools}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.S):
        exec(compile(textwrap.dedent(block), "example", "exec"), names)
