"""An engine that is not there: it speaks vLLM's OpenAI wire, and says in every answer that it is simulated.

The demo runs it in place of a GPU; the tests run it because it can also misbehave on purpose, byte by
byte (`faults`). Nothing here knows of the proxy, of experiments or of the ledger: to them this is one
more engine behind a URL.

    async with SimulatedEngine(Profile(name="chat-v2", quality=0.9)) as engine:
        ...  engine.url, engine.counters
    with running_engine() as engine: ...                     # the same in a thread, for synchronous code
    python -m turnout.simulation --port 9001 --name chat-v2  # the same as a process
"""

from __future__ import annotations

from .answers import Answer, AnswerKey, AnswerKeyError, ToolCall
from .counters import Abort, Counters
from .engine import SimulatedEngine, running_engine
from .faults import FaultError, Faults
from .profile import Profile, ProfileError

__all__ = [
    "Abort",
    "Answer",
    "AnswerKey",
    "AnswerKeyError",
    "Counters",
    "FaultError",
    "Faults",
    "Profile",
    "ProfileError",
    "SimulatedEngine",
    "ToolCall",
    "running_engine",
]
