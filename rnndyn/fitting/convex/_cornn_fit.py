"""What `cornn` returns."""

import enum

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from ..._core._verdicts import Verdict
from ...models import RateRNN
from .._fit import AbstractFit, verdicts_in_words
from .._problem import Real


MANY_CLIPPED = 0.2
"""Share of all clipped targets above which `cornn` warns."""
FAR = 0.1
"""Gradient of a neuron above which `cornn` warns."""


class NeuronFlag(enum.IntEnum):
    """What is wrong with a neuron's recording."""

    fine = 0
    not_finite = 1
    constant = 2
    saturated = 3


class CornnFit(AbstractFit):
    r"""A network fitted to rates.

    **Attributes:**

    - `theta`: weights, recurrent ones first, `(predictor, neuron)`; column `i` holds
      what comes into neuron `i`. `W` and `W_in` are its parts, postsynaptic first.
    - `alpha`: `dt / tau` of every neuron; `dt` in seconds (1 if none was given).
    - `ridge`: as given.
    - `gradient_norm`: root mean square of every neuron's gradient of the mean loss, at
      `theta`; under a constraint with the multipliers of ADMM added (the residual of
      the optimality conditions).
    - `kept`: share of every neuron's samples that were no outliers; 0 for neurons
      left out.
    - `kept_changed`: samples that became or ceased to be outliers in the last step;
      all before the first.
    - `clipped`: share of targets outside (-1, 1), which were clipped.
    - `flag`: what is wrong with a neuron, codes of `NeuronFlag`. Those that are not
      finite or constant are left out: their weights, in and out, are zero.
    - `verdict`: `root` where the gradient is below the tolerance, `diverged` where it
      or the weights grew without bound, `constant` for neurons left out, otherwise
      `undetermined`.
    - `differentiable`: whether a neuron's weights have the derivatives that the
      implicit function theorem promises: converged, and no sample changed sides in the
      last step, if there was one. Elsewhere derivatives of `theta` are wrong (NaN for a
      `rank`). They are NaN where their linear equations cannot be solved to half the
      digits.
    - `regular`: whether the predictors are independent, with the ridge, to more than
      rounding. If not, many weights fit alike and no neuron is a `root`.
    - `gap`: root mean square distance of a neuron's unconfined weights from `theta`;
      0 without a constraint.
    - `num_steps`: steps taken.
    """

    theta: Float[Real, "predictor neuron"]
    alpha: Float[Real, " neuron"]
    dt: Float[Real, ""]
    ridge: Float[Real, ""]
    gradient_norm: Float[Real, " neuron"]
    kept: Float[Real, " neuron"]
    kept_changed: Int[Real, " neuron"]
    clipped: Float[Real, " neuron"]
    flag: Int[Real, " neuron"] = eqx.field(metadata={"flags": NeuronFlag})
    verdict: Int[Real, " neuron"]
    differentiable: Bool[Real, " neuron"]
    regular: Bool[Real, ""]
    gap: Float[Real, " neuron"]
    num_steps: Int[Real, ""]

    def headline(self) -> str:
        """Sizes, and how many neurons ended with which verdict."""
        return verdicts_in_words(self.theta, self.verdict)

    @property
    def weights(self) -> Float[Real, "predictor neuron"]:
        """`theta`."""
        return self.theta

    @property
    def converged(self) -> Bool[Real, ""]:
        """Whether every neuron that was fitted, and any was, has a gradient below the
        tolerance."""
        root, left_out = Verdict.root, Verdict.constant
        settled = (self.verdict == root) | (self.verdict == left_out)
        fitted = (self.verdict == root).any(axis=-1)
        return _keep_kind(settled.all(axis=-1) & fitted)

    @property
    def diverged(self) -> Bool[Real, ""]:
        """Whether any neuron's fit diverged."""
        grown = self.verdict == Verdict.diverged
        return _keep_kind(grown.any(axis=-1))

    @property
    def model(self) -> RateRNN:
        """`network`."""
        return self.network


def remarks(fit: CornnFit, constrained: bool):
    """What to warn of once the data were looked at. The published iteration ends after
    so many steps; under constraints it has hardly begun by then."""
    lost = int(np.sum(fit.flag == NeuronFlag.not_finite))
    if lost:
        yield (
            f"{lost} of {len(fit.flag)} neurons have NaN or infinite rates and were "
            "left out: their weights are zero. Cut out those frames or neurons."
        )
    if not np.all(fit.regular):
        yield (
            "the rates and inputs are linearly dependent to rounding, and the ridge "
            "does not decide between the weights that fit alike: pass a larger ridge, "
            "or leave out neurons that are there twice."
        )
    used = fit.verdict != Verdict.constant
    share = float(np.mean(fit.clipped[used])) if used.any() else 0.0
    if share > MANY_CLIPPED:
        yield (
            f"{share:.0%} of all targets lay outside (-1, 1) and were clipped: scale "
            "the rates down, or check that alpha = dt / tau is not too small."
        )
    empty = int(np.sum(used & (fit.kept == 0)))
    if empty:
        yield (
            f"no sample of {empty} of {len(fit.flag)} neurons was kept: nothing is "
            "known of their weights. Raise the threshold of `outliers`."
        )
    going = int(np.sum(used & (fit.verdict == Verdict.undetermined)))
    if constrained and going:
        yield (
            f"{going} of {len(fit.flag)} neurons have not converged under the "
            "constraint: raise max_steps, or with a small ridge splitting=Admm(rho) "
            "tenfold."
        )
    far = used & (fit.verdict != Verdict.root) & ~(fit.gradient_norm <= FAR)
    # Who asks for the start, or for a few steps, knows that these are no minimum.
    if not constrained and far.any() and np.max(fit.num_steps) >= 10:
        yield (
            f"{far.sum()} of {len(fit.flag)} neurons are far from a minimum (gradient "
            f"up to {np.max(fit.gradient_norm[far]):.2g}): full steps are too long for "
            "them. Pass damping=Backtrack(), or a larger ridge."
        )


def _keep_kind(value):
    """NumPy's scalars as arrays, which is what the other fields are."""
    return value if isinstance(value, jax.Array) else np.asarray(value)
