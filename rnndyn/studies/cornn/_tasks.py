"""Trained networks recovered from their rates: experiments 4, 5 and 6."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ...fitting import Admm, Reject, cornn, no_self_connections, weight_correlation
from ...fitting._generators import (
    CorrelatedNoise,
    GaussianNoise,
    jittered_alpha,
    record,
)
from ...fitting._trained import (
    FlipFlop,
    TimedResponse,
    train_flip_flop,
    train_timed_response,
)
from ...models import member
from ._random import _xarray
from ._table import r_squared, timed


_ALPHA = 0.1
_LONG = 1000
"""Steps of a recorded trial of the timed response."""


def timed_networks(
    networks: int, neurons: int, *, updates: int = 3000, seed: int = 0
) -> Any:
    """The generators of experiments 4 and 6, trained as published."""
    key = jr.fold_in(jr.key(seed), 4)
    return train_timed_response(networks, neurons, updates=updates, key=key)


def subsampling(
    *,
    neurons: int = 500,
    networks: int = 1,
    updates: int = 3000,
    observed: Sequence[int] = (50, 100, 250, 500),
    trials: Sequence[int] = (30, 50, 100),
    jitters: Sequence[Any] = (0.0, 0.02, 0.03, 0.05, 0.06, 0.1),
    jitter_observed: int = 50,
    iterations: int = 50,
    trained: Any = None,
    seed: int = 0,
    say: Callable[[str], Any] = lambda text: None,
) -> Any:
    """A timed response seen through some of its neurons, and with wrong time-scales.

    Every fit sees `observed` neurons in `trials` trials of 1000 steps; it then runs
    freely from three new noise-free starts, with and without a distracting input, and
    is compared with the network's own run by the mean R2 of the first 100 neurons.
    Jitters are fitted with most trials.

    **Arguments:** sizes as above; `trained`: networks to use instead of training.

    **Returns:** an `xarray.Dataset`: `r2`, `r2_quiet` (no distraction), `r_rec`, `r_in`
    over `(network, observed, trials)`, and `jitter_r2` over `(network, jitter)`.
    """
    xr = _xarray()
    trained = trained or timed_networks(networks, neurons, updates=updates, seed=seed)
    shape = (networks, len(observed), len(trials))
    names = ("r2", "r2_quiet", "r_rec", "r_in")
    out = {name: np.full(shape, np.nan) for name in names}
    jitter_r2 = np.full((networks, len(jitters)), np.nan)
    for k in range(networks):
        net = member(trained.models, k)
        key = jr.fold_in(jr.key(seed), 100 + k)
        rates, inputs = _sessions(net, max(trials), GaussianNoise(0.1), key=key)
        tests = _tests(net, key=jr.fold_in(key, 1))
        fit = lambda n, m, alpha, rates=rates, inputs=inputs: _fit_timed(
            rates[:m, :, :n], inputs[:m], alpha, iterations
        )
        for i, n in enumerate(observed):
            for j, m in enumerate(trials):
                found = fit(n, m, _ALPHA)
                at = (k, i, j)
                out["r2"][at], out["r2_quiet"][at] = _free_r2(found, tests)
                W, W_in = net.W[:n, :n], net.W_in[:n]
                out["r_rec"][at] = weight_correlation(W, found.W)
                out["r_in"][at] = weight_correlation(W_in, found.W_in)
                say(f"network {k}, {n} neurons, {m} trials: R2 {out['r2'][at]:.3f}")
        for j, spread in enumerate(jitters):
            wrong = jittered_alpha(
                _ALPHA, spread, jitter_observed, key=jr.fold_in(key, 2)
            )
            found = fit(jitter_observed, max(trials), np.asarray(wrong))
            jitter_r2[k, j] = _free_r2(found, tests)[0]
            say(f"network {k}, jitter {spread}: R2 {jitter_r2[k, j]:.3f}")
    dims = ("network", "observed", "trials")
    data = {name: (dims, a) for name, a in out.items()}
    return xr.Dataset(
        {**data, "jitter_r2": (("network", "jitter"), jitter_r2)},
        {"observed": list(observed), "trials": list(trials), "jitter": list(jitters)},
        {
            "neurons": neurons,
            "networks": networks,
            "jitter_observed": jitter_observed,
            "learned": int(np.sum(trained.learned)),
        },
    )


def correlated(
    *,
    neurons: int = 500,
    networks: int = 1,
    updates: int = 3000,
    levels: Sequence[Any] = (1e-2, 0.05, 0.1),
    trials: Sequence[int] = (30, 100),
    iterations: int = 50,
    trained: Any = None,
    seed: int = 0,
    say: Callable[[str], Any] = lambda text: None,
) -> Any:
    """White against correlated noise in the currents of a timed response, all neurons
    observed.

    **Returns:** an `xarray.Dataset` with `r2` over `(network, noise, level, trials)`.
    """
    xr = _xarray()
    trained = trained or timed_networks(networks, neurons, updates=updates, seed=seed)
    laws = {"white": GaussianNoise, "correlated": CorrelatedNoise}
    r2 = np.full((networks, len(laws), len(levels), len(trials)), np.nan)
    for k in range(networks):
        net = member(trained.models, k)
        key = jr.fold_in(jr.key(seed), 200 + k)
        tests = _tests(net, key=jr.fold_in(key, 1))
        for i, law in enumerate(laws.values()):
            for j, level in enumerate(levels):
                rates, inputs = _sessions(net, max(trials), law(level), key=key)
                for m, count in enumerate(trials):
                    found = _fit_timed(
                        rates[:count], inputs[:count], _ALPHA, iterations
                    )
                    r2[k, i, j, m] = _free_r2(found, tests)[0]
                shown = np.round(r2[k, i, j], 3)
                say(f"network {k}, {list(laws)[i]} {level}: R2 {shown}")
    return xr.Dataset(
        {"r2": (("network", "noise", "level", "trials"), r2)},
        {"noise": list(laws), "level": list(levels), "trials": list(trials)},
        {
            "neurons": neurons,
            "networks": networks,
            "learned": int(np.sum(trained.learned)),
        },
    )


def flip_flop(
    *,
    neurons: int = 100,
    networks: int = 10,
    updates: int = 1500,
    learning_rate: float = 1e-2,
    alpha: float = 0.5,
    trials: Sequence[int] = (25, 50, 100, 200, 400),
    iterations: int = 50,
    trained: Any = None,
    seed: int = 0,
    say: Callable[[str], Any] = lambda text: None,
) -> Any:
    """Three-bit networks recovered from more and more trials of 100 steps.

    Test runs have 1000 steps, ten of them; true and fitted network run freely with
    recording noise from the same start, and are read out with the true weights.

    **Returns:** an `xarray.Dataset` with `r` of the recurrent weights, `r_in`, `score`
    (correlation of the outputs) and `cpu` over `(network, trials)`, and the trained
    networks' `loss`.
    """
    xr = _xarray()
    if trained is None:
        trained = train_flip_flop(
            networks,
            neurons,
            alpha=alpha,
            updates=updates,
            learning_rate=learning_rate,
            key=jr.fold_in(jr.key(seed), 5),
        )
    shape = (networks, len(trials))
    names = ("r", "r_in", "score", "cpu")
    out = {name: np.full(shape, np.nan) for name in names}
    noise = {
        "input_noise": GaussianNoise(1e-3),
        "conversion_noise": GaussianNoise(1e-2),
    }
    for k in range(networks):
        net = member(trained.models, k)
        key = jr.fold_in(jr.key(seed), 300 + k)
        session = _flip_flop_trials(net, FlipFlop(), max(trials), noise, key=key)
        rates, inputs = (np.asarray(a) for a in session)
        for j, m in enumerate(trials):
            solve = lambda m=m, rates=rates, inputs=inputs: cornn(
                rates[:m],
                inputs[:m],
                alpha=alpha,
                outliers=Reject(threshold=1.0),
                mask=no_self_connections(neurons, inputs.shape[-1]),
                splitting=Admm(100.0, shifted=False),
                max_steps=iterations,
                tol=0.0,
            )
            found, out["cpu"][k, j] = timed(solve)
            out["r"][k, j] = weight_correlation(net.W, found.W)
            out["r_in"][k, j] = weight_correlation(net.W_in, found.W_in)
            test_key = jr.fold_in(key, 7)
            out["score"][k, j] = output_score(found, net, noise, key=test_key)
            say(f"network {k}, {m} trials: r {out['r'][k, j]:.3f}")
    data = {name: (("network", "trials"), a) for name, a in out.items()}
    return xr.Dataset(
        {**data, "loss": (("network", "update"), np.asarray(trained.loss))},
        {"trials": list(trials)},
        {
            "neurons": neurons,
            "networks": networks,
            "alpha": alpha,
            "learned": int(np.sum(trained.learned)),
        },
    )


def output_score(found: Any, net: Any, noise: dict, *, key: Any) -> float:
    """Correlation of the outputs of ten free runs of 1000 steps, both networks read
    out with the true weights."""
    task, runs = FlipFlop(num_steps=1000), 10
    true, inputs = _flip_flop_trials(net, task, runs, noise, key=key)
    free = _trials(found.network, inputs, true[:, 0], noise, jr.fold_in(key, 1))
    read = lambda a: a[:, 1:] @ net.W_out.T
    return float(weight_correlation(read(true), read(free)))


@eqx.filter_jit
def _flip_flop_trials(net, task, count, noise, *, key):
    """Rates `(trial, frame, neuron)` and inputs from `r_0 ~ N(0, 1)`."""
    k_task, k_start, k_run = jr.split(key, 3)
    inputs = task.batch(count, key=k_task).inputs.astype(net.W.dtype)
    starts = jr.normal(k_start, (count, net.state_size), net.W.dtype)
    return _trials(net, inputs, starts, noise, k_run), inputs


@eqx.filter_jit
def _trials(net, inputs, starts, noise, key):
    """Rates of many trials; the network's own starts where none are given."""
    steps = inputs.shape[1]
    run = lambda u, r0, key: record(
        net, steps, dt=1.0, inputs=u, r0=r0, key=key, **noise
    )
    return eqx.filter_vmap(run)(inputs, starts, jr.split(key, inputs.shape[0]))


def _cue(distract=False, task=None):
    task = TimedResponse() if task is None else task
    steps = jnp.arange(_LONG)
    u = (steps < task.cue).astype(float)
    if distract:
        u = u + jnp.where((steps >= 400) & (steps < 410), 10.0, 0.0)
    return u[:, None]


def _sessions(net, count, noise, *, key):
    inputs = jnp.broadcast_to(_cue(), (count, _LONG, 1))
    rates = _trials(net, inputs, None, {"input_noise": noise}, key)
    return np.asarray(rates), np.asarray(inputs)


def _tests(net, *, key, count=3):
    """Noise-free runs with and without distraction, and their inputs."""
    cues = [jnp.broadcast_to(_cue(d), (count, _LONG, 1)) for d in (True, False)]
    return [(_trials(net, u, None, {}, key), u) for u in cues]


def _fit_timed(rates, inputs, alpha, iterations):
    return cornn(
        rates,
        inputs,
        alpha=alpha,
        ridge=1e-4,
        outliers=Reject(threshold=1.0),
        mask=no_self_connections(rates.shape[-1], inputs.shape[-1]),
        splitting=Admm(10.0),
        max_steps=iterations,
        tol=0.0,
    )


def _free_r2(found, tests):
    """R2 of free runs from the true starts, distracted and not."""
    network = found.network
    n = network.state_size
    few = min(n, 100)
    scores = []
    for true, u in tests:
        free = _trials(network, u, true[:, 0, :n], {}, jr.key(0))
        scores.append(r_squared(true[..., :few], free[..., :few]))
    return scores
