"""Is a new version safe to ask at all? Drift against production, found before anybody's traffic meets it."""

from evaluators.preflight.answers import Asker
from evaluators.preflight.finding import CHECKS, Finding, Report
from evaluators.preflight.probes import PROBES, Probe, of_items
from evaluators.preflight.run import NotServed, Side, fingerprint_of, preflight, record, side

__all__ = [
    "CHECKS",
    "PROBES",
    "Asker",
    "Finding",
    "NotServed",
    "Probe",
    "Report",
    "Side",
    "fingerprint_of",
    "of_items",
    "preflight",
    "record",
    "side",
]
