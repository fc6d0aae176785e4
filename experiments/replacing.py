"""How is an operator's file replaced, so that a power cut leaves the former text or the new one, whole?"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path


def replace_whole(file: Path, text: str) -> None:
    """Put a text in the file's place; its mode stays, a new file is its owner's alone. Raises OSError."""
    making = file.with_name(f"{file.name}.new")
    mode = file.stat().st_mode & 0o777 if file.exists() else 0o600
    with os.fdopen(os.open(making, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
        os.fchmod(out.fileno(), mode)
        out.write(text.encode())
        out.flush()
        os.fsync(out.fileno())
    making.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # after a power cut the name must not lead to the former text again
    finally:
        os.close(folder)


def digest(text: str) -> str:
    """What a file with this text has as its digest."""
    return sha256(text.encode()).hexdigest()


def digest_of(file: Path) -> str | None:
    """The digest of a file as it is, good or not; None without one."""
    try:
        return sha256(file.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None
