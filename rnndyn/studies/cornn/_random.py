"""Random networks recovered from their rates: experiments 1, 2, 3, 7 and 8."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ...fitting import (
    CrossEntropy,
    CurrentError,
    FixedPointStart,
    GaussianNoise,
    MeanSquare,
    PoissonNoise,
    RandomWeights,
    RateError,
    Reject,
    adam,
    cornn,
    force,
    newton,
    random_network,
    record,
    regression_rows,
    slope,
    teacher_forced_bptt,
    weight_correlation,
)
from ...fitting._generators import AbstractNoise
from ._table import timed


RECORDS = {
    "cornn": 5,
    "newton weighted": 1,
    "newton": 1,
    "adam cross-entropy": 1000,
    "adam square": 1000,
    "force currents": 5,
    "force rates": 5,
}
"""Published number of steps (epochs of FORCE) between two records."""


def recovery(
    *,
    neurons: int = 200,
    steps: int = 3000,
    networks: int = 10,
    noise: tuple[float, float] = (1e-2, 1e-4),
    law: Callable[[Any], AbstractNoise] = GaussianNoise,
    threshold: float = 0.2,
    force_ridge: float = 200.0,
    records: int = 20,
    methods: Sequence[str] = tuple(RECORDS),
    shrink: int = 1,
    seed: int = 0,
    say: Callable[[str], Any] = lambda text: None,
) -> Any:
    """How fast and how well each solver recovers random networks.

    **Arguments:**

    - `neurons`, `steps`, `networks`: sizes.
    - `noise`, `law`: strengths of input and conversion noise, and their law.
    - `threshold`: of rejection; `force_ridge`: of FORCE.
    - `records`: number of records after the start.
    - `methods`: names in `RECORDS`.
    - `shrink`: divides the steps of Adam between two records, for a quick look.
    - `seed`: of networks and noise.
    - `say`: called with a line of text at every stage.

    **Returns:** an `xarray.Dataset` with `r`, `slope` over `(solver, network, record)`,
    `cpu` (seconds of all steps; the first network's includes compilation) and `step`.
    """
    xr = _xarray()
    shape = (len(methods), networks, records + 1)
    r, slopes = np.full(shape, np.nan), np.full(shape, np.nan)
    cpu = np.full(shape[:2], np.nan)
    every = {m: RECORDS[m] // (shrink if "adam" in m else 1) for m in methods}
    for k in range(networks):
        k_net, k_run = jr.split(jr.fold_in(jr.key(seed), k))
        W, rates = _recorded(neurons, steps, noise, k_net, k_run, laws=(law, law))
        for m, method in enumerate(methods):
            job = (method, rates, threshold, force_ridge, records, every[method])
            thetas, cpu[m, k] = timed(lambda job=job: _solve(*job))
            r[m, k] = [weight_correlation(W, th[:neurons].T) for th in thetas]
            slopes[m, k] = [slope(W, th[:neurons].T) for th in thetas]
            say(f"network {k}, {method}: r {r[m, k, 0]:.3f} to {r[m, k, -1]:.4f}")
    step = np.array([np.arange(records + 1) * every[m] for m in methods])
    return xr.Dataset(
        {
            "r": (("solver", "network", "record"), r),
            "slope": (("solver", "network", "record"), slopes),
            "cpu": (("solver", "network"), cpu, {"units": "s"}),
            "step": (("solver", "record"), step),
        },
        {"solver": list(methods)},
        {"neurons": neurons, "steps": steps, "networks": networks, "shrink": shrink},
    )


def _solve(method, rates, threshold, force_ridge, records, every):
    """Weights at the start and after every record."""
    options = {"num_steps": records * every, "record_every": every}
    single = rates.astype(np.float32)
    alpha, reject = 0.1, Reject(threshold=threshold)
    if method == "cornn":
        fit = cornn(rates, alpha=alpha, outliers=reject, max_steps=0, tol=0.0)
        thetas = [fit.theta]
        for _ in range(records):
            fit = cornn(
                rates,
                alpha=alpha,
                outliers=reject,
                init=fit.theta,
                max_steps=every,
                tol=0.0,
            )
            thetas.append(fit.theta)
        return np.stack(thetas)
    if method.startswith("newton"):
        rule = reject if "weighted" in method else None
        fit = newton(rates, alpha=alpha, outliers=rule, **options)
        start = FixedPointStart(1e-5)
    elif method.startswith("adam"):
        loss = CrossEntropy() if "entropy" in method else MeanSquare()
        fit = adam(single, alpha=alpha, loss=loss, **options)
        start = FixedPointStart(1e-4)
    else:
        error = CurrentError() if "currents" in method else RateError()
        options = {"epochs": records * every, "record_every": every}
        fit = force(rates, alpha=alpha, error=error, ridge=force_ridge, **options)
        start = FixedPointStart(force_ridge / (len(rates) - 1) ** 2)
    first = _fixed_point(rates, alpha, start)
    return np.concatenate([np.asarray(first)[None], np.asarray(fit.snapshots)])


def _fixed_point(rates, alpha, start):
    rows = regression_rows(rates, alpha=alpha)
    with jax.enable_x64(True):
        return start(jnp.asarray(rows.x), jnp.asarray(rows.d))


def _recorded(
    neurons, steps, noise, k_net, k_run, *, laws=None, alpha=0.1, inputs=None
):
    """A random network's weights and its rates, in float64 whatever the process
    allows; noise of inputs and of conversion."""
    laws = (GaussianNoise, GaussianNoise) if laws is None else laws
    with jax.enable_x64(True):
        count = 0 if inputs is None else inputs.shape[1]
        net = random_network(neurons, count, alpha=alpha, key=k_net, dtype=jnp.float64)
        rates = record(
            net,
            steps,
            dt=1.0,
            inputs=None if inputs is None else jnp.asarray(inputs),
            input_noise=laws[0](noise[0]),
            conversion_noise=laws[1](noise[1]),
            key=k_run,
        )
        return np.asarray(net.W), np.asarray(rates)


def regularisation(
    *,
    neurons: int = 200,
    steps: int = 3000,
    networks: int = 3,
    multipliers: Sequence[Any] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 10, 100),
    cornn_steps: int = 100,
    epochs: int = 100,
    seed: int = 0,
    say: Callable[[str], Any] = lambda text: None,
) -> Any:
    """How recovery depends on the ridge, `1e-5 m` of CORNN and `200 m` of FORCE.

    **Returns:** an `xarray.Dataset` with `r` over `(solver, network, multiplier)`;
    "fixed point" is where CORNN starts, "random" FORCE starts from `N(0, 9/N)`.
    """
    xr = _xarray()
    methods = ["cornn", "fixed point", "force currents", "force rates"]
    methods += ["force currents, random", "force rates, random"]
    r = np.full((len(methods), networks, len(multipliers)), np.nan)
    for k in range(networks):
        k_net, k_run, k_start = jr.split(jr.fold_in(jr.key(seed), k), 3)
        W, rates = _recorded(neurons, steps, (1e-2, 1e-4), k_net, k_run)
        score = lambda fit, W=W: float(weight_correlation(W, fit.W))
        for j, m in enumerate(multipliers):
            for i, many in enumerate((cornn_steps, 0)):
                fit = cornn(
                    rates,
                    alpha=0.1,
                    ridge=1e-5 * m,
                    outliers=Reject(threshold=0.2),
                    max_steps=many,
                    tol=0.0,
                )
                r[i, k, j] = score(fit)
            for i, error in enumerate((CurrentError(), RateError())):
                run = {"alpha": 0.1, "error": error, "ridge": 200 * m, "epochs": epochs}
                r[2 + i, k, j] = score(force(rates, **run))
                start = RandomWeights(k_start, 3.0)
                r[4 + i, k, j] = score(force(rates, start=start, **run))
            say(f"network {k}, multiplier {m:g}: cornn {r[0, k, j]:.3f}")
    return xr.Dataset(
        {"r": (("solver", "network", "multiplier"), r)},
        {"solver": methods, "multiplier": list(multipliers)},
        {"neurons": neurons, "steps": steps, "networks": networks, "epochs": epochs},
    )


def forcing(
    *,
    neurons: int = 100,
    steps: int = 100,
    networks: int = 10,
    epochs: int = 3000,
    shares: Sequence[Any] = (0.0, 0.25, 0.5, 0.75, 1.0),
    noise: tuple[float, float] = (1e-1, 1e-5),
    fixed_point: bool = False,
    seed: int = 0,
    say: Callable[[str], Any] = lambda text: None,
) -> Any:
    """BPTT with teacher forcing on short trials of a driven network, `alpha = 0.9`.

    **Arguments:** `shares` of forced steps; `noise` of inputs and conversion;
    `fixed_point`: start there instead of at random weights.

    **Returns:** an `xarray.Dataset` with `r` over `(loss, network, share)`, and
    `r_start` of the fixed point over `(network,)`.
    """
    xr = _xarray()
    losses = {"square": MeanSquare(), "cross-entropy": CrossEntropy()}
    r = np.full((len(losses), networks, len(shares)), np.nan)
    first = np.full(networks, np.nan)
    for k in range(networks):
        k_net, k_run, k_fit = jr.split(jr.fold_in(jr.key(seed), k), 3)
        inputs = np.full((steps, 1), 0.1)
        driven = {"alpha": 0.9, "inputs": inputs}
        W, rates = _recorded(neurons, steps, noise, k_net, k_run, **driven)
        rates = np.clip(rates, -1 + 1e-6, 1 - 1e-6)
        none = {"alpha": 0.9, "tol": 0.0, "max_steps": 0}
        first[k] = weight_correlation(W, cornn(rates, inputs, **none).W)
        single = [a.astype(np.float32) for a in (rates, inputs)]
        start = FixedPointStart(1e-5) if fixed_point else None
        for i, loss in enumerate(losses.values()):
            for j, share in enumerate(shares):
                fit = teacher_forced_bptt(
                    *single,
                    alpha=0.9,
                    share=share,
                    loss=loss,
                    start=start,
                    num_steps=epochs,
                    key=k_fit,
                )
                r[i, k, j] = weight_correlation(W, fit.W)
        say(f"network {k}: forced {r[0, k, -1]:.3f}, free {r[0, k, 0]:.3f}")
    return xr.Dataset(
        {"r": (("loss", "network", "share"), r), "r_start": (("network",), first)},
        {"loss": list(losses), "share": list(shares)},
        {
            "neurons": neurons,
            "steps": steps,
            "networks": networks,
            "epochs": epochs,
            "fixed_point": int(fixed_point),
            "noise": list(noise),
        },
    )


def large_scale(
    *,
    neurons: int = 5000,
    steps: int = 30000,
    networks: int = 1,
    iterations: int = 4,
    seed: int = 0,
    say: Callable[[str], Any] = lambda text: None,
) -> Any:
    """Recovery of a large network with Poisson conversion noise, step by step.

    **Returns:** an `xarray.Dataset` with `r` over `(network, iteration)` and `cpu`, the
    CPU seconds of the whole fit.
    """
    xr = _xarray()
    r = np.full((networks, iterations + 1), np.nan)
    cpu = np.full(networks, np.nan)
    for k in range(networks):
        k_net, k_run = jr.split(jr.fold_in(jr.key(seed), k))
        laws = (GaussianNoise, PoissonNoise)
        W, rates = _recorded(neurons, steps, (1e-2, 1e-3), k_net, k_run, laws=laws)
        solve = lambda init, steps, rates=rates: cornn(
            rates,
            alpha=0.1,
            outliers=Reject(threshold=1.0),
            init=init,
            max_steps=steps,
            tol=0.0,
        )
        theta = None
        for i in range(iterations + 1):
            fit = solve(theta, 0 if i == 0 else 1)
            theta = fit.theta
            r[k, i] = weight_correlation(W, fit.W)
            say(f"network {k}, iteration {i}: r {r[k, i]:.3f}")
        _, cpu[k] = timed(lambda solve=solve: solve(None, iterations))
    return xr.Dataset(
        {
            "r": (("network", "iteration"), r),
            "cpu": (("network",), cpu, {"units": "s"}),
        },
        {},
        {"neurons": neurons, "steps": steps, "networks": networks},
    )


def poisson(**sizes: Any) -> Any:
    """`recovery` with Poisson noise of rates 1e-2 and 1e-1, and threshold 1/2."""
    return recovery(
        noise=(1e-2, 1e-1),
        law=PoissonNoise,
        threshold=0.5,
        force_ridge=100.0,
        **{"steps": 1500, **sizes},
    )


def _xarray():
    try:
        import xarray
    except ImportError as error:
        raise ImportError(
            'studies need xarray, which is not installed: pip install "rnndyn[data]".'
        ) from error
    return xarray
