"""Who is told of a decision, and what if they do not answer? Signed webhooks, from the ledger.

Each URL that the settings declare gets every decision that is settled, in order, as JSON:

    x-turnout-event: 42
    x-turnout-signature: t=1800000000,v1=HEX      v1 = HMAC-SHA256(secret, "1800000000." + body)

What fails is tried again, less and less often, for most of a day, and then given up and counted. How far
each URL has come is in the ledger, so that a restart neither forgets nor repeats more than one. Nothing
waits for any of this, and nothing is sent anywhere but to the declared URL.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from hashlib import sha256
from ssl import SSLContext
from typing import Final

import httpx
import orjson

from .ledger import events
from .ledger.events import Event, Subscriber
from .ledger.store import Store

log = logging.getLogger("turnout.notices")

#: For all of one answer: a receiver that drips it must not hold up the others.
PATIENCE_S: Final = 5.0
#: Seconds between attempts double from one to an hour; the last is after about 15 hours.
LONGEST_PAUSE_S: Final = 3600
ATTEMPTS: Final = 26
#: Events for one URL in one round; the others have their turn then.
_AT_ONCE: Final = 20


def signature(secret: str, body: bytes, at_s: int) -> str:
    """The value of `x-turnout-signature`. A receiver computes it anew, and refuses what is old."""
    made = hmac.new(secret.encode(), b"%d.%b" % (at_s, body), sha256).hexdigest()
    return f"t={at_s},v1={made}"


def _pause_ns(failed: int) -> int:
    """How long the next attempt is put off where so many failed before this one."""
    return min(1 << max(failed, 0), LONGEST_PAUSE_S) * 1_000_000_000


class Notices:
    """Tells. One thread calls `tell`; any may read `state`."""

    def __init__(
        self,
        store: Store,
        webhooks: Callable[[], Mapping[str, str]],
        *,
        now_ns: Callable[[], int],
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._store = store
        self._webhooks = webhooks
        self._now_ns = now_ns
        #: Whoever was told since the start: a ledger that takes no writes must not make one told again.
        self._come: dict[str, Subscriber] = {}
        self._transport = transport

    def tell(self) -> None:
        """One round: whoever is due gets what there is for them."""
        declared = dict(self._webhooks())
        if not declared:
            return
        known = events.subscribers(self._store) | self._come
        for url, secret_env in declared.items():
            one = known.get(url)
            if one is None:  # new: told of what is decided from now on
                self._save(Subscriber(url=url, number=events.latest(self._store)))
            # A clock that has been set back makes nobody wait for longer than this pause was to be.
            elif not 0 < one.next_ns - self._now_ns() <= _pause_ns(one.attempts - 1):
                self._tell(one, secret_env)

    def state(self) -> list[Subscriber]:
        """How far each URL that is declared now has come."""
        declared = self._webhooks()
        return [one for url, one in sorted(events.subscribers(self._store).items()) if url in declared]

    def _tell(self, one: Subscriber, secret_env: str) -> None:
        for event in events.after(self._store, one.number, limit=_AT_ONCE):
            if event.decision.state == "intent":  # it is told when it is known how it came out
                one = replace(one, number=event.number)
                self._save(one)
                continue
            error = self._post(one.url, secret_env, event)
            one = self._after(one, event, error)
            self._save(one)
            if error is not None:
                return

    def _after(self, one: Subscriber, event: Event, error: str | None) -> Subscriber:
        if error is None:
            return replace(one, number=event.number, attempts=0, next_ns=0, told=one.told + 1, error=None)
        if one.attempts == 0:
            log.warning("event %d could not be told to %s: %s", event.number, one.url, error)
        if one.attempts + 1 >= ATTEMPTS:
            log.error("event %d is given up for %s: %s", event.number, one.url, error)
            return replace(
                one, number=event.number, attempts=0, next_ns=0, given_up=one.given_up + 1, error=error
            )
        next_ns = self._now_ns() + _pause_ns(one.attempts)
        return replace(one, attempts=one.attempts + 1, next_ns=next_ns, error=error)

    def _post(self, url: str, secret_env: str, event: Event) -> str | None:
        """Why the event could not be told; None if it was."""
        secret = os.environ.get(secret_env, "")
        if not secret:
            return f"the controller's environment has no {secret_env}: nothing is sent unsigned"
        body = orjson.dumps({"event": event.number, "decision": event.decision.document()})
        try:
            headers = {
                "content-type": "application/json",
                "user-agent": "turnout",
                "x-turnout-event": str(event.number),
                "x-turnout-signature": signature(secret, body, self._now_ns() // 1_000_000_000),
            }
            return asyncio.run(self._answer(url, body, headers))
        except TimeoutError:
            return f"no answer within {PATIENCE_S:g} s"
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:  # a name like a..b
            return f"{type(error).__name__}: {error}"

    @cached_property
    def _tls(self) -> SSLContext:
        return httpx.create_ssl_context(trust_env=False)

    async def _answer(self, url: str, body: bytes, headers: Mapping[str, str]) -> str | None:
        async with (
            asyncio.timeout(PATIENCE_S),
            httpx.AsyncClient(
                timeout=None, trust_env=False, verify=self._tls, transport=self._transport
            ) as client,
            client.stream("POST", url, content=body, headers=headers) as answer,
        ):
            return None if answer.is_success else f"status {answer.status_code}"

    def _save(self, one: Subscriber) -> None:
        self._come[one.url] = one
        self._store.write(lambda connection: events.save_subscriber(connection, one))
