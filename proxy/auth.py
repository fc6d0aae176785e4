"""Who is asking? API keys name a tenant; the admin token alone may choose an arm or a version.

Secrets are compared as SHA-256 digests of bytes: constant time for what matters, no exception for a
header that is not ASCII (`hmac.compare_digest` raises on such a `str`).
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from hashlib import sha256

from experiments.snapshot import Snapshot

from .errors import Refusal
from .heads import RequestHead


def tenant(snapshot: Snapshot, head: RequestHead) -> str | None:
    """The tenant of the request's API key; None where no keys are in force. Raises Refusal.

    A head that comes again is not looked up again, as long as the same routing table is in force.
    """
    if head.known_to is not snapshot:
        if b"x-turnout-admin" in head.headers:  # a wrong one is refused, also where it is not needed
            require_admin(snapshot, head.headers)
        head.tenant = owner(snapshot, head.headers)
        head.known_to = snapshot
    return head.tenant


def owner(snapshot: Snapshot, headers: Mapping[bytes, bytes]) -> str | None:
    """Whose key is among the headers; None where no keys are in force. Raises Refusal."""
    if not snapshot.keys:
        return None
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"bearer" or not key:
        key = headers.get(b"x-api-key", b"")  # as Anthropic's clients send it
    if not key:
        message = "Send your API key as 'Authorization: Bearer KEY' (or 'x-api-key: KEY')."
        raise Refusal(401, "missing_api_key", message)
    # The look-up is by digest: its timing tells nothing of the key.
    name = snapshot.keys.get(sha256(key.strip()).hexdigest())
    if name is None:
        raise Refusal(401, "invalid_api_key", "This API key is not known here; ask the operator for one.")
    return name


def require_admin(snapshot: Snapshot, headers: Mapping[bytes, bytes]) -> None:
    """Raises Refusal unless the request carries the admin token."""
    given = sha256(headers.get(b"x-turnout-admin", b"")).hexdigest()
    if not snapshot.admin_sha256 or not hmac.compare_digest(given.encode(), snapshot.admin_sha256.encode()):
        message = "Choosing an arm or a version needs the admin token in 'x-turnout-admin'."
        raise Refusal(403, "admin_required", message)
