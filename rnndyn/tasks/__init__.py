"""Tasks: trials as pure, jittable functions of a key."""

from ._base import (
    AbstractTask as AbstractTask,
    Score as Score,
    Trial as Trial,
    per_member as per_member,
)
from ._memory import (
    DelayedActivation as DelayedActivation,
    DelayedCueDiscrimination as DelayedCueDiscrimination,
    FixedResponse as FixedResponse,
)
