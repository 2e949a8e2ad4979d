"""How close fitted weights come to true ones, and how well they predict a frame."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .._core._batch import to_host
from .._core._checks import check_shape, is_concrete
from .._core._export import Result
from ._problem import Real, Rows, check_values, doubles, regression_rows


class OneStepR2(Result):
    r"""Shares of variance that one-step predictions explain.

    **Attributes:**

    - `d`: of the targets `d_t` (the part of a frame that is new), all neurons pooled:
      `1 - sum (d - tanh z)^2 / sum (d - mean_t d)^2`.
    - `r`: of the rates `r_{t+1}`. At small `alpha` it is near 1 for almost any weights,
      since most of a frame is the one before; do not judge by it.
    - `d_per_neuron`, `r_per_neuron`: the same for each neuron; NaN for a constant one.
    """

    d: Float[Real, ""]
    r: Float[Real, ""]
    d_per_neuron: Float[Real, " neuron"]
    r_per_neuron: Float[Real, " neuron"]

    def headline(self) -> str:
        """The pooled shares."""
        return f"d {self.d:.4g}, r {self.r:.4g}"


def weight_correlation(true: Any, fitted: Any) -> Any:
    """Pearson correlation of two weight matrices over all entries.

    ```python
    weight_correlation(W, fit.W)
    ```

    **Arguments:** `true`, `fitted`: of one shape; a zero diagonal counts.

    **Returns:** `r` in [-1, 1]. It does not see a wrong scale: look at `slope` too.
    """
    a, b = _pair(true, fitted)
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / ((a * a).sum() * (b * b).sum()) ** 0.5


def slope(true: Any, fitted: Any) -> Any:
    """`<w, v> / <w, w>`: 1 where fitted weights `v` have the true scale."""
    a, b = _pair(true, fitted)
    return (a * b).sum() / (a * a).sum()


def rmse(true: Any, fitted: Any) -> Any:
    """Root mean square difference of two weight matrices."""
    a, b = _pair(true, fitted)
    return ((a - b) ** 2).mean() ** 0.5


def one_step_r2(theta: Any, rows: Rows) -> OneStepR2:
    """One-step (teacher-forced) predictions against what came.

    ```python
    rows = regression_rows(held_out, alpha=0.1)
    one_step_r2(fit.theta, rows).d
    ```

    **Arguments:**

    - `theta`: weights `(predictor, neuron)`, see `stack_weights`.
    - `rows`: frames of the same neurons and inputs, best held out of the fit.

    **Returns:** `OneStepR2`. Neurons with NaN are left out of the pooled shares. Says
    nothing about how the network runs freely.
    """
    shape = (rows.num_predictors, rows.num_neurons)
    check_shape("theta", theta, shape, "Predictor first, as fit.theta.")
    if is_concrete(rows.rates) and is_concrete(theta):
        with jax.enable_x64(True):
            rows = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), rows)
            return to_host(_one_step(jnp.asarray(theta, jnp.float64), rows))
    return _one_step(theta, rows)


def stack_weights(W: Any, W_in: Any = None) -> Any:
    """`theta = [W, W_in]^T`, `(predictor, neuron)`, from `W` `(neuron, neuron)`,
    postsynaptic first, and `W_in` `(neuron, input)`."""
    if W_in is None:
        return W.T
    module = jnp if isinstance(W, jax.Array) else np
    return module.concatenate([W, W_in], axis=1).T


def _pair(true, fitted):
    """Both flat; NumPy's in float64 if they are concrete."""
    if is_concrete(true) and is_concrete(fitted):
        a, b = np.asarray(true, np.float64), np.asarray(fitted, np.float64)
    else:
        a, b = jnp.asarray(true), jnp.asarray(fitted)
    if a.shape != b.shape:
        raise ValueError(
            f"true weights have shape {a.shape}, fitted ones {b.shape}; expected the "
            "same. Take fit.W, which is postsynaptic neuron first."
        )
    return a.ravel(), b.ravel()


@jax.jit
def _one_step(theta, rows):
    theta = jnp.asarray(theta, rows.rates.dtype)
    r, r_next, alpha = rows.r, rows.r_next, rows.alpha[None, :]
    bad = ~jnp.all(jnp.isfinite(rows.rates), axis=0)
    # A neuron with NaN says nothing: as a predictor it counts as silent.
    keep = jnp.concatenate([~bad, jnp.ones(rows.num_inputs, bool)])
    x = jnp.where(keep[None, :], rows.x, 0)
    d = jnp.where(bad[None, :], 0, rows.d)
    r = jnp.where(bad[None, :], 0, r)
    r_next = jnp.where(bad[None, :], 0, r_next)
    predicted = jnp.tanh(x @ jnp.where(keep[:, None], theta, 0))
    shares = [
        _shares(d, predicted, ~bad),
        _shares(r_next, (1 - alpha) * r + alpha * predicted, ~bad),
    ]
    return OneStepR2(
        d=shares[0][0],
        r=shares[1][0],
        d_per_neuron=shares[0][1],
        r_per_neuron=shares[1][1],
    )


def _shares(target, predicted, good):
    """Explained variance pooled over good neurons, and neuron by neuron."""
    missed = jnp.where(good, jnp.sum((target - predicted) ** 2, axis=0), 0)
    total = jnp.where(good, variation(target), 0)
    varies = total > 0
    each = jnp.where(varies, 1 - missed / jnp.where(varies, total, 1), jnp.nan)
    whole = jnp.sum(total)
    pooled = 1 - jnp.sum(missed) / jnp.where(whole > 0, whole, 1)
    return jnp.where(whole > 0, pooled, jnp.nan), each


def linear_regression(x: Any, y: Any, ridge: float) -> Float[np.ndarray, "p n"]:
    """`(X^T X + ridge T)^-1 X^T y`, without intercept; without a ridge the smallest of
    the weights that fit best."""
    if ridge == 0:
        return np.linalg.lstsq(x, y, rcond=None)[0]
    return np.linalg.solve(x.T @ x + ridge * len(x) * np.eye(x.shape[1]), x.T @ y)


def variation(a: Any) -> Any:
    """Sum of squares about the mean along the first axis, exactly 0 for what is
    constant: the mean of many equal numbers is rounded, that of many zeros is not."""
    a = a - a[:1]
    return ((a - a.mean(axis=0, keepdims=True)) ** 2).sum(axis=0)


def share_explained(missed: Any, total: Any) -> Any:
    """`1 - missed / total`, NaN where nothing varies."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, 1 - missed / total, np.nan)


def finite_rows(name: str, rates: Any, inputs: Any, alpha: Any) -> Rows:
    """Rows in float64 of frames without NaN."""
    # Trial by trial: they may differ in length.
    listed = isinstance(rates, list | tuple)
    double = lambda r: doubles(name, r)
    rates = [double(r) for r in rates] if listed else double(rates)
    rows = regression_rows(rates, inputs, alpha=alpha, check=False)
    bad = int(np.sum(~np.isfinite(rows.rates)))
    if bad:
        raise ValueError(
            f"`{name}` has {bad} non-finite entries, "
            "expected none: leave those neurons or frames out of the scores."
        )
    check_values(rows)
    return rows


def train_rows(train: Any, inputs: Any, alpha: Any, sizes: tuple[int, int]) -> Rows:
    """Rows of the training part, of as many neurons and inputs as are scored."""
    rows = finite_rows("train", train, inputs, alpha)
    if (rows.num_neurons, rows.num_inputs) != sizes:
        raise ValueError(
            f"`train` has {rows.num_neurons} neurons and {rows.num_inputs} inputs, "
            f"expected {sizes[0]} and {sizes[1]} as the held-out frames have."
        )
    return rows


def checked_weights(name: str, theta: Any, rows: Rows) -> Float[np.ndarray, "p n"]:
    """Weights in float64, of the shape that the rows want."""
    theta = np.asarray(theta, np.float64)
    expected = (rows.num_predictors, rows.num_neurons)
    if theta.shape != expected:
        raise ValueError(
            f"{name} has shape {theta.shape}, expected {expected}: (neurons + inputs, "
            "neurons), as `fit.theta`."
        )
    return theta
