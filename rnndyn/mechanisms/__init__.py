"""Naming what was found: by which mechanism a network holds a memory."""

from ._agreement import (
    KINDS as KINDS,
    Agreement as Agreement,
    Share as Share,
    agreement as agreement,
    cohen_kappa as cohen_kappa,
    cue_kinds as cue_kinds,
    network_kinds as network_kinds,
)
from ._classify import (
    AbstractClassifier as AbstractClassifier,
    DecisionList as DecisionList,
    classify as classify,
)
from ._compat import (
    COMPAT as COMPAT,
    CompatLabels as CompatLabels,
    compat_labels as compat_labels,
)
from ._cue_attractors import (
    CueAttractors as CueAttractors,
    cue_attractors as cue_attractors,
)
from ._features import Features as Features, measure as measure
from ._free_runs import Pulses as Pulses
from ._index import (
    discrimination_index as discrimination_index,
    sign_index as sign_index,
)
from ._latent_map import latent_map as latent_map
from ._mechanism import (
    MECHANISMS as MECHANISMS,
    Mechanism as Mechanism,
    MechanismReport as MechanismReport,
)
from ._report import Report as Report, analyse as analyse
from ._run import flow_map as flow_map
from ._winding import Rotation as Rotation, Winding as Winding, winding as winding
