"""The published sweeps, as plain values."""

from typing import Any

import numpy as np


def _decades(first, last, count):
    return np.logspace(first, last, count).tolist()


_BROAD = _decades(-1, -3, 15)
_NARROW = _decades(-0.5, -2, 20)[:15]
_DELAYS = [0.02 * i for i in range(21)]


def _sweep(name: str, rates: Any, delays: Any, seeds: int, **fields: Any) -> dict:
    grid = {"learning_rate": rates, "delay": delays, "seed": seeds}
    return {"name": name, "grid": grid, **fields}


PUBLISHED: dict[str, dict[str, Any]] = {
    table["name"]: table
    for table in (
        _sweep("nopost", sorted([*_BROAD, *_NARROW], reverse=True), _DELAYS, 100),
        _sweep("nopost_broad", _BROAD, _DELAYS, 100),
        _sweep("nopost_narrow", _NARROW, _DELAYS, 100),
        _sweep("post", _BROAD, _DELAYS, 20, post_reaction=0.03, rate_epochs=100.0),
        _sweep("longtau", _decades(-1, -3, 10), [2 * d for d in _DELAYS], 20, tau=0.02),
        {
            "name": "nomemory",
            "protocol": "fixed_response",
            "grid": {
                "learning_rate": _decades(0, -3, 20),
                "reaction": [0.02 * i for i in range(1, 21)],
                "seed": 20,
            },
            "delay": 0.0,
            "min_epochs": 3000,
            "rate_epochs": 0.0,
            "labels": (),
        },
        {
            "name": "rank2",
            "protocol": "delayed_activation",
            "grid": {
                "post_reaction": [0.0, 0.03],
                "delay": [0.005 * n for n in range(6, 21, 2)],
                "seed": 100,
            },
            "learning_rate": 0.005,
            "momentum": 0.0,
            "weight_decay": 0.0,
            "reaction": 0.01,
            "noise": 0.0,
            "batch": 1,
            "min_epochs": 500_000,
            "rate_epochs": 0.0,
            "long_delay": 0.04,
            "long_epochs": 1_500_000,
            "record_every": 5000,
            "pad_steps": 4,
            "labels": ("primary",),
        },
    )
}
