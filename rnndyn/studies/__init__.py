"""Whole studies: trained, analysed, saved, drawn."""

from ._ensembles import (
    EnsembleConfig as EnsembleConfig,
    EnsembleRun as EnsembleRun,
    plot_ensemble as plot_ensemble,
    run_ensemble as run_ensemble,
    save_ensemble as save_ensemble,
)
