"""Whole studies: trained, analysed, saved, drawn, compared with published numbers."""

from ._ensembles import (
    EnsembleConfig as EnsembleConfig,
    EnsembleRun as EnsembleRun,
    plot_ensemble as plot_ensemble,
    run_ensemble as run_ensemble,
    save_ensemble as save_ensemble,
)
from ._published import Check as Check, table_text as table_text
from .cornn._study import CornnStudy as CornnStudy, cornn_study as cornn_study
from .phases._checks import phase_checks as phase_checks
from .phases._scales import (
    PHASES_SCALES as PHASES_SCALES,
    PhasesConfig as PhasesConfig,
)
from .phases._study import PhasesStudy as PhasesStudy, phases_study as phases_study
from .rank2._cells import (
    RANK2_SCALES as RANK2_SCALES,
    Rank2Cell as Rank2Cell,
    Rank2Config as Rank2Config,
    rank2_networks as rank2_networks,
)
from .rank2._study import Rank2Study as Rank2Study, rank2_study as rank2_study
