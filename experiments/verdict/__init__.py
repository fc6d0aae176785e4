"""What follows from the evidence? Pure: sums in, a verdict out, no I/O, no clock, no state.

`compare` holds the arms, or their pairs, against each other, goal by goal (`contrast`, `pairing`, `sketch`,
`adjustment`, `turns`); `weigh` adds what may be doubted (`validity`) and how far one is (`looks`); `conclude`
says what follows (`shipping`, `reasons`). The formulas are `experiments.statistics`.
"""

from ..decision import VerdictKind
from ..evidence import (
    AnalysisSpec,
    ArmCount,
    Evidence,
    Goal,
    Look,
    MetricSums,
    Mode,
    Overlap,
    PairSums,
    Role,
)
from .conclusion import Verdict, conclude
from .looks import LookState, look_taken
from .validity import SampleRatio
from .weighing import Reason

__all__ = [
    "AnalysisSpec",
    "ArmCount",
    "Evidence",
    "Goal",
    "Look",
    "LookState",
    "MetricSums",
    "Mode",
    "Overlap",
    "PairSums",
    "Reason",
    "Role",
    "SampleRatio",
    "Verdict",
    "VerdictKind",
    "conclude",
    "look_taken",
]
