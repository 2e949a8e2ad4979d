"""How well a fitted network predicts frames, cells and statistics held out of it."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from .._core._batch import in_double
from .._core._checks import check_count, check_key, check_shape
from .._core._export import Result
from .._core._types import KeyLike
from ._metrics import (
    checked_weights,
    finite_rows,
    linear_regression,
    share_explained,
    train_rows,
    variation,
)
from ._problem import Rows, check_alpha, check_ridge, doubles


class HeldOut(Result):
    r"""One-step (teacher-forced) predictions of frames that were not fitted.

    **Attributes:**

    - `predictors`: names, in the order of the first axis of what follows.
    - `r2_d`: share of the variance of the targets d that is explained, all neurons
        pooled, shape `(predictor,)`. The targets depend on alpha: compare predictors,
        not values of alpha.
    - `skill`: 1 - (error of r_{t+1}) / (error of r_{t+1} = r_t), squares pooled. The
        same yardstick for every alpha; 0 for persistence.
    - `r2_rates`: share of the variance of r_{t+1}; near 1 for slow signals whatever
        the weights are.
    - `r2_d_neuron`, `skill_neuron`: neuron by neuron; NaN where nothing varies.
    - `clipped`: share of all targets outside (-1, 1), which no network can reach.
    """

    r2_d: Float[np.ndarray, " predictor"]
    skill: Float[np.ndarray, " predictor"]
    r2_rates: Float[np.ndarray, " predictor"]
    r2_d_neuron: Float[np.ndarray, "predictor neuron"]
    skill_neuron: Float[np.ndarray, "predictor neuron"]
    clipped: Float[np.ndarray, ""]
    predictors: tuple[str, ...] = eqx.field(static=True)

    def headline(self) -> str:
        """R2 of the targets and skill of every predictor."""
        rows = zip(self.predictors, self.r2_d, self.skill, strict=True)
        return "; ".join(f"{n}: r2_d {a:.4g}, skill {b:.4g}" for n, a, b in rows)

    def __getitem__(self, name: str) -> dict[str, float]:
        """The three pooled scores of one predictor."""
        i = self.predictors.index(name)
        scores = {"r2_d": self.r2_d, "skill": self.skill, "r2_rates": self.r2_rates}
        return {k: float(v[i]) for k, v in scores.items()}


def held_out(
    thetas: Any,
    rates: Any,
    inputs: Any = None,
    *,
    alpha: Any,
    train: Any = None,
    train_inputs: Any = None,
    ridge: float = 1e-5,
) -> HeldOut:
    r"""One-step scores of networks on held-out frames, beside two plain predictors.

    A network with weights theta predicts r_{t+1} = (1 - alpha) r_t + alpha tanh(x_t
    theta). Beside it stand *persistence*, r_{t+1} = r_t (so d = r_t), and, if `train`
    is given, *ridge*, the linear regression of d on x_t with the penalty `ridge` a row.

    ```python
    scores = held_out(fit.theta, test, alpha=0.5, train=train)
    scores["model"]["r2_d"], scores["ridge"]["r2_d"], scores["persistence"]["r2_d"]
    ```

    **Arguments:**

    - `thetas`: weights `(neuron + input, neuron)`, or a dictionary of such by name; one
      alone is called "model".
    - `rates`, `inputs`: held-out frames as `cornn` takes them, scaled with the map of
      the training part.
    - `alpha`: `dt / tau`, a number or one a neuron.
    - `train`, `train_inputs`: frames that ridge is fitted to.
    - `ridge`: penalty of the linear regression, per row.

    **Returns:** `HeldOut`, in float64. Host level. A good one-step score does not say
    that the network runs freely like the recording: see `compare_activity`.

    **Raises:** a `ValueError` for NaN rates, shapes that do not match, or weights that
    bear the name of a plain predictor.
    """
    rows = finite_rows("rates", rates, inputs, alpha)
    named = dict(thetas) if isinstance(thetas, Mapping) else {"model": thetas}
    taken = {"persistence", "ridge"} & set(named)
    if taken:
        raise ValueError(
            f"thetas are named {sorted(taken)}, the names of the plain predictors. "
            "Pass other names."
        )
    x, d, a = np.asarray(rows.x), np.asarray(rows.d), np.asarray(rows.alpha)
    r, ahead = np.asarray(rows.r), np.asarray(rows.r_next)
    predictions = {
        name: np.tanh(x @ checked_weights(name, theta, rows))
        for name, theta in named.items()
    }
    predictions["persistence"] = r
    if train is not None:
        check_ridge(ridge)
        fitted = train_rows(
            train, train_inputs, alpha, (rows.num_neurons, rows.num_inputs)
        )
        predictions["ridge"] = x @ ridge_weights(fitted, ridge)
    total, total_r = variation(d), variation(ahead)
    still = ((ahead - r) ** 2).sum(axis=0)
    out: dict[str, list[Any]] = {
        k: [] for k in ("r2_d", "skill", "r2_rates", "r2_d_neuron", "skill_neuron")
    }
    for predicted in predictions.values():
        missed = ((d - predicted) ** 2).sum(axis=0)
        missed_r = ((ahead - (1 - a) * r - a * predicted) ** 2).sum(axis=0)
        out["r2_d"].append(share_explained(missed.sum(), total.sum()))
        out["skill"].append(share_explained(missed_r.sum(), still.sum()))
        out["r2_rates"].append(share_explained(missed_r.sum(), total_r.sum()))
        out["r2_d_neuron"].append(share_explained(missed, total))
        out["skill_neuron"].append(share_explained(missed_r, still))
    raw = (ahead - (1 - a) * r) / a
    return HeldOut(
        **{k: np.array(v, np.float64) for k, v in out.items()},
        clipped=np.asarray(np.mean(np.abs(raw) >= 1), np.float64),
        predictors=tuple(predictions),
    )


def ridge_weights(rows: Rows, ridge: float) -> Float[np.ndarray, "predictor neuron"]:
    """Linear regression of d on x, see `linear_regression`."""
    return linear_regression(np.asarray(rows.x), np.asarray(rows.d), ridge)


def one_step_residuals(
    theta: Any, rates: Any, inputs: Any = None, *, alpha: Any
) -> Float[np.ndarray, "row neuron"]:
    """What one-step predictions miss, `(r_{t+1} - (1 - alpha) r_t) / alpha - tanh(x_t
    theta)`, not clipped; the noise that `free_run` may draw from."""
    rows = finite_rows("rates", rates, inputs, alpha)
    a, r = np.asarray(rows.alpha), np.asarray(rows.r)
    raw = (np.asarray(rows.r_next) - (1 - a) * r) / a
    return raw - np.tanh(np.asarray(rows.x) @ checked_weights("theta", theta, rows))


def free_run(
    theta: Any,
    x0: Any,
    steps: int,
    inputs: Any = None,
    *,
    alpha: Any,
    residuals: Any = None,
    transient: int = 0,
    key: KeyLike | None = None,
) -> Float[np.ndarray, "time neuron"]:
    r"""The network on its own, r_{t+1} = (1-alpha) r_t + alpha (tanh(x_t theta) + e_t).

    ```python
    e = one_step_residuals(fit.theta, train, alpha=0.5)
    run = free_run(fit.theta, train[-1], 2000, alpha=0.5, residuals=e, key=key)
    compare_activity(test, run).spectrum_distance
    ```

    **Arguments:**

    - `theta`: weights `(neuron + input, neuron)`; `x0`: first frame, `(neuron,)`.
    - `steps`: frames to return, the first of which is `x0` unless there is a
      `transient`, which is run before and not returned.
    - `inputs`: `(transient + steps, input)`, where the network has inputs.
    - `residuals`: `(row, neuron)`; e_t is drawn from their rows with replacement, whole
      frames at a time, so that their correlations between neurons stay; none by
      default.
    - `alpha`: `dt / tau` in (0, 1], a number or one a neuron.
    - `key`: needed with `residuals`.

    **Returns:** rates `(time, neuron)`, float64 NumPy. Host level.

    **Raises:** a `ValueError` for shapes that do not match, or `alpha` outside (0, 1].
    """
    check_alpha(np.asarray(alpha))
    check_count("steps", steps, 0)
    check_count("transient", transient, 0)
    check_shape("x0", x0, (None,), "Pass one frame, a rate a neuron.")
    neurons, total = np.shape(x0)[0], transient + steps
    check_shape("theta", theta, (None, neurons), "Predictor first, as fit.theta.")
    if np.ndim(alpha):
        check_shape("alpha", alpha, (neurons,), "A number, or one a neuron.")
    with in_double():
        x0 = jnp.asarray(np.asarray(x0), jnp.float64)
        theta = jnp.asarray(np.asarray(theta), jnp.float64)
        if theta.shape[0] > neurons and inputs is None:
            raise ValueError(
                f"the network has {theta.shape[0] - neurons} inputs: pass `inputs` of "
                f"shape ({total}, {theta.shape[0] - neurons})."
            )
        u = np.zeros((total, 0)) if inputs is None else np.asarray(inputs)
        expected = (total, theta.shape[0] - neurons)
        if u.shape != expected:
            raise ValueError(
                f"theta {theta.shape}, x0 {x0.shape} and inputs {u.shape} do not fit: "
                f"expected inputs of shape {expected}, a row a step."
            )
        if residuals is None:
            pool, rows = np.zeros((1, neurons)), np.zeros(total, int)
        elif key is None:
            raise ValueError("`residuals` are drawn at random: pass key=.")
        else:
            check_key(key)
            pool = np.asarray(residuals, np.float64)
            if pool.ndim != 2 or pool.shape[1] != neurons or not len(pool):
                raise ValueError(
                    f"residuals have shape {pool.shape}, expected (row, {neurons}) "
                    "with at least one row: pass what `one_step_residuals` returns."
                )
            rows = np.asarray(jax.random.randint(key, (total,), 0, len(pool)))
        a = jnp.broadcast_to(jnp.asarray(np.asarray(alpha), jnp.float64), (neurons,))
        run = _run(theta, a, x0, jnp.asarray(u, jnp.float64), jnp.asarray(pool), rows)
        return np.asarray(run)[transient:]


@jax.jit
def _run(theta, alpha, x0, inputs, pool, rows):
    def step(r, now):
        u, row = now
        new = jnp.tanh(jnp.concatenate([r, u]) @ theta) + pool[row]
        return (1 - alpha) * r + alpha * new, r

    return jax.lax.scan(step, x0, (inputs, rows))[1]


class ActivityDistance(Result):
    r"""Statistics of a free run against those of a recording.

    **Attributes:**

    - `mean_error`: rms over neurons of the difference of means, in units of the
        reference's standard deviation (rms over neurons).
    - `variance_ratio`: run / reference, pooled over neurons.
    - `variance_correlation`: Pearson, over neurons, of log variances.
    - `correlation_agreement`: Pearson, over pairs, of pairwise correlations;
      `correlation_error`: their rms difference.
    - `spectrum_distance`: Hellinger distance of normalised power spectra, mean over
        neurons, 0 (same) to 1 (disjoint).
    - `neurons`: how many vary in both; the others are left out of all but the means
        and the pooled variance. With fewer than 2 the rest is NaN.
    """

    mean_error: Float[np.ndarray, ""]
    variance_ratio: Float[np.ndarray, ""]
    variance_correlation: Float[np.ndarray, ""]
    correlation_agreement: Float[np.ndarray, ""]
    correlation_error: Float[np.ndarray, ""]
    spectrum_distance: Float[np.ndarray, ""]
    neurons: Int[np.ndarray, ""]

    def headline(self) -> str:
        """All of them."""
        rows = {k: v for k, v in vars(self).items() if k != "neurons"}
        line = ", ".join(f"{k.replace('_', ' ')} {v:.3g}" for k, v in rows.items())
        return f"{line}; {self.neurons} neurons"


def compare_activity(
    reference: Any, run: Any, *, segment: int = 256
) -> ActivityDistance:
    """Means, variances, pairwise correlations and power spectra of two recordings.

    Compare the numbers with those of two parts of the recording itself: no network
    can be expected to come closer than that.

    ```python
    floor = compare_activity(train, test)
    ours = compare_activity(test, free_run(theta, train[-1], len(test), alpha=0.5))
    ```

    **Arguments:**

    - `reference`, `run`: rates `(time, neuron)` of the same neurons on the same grid;
      lengths may differ.
    - `segment`: frames per segment of the spectra (Hann windows, half overlapping),
      cut to the shorter of the two.

    **Returns:** `ActivityDistance`, in float64. A network that stays put has no
    spectrum: its neurons are then left out and counted.

    **Raises:** a `ValueError` for NaN, other neurons, or under 8 frames.

    **Reference:** J. M. Mikhaeil, Z. Monfared & D. Durstewitz 2022, arXiv:2110.07238
    (distances of spectra and of distributions for reconstructed systems).
    """
    a = doubles("reference", reference)
    b = doubles("run", run)
    if (
        a.ndim != 2
        or b.ndim != 2
        or a.shape[1] != b.shape[1]
        or min(len(a), len(b)) < 8
    ):
        raise ValueError(
            f"got rates of shapes {a.shape} and {b.shape}, expected (time, neuron) "
            "with the same neurons and at least 8 frames each."
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(
            "the reference or the run holds NaN or infinity, expected finite rates. "
            "Leave those neurons or frames out of both."
        )
    check_count("segment", segment, 2)
    var_a, var_b = variation(a) / len(a), variation(b) / len(b)
    spread = np.sqrt(var_a.mean())
    floor = 1e-9 * spread
    good = (np.sqrt(var_a) > floor) & (np.sqrt(var_b) > floor)
    nan = float("nan")
    variances = pairs = (nan, nan)
    distance = nan
    if good.sum() >= 2:
        x, y = a[:, good], b[:, good]
        logs = np.log(x.var(axis=0)), np.log(y.var(axis=0))
        off = np.triu_indices(int(good.sum()), 1)
        c, e = np.asarray(np.corrcoef(x.T))[off], np.asarray(np.corrcoef(y.T))[off]
        variances = (_pearson(*logs), nan)
        pairs = (_pearson(c, e), np.sqrt(np.mean((c - e) ** 2)))
        size = min(segment, len(a), len(b))
        p, q = power_spectrum(x, size), power_spectrum(y, size)
        overlap = np.sqrt(p * q).sum(axis=0)
        distance = np.mean(np.sqrt(np.clip(1 - overlap, 0, None)))
    shift = np.sqrt(np.mean((a.mean(axis=0) - b.mean(axis=0)) ** 2))
    numbers = {
        # Of a reference that does not vary there is no unit.
        "mean_error": shift / spread if spread > 0 else nan,
        "variance_ratio": var_b.sum() / var_a.sum() if spread > 0 else nan,
        "variance_correlation": variances[0],
        "correlation_agreement": pairs[0],
        "correlation_error": pairs[1],
        "spectrum_distance": distance,
    }
    return ActivityDistance(
        **{k: np.asarray(v, np.float64) for k, v in numbers.items()},
        neurons=np.asarray(int(good.sum())),
    )


def power_spectrum(
    rates: Any, segment: int = 256
) -> Float[np.ndarray, "frequency neuron"]:
    """Power by frequency (cycles a frame, k / segment, k >= 1), summing to 1 for every
    neuron (NaN where it does not vary): the mean over Hann-windowed, half-overlapping
    segments without their means.

    **Reference:** P. Welch 1967, doi:10.1109/TAU.1967.1161901.
    """
    rates = doubles("rates", rates)
    check_shape("rates", rates, (None, None), "Pass (time, neuron).")
    check_count("segment", segment, 2)
    size = min(segment, len(rates))
    starts = range(0, len(rates) - size + 1, max(1, size // 2))
    # The periodic form of the window; the symmetric one leaks a little more.
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    power = np.zeros((size // 2 + 1, rates.shape[1]))
    for s in starts:
        piece = rates[s : s + size]
        # The first frame first: the mean of a constant is rounded.
        piece = piece - piece[:1]
        piece = (piece - piece.mean(axis=0)) * window[:, None]
        power += np.abs(np.fft.rfft(piece, axis=0)) ** 2
    if size % 2 == 0:
        # Every other frequency has a negative twin of the same power.
        power[-1] /= 2
    power = power[1:]
    with np.errstate(invalid="ignore"):
        return power / power.sum(axis=0)


def _pearson(a, b) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / size) if size > 0 else float("nan")
