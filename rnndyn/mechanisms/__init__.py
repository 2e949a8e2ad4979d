"""Naming what was found: by which mechanism a network holds a memory."""

from ._classify import (
    AbstractClassifier as AbstractClassifier,
    DecisionList as DecisionList,
    classify as classify,
)
from ._features import Features as Features, measure as measure
from ._mechanism import (
    MECHANISMS as MECHANISMS,
    Mechanism as Mechanism,
    MechanismReport as MechanismReport,
)
from ._report import (
    Pulses as Pulses,
    Report as Report,
    analyse as analyse,
)
from ._run import (
    FreeRun as FreeRun,
    LateRun as LateRun,
    flow_map as flow_map,
    free_run as free_run,
    settle as settle,
)
