"""`cornn` behind the methods that scikit-learn users expect."""

import inspect
from typing import Any

import jax
import numpy as np

from .._core._types import KeyLike
from ._evaluation import free_run, one_step_residuals
from ._metrics import one_step_r2
from ._problem import doubles, regression_rows
from .convex._cornn import cornn
from .convex._cornn_fit import CornnFit, NeuronFlag
from .convex._outliers import AbstractOutliers, Reject
from .recordings._scaling import Scaling, z_scale


REJECT = Reject(threshold=1.0)


class CORNN:
    """A data-constrained network as an estimator with `fit`, `predict` and `score`.

    A thin wrapper of `cornn`; scikit-learn is not needed, but its `clone` and model
    selection take it. Samples are frames in order: split them without shuffling
    (`TimeSeriesSplit`), or pass trials `(trial, time, neuron)` and split those. With
    `inputs`, a row a frame, model selection needs scikit-learn's metadata routing,
    `sklearn.set_config(enable_metadata_routing=True)`: without it `score` gets none
    and fails. `fit`, `predict` and `score` always request them.

    ```python
    model = CORNN(alpha=0.5, ridge=1e-3, scale_limit=0.95).fit(train)
    model.score(test), model.predict(test), model.fit_.network
    ```

    **Arguments:**

    - `alpha`, `dt`, `ridge`, `outliers`, `mask`, `sign`, `rank`, `max_steps`, `tol`,
      `damping`, `splitting`: as in `cornn`.
    - `scale_limit`: if given, rates are mapped by `z_scale` with this limit, fitted to
      the training part, and predictions are mapped back; `None` leaves them as they
      are.
    - `scale_quantile`: the quantile that `z_scale` brings to the limit.

    **Attributes:** after `fit`: `fit_`, a `CornnFit`; `scaling_`, a `Scaling` or None;
    `n_features_in_`, the number of neurons.

    **Raises:** a `ValueError` if used before `fit`. What `cornn` does not guarantee is
    not guaranteed here either: look at `fit_.verdict`.
    """

    fit_: CornnFit
    scaling_: Scaling | None
    n_features_in_: int

    def __init__(
        self,
        *,
        alpha: Any = 0.1,
        dt: Any = None,
        ridge: Any = 1e-5,
        outliers: AbstractOutliers = REJECT,
        mask: Any = None,
        sign: Any = None,
        rank: Any = None,
        max_steps: Any = 30,
        tol: Any = 1e-9,
        damping: Any = 1.0,
        splitting: Any = None,
        scale_limit: float | None = None,
        scale_quantile: float = 1.0,
    ):
        # Stored as they are: clones are checked by identity.
        self.alpha = alpha
        self.dt = dt
        self.ridge = ridge
        self.outliers = outliers
        self.mask = mask
        self.sign = sign
        self.rank = rank
        self.max_steps = max_steps
        self.tol = tol
        self.damping = damping
        self.splitting = splitting
        self.scale_limit = scale_limit
        self.scale_quantile = scale_quantile

    def fit(self, X: Any, y: Any = None, *, inputs: Any = None) -> "CORNN":
        """Fit the network to rates `(time, neuron)` or `(trial, time, neuron)`, with
        `inputs` of the same leading axes; `y` is not used. Returns itself."""
        X = doubles("X", X)
        scaling = None
        if self.scale_limit is not None:
            # A neuron with NaN keeps scale 1: `cornn` leaves it out and flags it.
            whole = np.isfinite(X).all(axis=tuple(range(X.ndim - 1)))
            kept = np.where(whole | ~whole.any(), X, 0)
            scaling = z_scale(
                kept, limit=self.scale_limit, quantile=self.scale_quantile
            )
        fit = cornn(
            X if scaling is None else scaling(X),
            inputs,
            alpha=self.alpha,
            dt=self.dt,
            ridge=self.ridge,
            outliers=self.outliers,
            mask=self.mask,
            sign=self.sign,
            rank=self.rank,
            max_steps=self.max_steps,
            tol=self.tol,
            damping=self.damping,
            splitting=self.splitting,
        )
        self.fit_, self.scaling_ = fit, scaling
        self.n_features_in_ = X.shape[-1]
        return self

    def predict(self, X: Any, *, inputs: Any = None) -> np.ndarray:
        """The frame after each frame of `X`, in the units of `X` and of its shape: row
        t is the prediction of frame t + 1. `inputs` as in `fit`, a row a frame; a
        missing last one is taken to be as the one before."""
        theta = np.asarray(self._fitted().theta)
        r = self._scale(X)
        x = self._without_lost(r)
        if inputs is not None:
            x = np.concatenate([x, _row_a_frame(inputs, r)], axis=-1)
        if x.shape[-1] != theta.shape[0]:
            raise ValueError(
                f"X and inputs have {x.shape[-1]} columns, expected {theta.shape[0]}: "
                f"{self.n_features_in_} neurons and the rest inputs."
            )
        alpha = np.asarray(self.fit_.alpha)
        ahead = (1 - alpha) * r + alpha * np.tanh(x @ theta)
        return ahead if self.scaling_ is None else self.scaling_.invert(ahead)

    def score(self, X: Any, y: Any = None, *, inputs: Any = None) -> float:
        """One-step R2 of the targets d on `X`, all neurons pooled: the share of what is
        new in a frame that the network predicts. At most 1; neurons with NaN here or in
        the fit are left out, `y` is not used."""
        fit, r = self._fitted(), self._scale(X)
        r = np.where(fit.flag == NeuronFlag.not_finite, np.nan, r)
        rows = regression_rows(r, inputs, alpha=fit.alpha)
        return float(one_step_r2(fit.theta, rows).d)

    def simulate(
        self,
        X: Any,
        steps: int,
        *,
        inputs: Any = None,
        noisy: bool = False,
        key: KeyLike | None = None,
    ) -> np.ndarray:
        """A free run of `steps` frames from the last frame of `X`, `(time, neuron)`, in
        the units of `X`.

        With `noisy=True` the one-step errors on `X` are drawn as noise, with `key`.
        Neurons that were left out of the fit for their NaN rest at 0.
        `inputs`: a row for each of the `steps`; noise is for networks without inputs.

        **Raises:** a `ValueError` for `noisy=True` on a network with inputs.
        """
        fit, r = self._fitted(), self._without_lost(self._scale(X))
        errors = None
        if noisy and np.shape(fit.theta)[0] > self.n_features_in_:
            raise ValueError(
                f"noisy=True on a network with {np.shape(fit.theta)[0] - r.shape[-1]} "
                "inputs, expected none: its errors on X need the inputs of X. Take "
                "them from `one_step_residuals` and pass them to `free_run`."
            )
        if noisy:
            errors = one_step_residuals(fit.theta, r, alpha=fit.alpha)
            key = jax.random.key(0) if key is None else key
        last = r.reshape(-1, r.shape[-1])[-1]
        run = free_run(
            fit.theta, last, steps, inputs, alpha=fit.alpha, residuals=errors, key=key
        )
        return run if self.scaling_ is None else self.scaling_.invert(run)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments by name; `deep` makes no difference."""
        return {name: getattr(self, name) for name in _parameters()}

    def set_params(self, **params: Any) -> "CORNN":
        """Change arguments by name. Returns itself.

        **Raises:** a `ValueError` for unknown names.
        """
        known = _parameters()
        for name in params:
            if name not in known:
                raise ValueError(f"CORNN has no parameter {name!r}. It has {known}.")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        given = inspect.signature(CORNN.__init__).parameters
        changed = [
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if value is not given[name].default
        ]
        return f"CORNN({', '.join(changed)})"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "fit_")

    def __sklearn_tags__(self) -> Any:
        # Only scikit-learn calls this, so it is there.
        from sklearn.utils import InputTags, Tags, TargetTags

        return Tags(
            estimator_type="regressor",
            target_tags=TargetTags(required=False),
            input_tags=InputTags(three_d_array=True),
        )

    def get_metadata_routing(self) -> Any:
        """What scikit-learn may pass on: `inputs`, wherever they are taken."""
        from sklearn.utils.metadata_routing import MetadataRequest

        request = MetadataRequest(owner=self)
        for method in ("fit", "predict", "score"):
            getattr(request, method).add_request(param="inputs", alias=True)
        return request

    def _fitted(self) -> CornnFit:
        if not hasattr(self, "fit_"):
            raise ValueError("this CORNN is not fitted yet. Call fit(X) first.")
        return self.fit_

    def _without_lost(self, r: np.ndarray) -> np.ndarray:
        """Rates with 0 for neurons left out of the fit because they held NaN: they have
        no weights, but NaN times zero is NaN."""
        return np.where(self.fit_.flag == NeuronFlag.not_finite, 0, r)

    def _scale(self, X: Any) -> np.ndarray:
        self._fitted()
        X = doubles("X", X)
        if X.ndim not in (2, 3) or X.shape[-1] != self.n_features_in_:
            raise ValueError(
                f"X has shape {X.shape}, expected (time, {self.n_features_in_}) or "
                f"(trial, time, {self.n_features_in_}), as in `fit`."
            )
        return X if self.scaling_ is None else self.scaling_(X)


def _row_a_frame(inputs: Any, r: np.ndarray) -> np.ndarray:
    """Inputs for every frame of `r`; the last one of a trial may be missing."""
    u = np.asarray(inputs, np.float64)
    time = r.shape[-2]
    if u.ndim == r.ndim and u.shape[-2] == time - 1 > 0:
        u = np.concatenate([u, u[..., -1:, :]], axis=-2)
    if u.shape[:-1] != r.shape[:-1]:
        raise ValueError(
            f"inputs have shape {np.shape(inputs)}, expected {(*r.shape[:-1], 'input')}"
            f" as X has, or {time - 1} rows a trial without the last one."
        )
    return u


def _parameters() -> list[str]:
    names = inspect.signature(CORNN.__init__).parameters
    return [name for name in names if name != "self"]
