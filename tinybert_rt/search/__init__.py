"""Offline search: folders in, answers out. `Index` is one SQLite file with passages, their words and their vectors.

Needs the packages of the extra `search`: pip install 'tinybert-rt[search]'.
"""

from __future__ import annotations

from .documents import Hit
from .index import Index
from .update import Progress, Report

__all__ = ["Hit", "Index", "Progress", "Report"]
