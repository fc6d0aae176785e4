"""Does an HTTP client need the root certificates? Reading them takes longer than most answers do."""

from __future__ import annotations


def over_tls(*urls: str) -> bool:
    """What a client of these addresses is given as `verify`: over http nobody shows a certificate."""
    return not all(url.lower().startswith("http:") for url in urls)
