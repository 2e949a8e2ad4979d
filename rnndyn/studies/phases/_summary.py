"""What the figures and tables of the phases study need of a sweep."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...mechanisms import COMPAT, KINDS, Agreement, Share
from ...mechanisms._agreement import compare, kinds_of, together
from ...training import OUTCOMES


NOT_LEARNED, LIMIT_CYCLE, SLOW_POINT, UNSTABLE = range(4)


@dataclass(frozen=True)
class Curves:
    """Mean and standard error over networks, of the last epochs."""

    epochs: np.ndarray
    mean: np.ndarray
    error: np.ndarray
    count: int


@dataclass(frozen=True)
class Summary:
    """One sweep over learning rates and delays (or response windows).

    **Attributes:**

    - `name`; `config`: of the sweep, as plain values.
    - `rates`: descending, shape `(rate,)`; `x`: delays or windows in ms, `(x,)`.
    - `code`: published class of every network, codes of `rnndyn.mechanisms.COMPAT`, -1
        where it was not trained, shape `(rate, x, seed)`. In the control without
        memory a learned network counts as a slow point.
    - `kind`: how its cues end, codes of `rnndyn.mechanisms.KINDS`; -1 if not known.
    - `index`: the published index, NaN for networks not learned.
    - `loss`, `accuracy`: `Curves` of the networks of a learning rate of about 0.1, all
        delays together, by name of published class.
    - `agreement`: of published and certified labels, if there are both.
    """

    name: str
    config: dict[str, Any]
    rates: np.ndarray
    x: np.ndarray
    code: np.ndarray
    kind: np.ndarray
    index: np.ndarray
    loss: dict[str, Curves]
    accuracy: dict[str, Curves]
    agreement: Agreement | None

    @property
    def n(self) -> np.ndarray:
        """Networks of each cell, shape `(rate, x)`."""
        return np.sum(self.code >= 0, axis=2)

    def counts(self) -> np.ndarray:
        """Not learned (or unstable), limit cycle, slow point: `(rate, x, 3)`."""
        merged = np.where(self.code == UNSTABLE, NOT_LEARNED, self.code)
        return np.stack([np.sum(merged == c, axis=2) for c in range(3)], axis=-1)

    def fractions(self) -> np.ndarray:
        """The same as shares, NaN in empty cells."""
        n = self.n[..., None]
        return np.where(n > 0, self.counts() / np.maximum(n, 1), np.nan)

    def kind_counts(self) -> np.ndarray:
        """Not learned, then learned ones by `KINDS`: `(rate, x, 1 + kinds)`."""
        learned = np.isin(self.code, (LIMIT_CYCLE, SLOW_POINT))
        lost = np.sum((self.code >= 0) & ~learned, axis=2)
        kinds = [np.sum(learned & (self.kind == k), axis=2) for k in range(len(KINDS))]
        return np.stack([lost, *kinds], axis=-1)

    def cells(self) -> dict[tuple[int, float, int], np.ndarray]:
        """Counts by `(post_ms, learning rate, delay_ms)`."""
        post, counts = round(1000 * self.config["post_reaction"]), self.counts()
        return {
            (post, float(rate), round(float(x))): counts[i, j]
            for i, rate in enumerate(self.rates)
            for j, x in enumerate(self.x)
        }

    def share(self, code: int) -> Share:
        """Networks of a published class, of all."""
        return Share.of(self.counts()[..., code].sum(), self.n.sum())

    def complete(self) -> bool:
        """Whether every network of the grid is there."""
        return bool(np.all(self.code >= 0))


def summarise(name: str, sweep: Any) -> Summary:
    """Everything that figures and tables need of a `rnndyn.sweeps.Sweep`."""
    arrays, axes = sweep.arrays, sweep.grid.axes
    along = "reaction" if "reaction" in axes else "delay"
    names = sweep.grid.names
    order = [names.index(k) for k in ("learning_rate", along, "seed")]
    rates = np.asarray(axes["learning_rate"])
    turn = np.argsort(-rates)
    cube = lambda values, fill: _cube(sweep, values, fill).transpose(order)[turn]
    learned = arrays["outcome"] == OUTCOMES.index("learned")
    if sweep.config.protocol == "fixed_response":
        code = np.where(learned, SLOW_POINT, NOT_LEARNED)
    else:
        code = arrays["compat_code"].astype(int)
    kind = np.full(len(code), -1)
    agreed = None
    if np.any(arrays["mechanism"] >= 0):
        cues = kinds_of(
            arrays["cue_code"], arrays["evidence_late_peak"], arrays["evidence_at_root"]
        )
        kind = together(cues)
        if np.all(code >= 0):
            ambiguous = arrays["compat_ambiguous"]
            agreed = compare(code, learned, ambiguous, cues, cue=0)
    loss, accuracy = _curves(sweep, code)
    return Summary(
        name=name,
        config=sweep.config.to_dict(),
        rates=rates[turn],
        x=1000 * np.asarray(axes[along]),
        code=cube(code, -1),
        kind=cube(kind, -1),
        index=cube(arrays["compat_index"].astype(float), np.nan),
        loss=loss,
        accuracy=accuracy,
        agreement=agreed,
    )


def _cube(sweep, values, fill):
    full = np.full(sweep.grid.size, fill, np.asarray(values).dtype)
    full[sweep.rows] = values
    return full.reshape(sweep.grid.shape)


def _curves(sweep, code, rate=0.1, points=250):
    """Loss and accuracy of the rate nearest to the published one, by class."""
    rates = sweep.arrays["learning_rate"]
    if not len(rates):
        return {}, {}
    nearest = rates[np.argmin(np.abs(np.log(rates / rate)))]
    curves = sweep.curves()
    found: list[dict[str, Curves]] = []
    for key in ("last_loss", "last_accuracy"):
        values = np.asarray(curves[key], float)
        epochs = np.arange(values.shape[1]) + 1
        every = max(1, values.shape[1] // points)
        by_class = {}
        for c, label in enumerate(COMPAT):
            rows = values[np.isclose(rates, nearest) & (code == c)]
            if len(rows):
                known = np.maximum(np.sum(np.isfinite(rows), axis=0), 1)
                mean = np.nansum(rows, axis=0) / known
                spread = np.sqrt(np.nansum((rows - mean) ** 2, axis=0) / known)
                error = spread / np.sqrt(known)
                cut = slice(every - 1, None, every)
                by_class[label] = Curves(epochs[cut], mean[cut], error[cut], len(rows))
        found.append(by_class)
    return found[0], found[1]
