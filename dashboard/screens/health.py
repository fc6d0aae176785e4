"""Is Turnout itself well: does data arrive, do the workers follow, is anything lost?"""

import streamlit as st

from .. import chips, figures
from ..answers import Health, Worker
from ..client import path
from ..inert import prose
from ..live import STALE_AFTER_S, Loaded, load, refreshed, usable
from . import status

# A worker polls for a new snapshot at least every 20 s; two missed polls are a sign.
WORKER_LATE_S = 45.0


def page() -> None:
    """Draw the page."""
    body()


@refreshed
def body() -> None:
    """All of it, drawn anew every few seconds."""
    loaded: Loaded[Health] = load(Health, path("health"))
    health = usable(loaded, "The state of Turnout")
    if health is None:
        return
    for sentence in complaints(health):
        st.warning(prose(sentence, 600), icon=":material/warning:")
    _tiles(health)
    _workers(health)
    _registry(health)


def complaints(health: Health) -> list[str]:
    """What a person should look at, in sentences; empty if all is well."""
    found = []
    if health.losses:
        found.append(
            f"{figures.count(health.losses)} exchanges were answered but not recorded: "
            "is the disk full, or the spool not writable?"
        )
    collector = health.collector
    lag = collector.lag_s if collector is not None and not status.idle(health) else None
    if lag is not None and lag > STALE_AFTER_S:
        found.append(f"The collector is {figures.span(lag)} behind the traffic.")
    late = [worker for worker in health.workers if behind(worker, health.snapshot)]
    if late:
        found.append(f"{len(late)} of {len(health.workers)} workers do not hold snapshot {health.snapshot}.")
    if not health.workers:
        found.append("No proxy worker has asked for a snapshot: is `turnout proxy` running?")
    if health.registry is not None and health.registry.ok is False:
        found.append(
            f"The registry does not answer: {health.registry.error or 'no reason given'}. "
            "Traffic is not affected."
        )
    found += [f"Still to be written: {debt}. It is retried by itself." for debt in health.pending]
    found += [f"{what[:1].upper()}{what[1:]}." for what in health.not_routed]
    if health.traces is not None and health.traces.error:
        found.append(f"{figures.count(health.traces.behind)} exchanges are untold: {health.traces.error}.")
    found += [f"{trouble[:1].upper()}{trouble[1:]}." for trouble in health.troubles]
    if health.config_error:
        found.append(f"turnout.yaml is not read, the last good settings stay: {health.config_error}")
    if health.snapshot_saved is False:
        found.append("The newest snapshot is not on the controller's disk yet: is it full, or not writable?")
    if collector is not None and collector.quarantined:
        found.append(
            f"{figures.count(collector.quarantined)} records could not be read and were put aside "
            "(folder spool/.quarantine)."
        )
    if collector is not None and collector.torn_bytes:
        found.append(
            f"{figures.size(collector.torn_bytes)} of torn records were found after a crash and skipped."
        )
    return found


def behind(worker: Worker, snapshot: int | None) -> bool:
    """Does this worker hold an older snapshot, or has it gone silent?"""
    silent = worker.last_seen_s is not None and worker.last_seen_s > WORKER_LATE_S
    return silent or (snapshot is not None and worker.snapshot != snapshot)


def _tiles(health: Health) -> None:
    collector, ledger = health.collector, health.ledger
    with st.grid(4, min_column_width=180, border=True, gap="small") as grid:
        with grid.cell():
            lag = collector.lag_s if collector else None
            waiting = collector.segments_waiting if collector else None
            chips.fact(
                "Newest data",
                _ago(lag),
                f"{figures.count(waiting)} segment{'' if waiting == 1 else 's'} waiting",
            )
        with grid.cell():
            rows = ledger.exchanges if ledger else None
            chips.fact(
                "Exchanges in the ledger", figures.count(rows), figures.size(ledger.bytes if ledger else None)
            )
        with grid.cell():
            note = "every answered exchange was recorded" if health.losses == 0 else "answered, not recorded"
            chips.fact(
                "Records lost",
                figures.count(health.losses),
                note if health.losses is not None else "not reported",
            )
        with grid.cell():
            held = sum(1 for worker in health.workers if not behind(worker, health.snapshot))
            chips.fact(
                "Snapshot", figures.count(health.snapshot), f"held by {held} of {len(health.workers)} workers"
            )


def _workers(health: Health) -> None:
    st.subheader("Workers", anchor=False)
    if not health.workers:
        st.info("None has been seen.", icon=":material/dns:")
        return
    rows = [
        {
            "Worker": worker.worker,
            "Snapshot": figures.count(worker.snapshot),
            "State": "behind" if behind(worker, health.snapshot) else "up to date",
            "Last seen": f"{figures.span(worker.last_seen_s)} ago",
        }
        for worker in health.workers
    ]
    st.dataframe(rows, hide_index=True)


def _registry(health: Health) -> None:
    st.subheader("Registry and ledger", anchor=False)
    registry, ledger = health.registry, health.ledger
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if registry is None or registry.ok is None:
            st.badge("registry: unknown", icon=":material/help:", color="gray")
        elif registry.ok:
            st.badge("registry answers", icon=":material/check:", color="green")
        else:
            st.badge("registry away", icon=":material/cloud_off:", color="orange")
        if registry is not None and registry.last_ok_s is not None:
            st.caption(f"last answer {figures.span(registry.last_ok_s)} ago", width="content")
    if registry is not None and registry.error:
        st.code(registry.error[:2000], language=None, wrap_lines=True)
    if ledger is not None and ledger.path:
        chips.fact("Ledger", ledger.path[:300])


def _ago(seconds: float | None) -> str:
    return figures.DASH if seconds is None else f"{figures.span(seconds)} ago"
