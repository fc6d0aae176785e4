"""`turnout golden`: all of its commands together."""

from __future__ import annotations

from . import golden_commands, golden_files, golden_ranking, label_command

__all__ = ["golden", "golden_files", "golden_ranking", "label_command"]

golden = golden_commands.golden
