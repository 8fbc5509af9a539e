"""Locks and a cache in Redis, for Python and for Django."""

from .lock import Lock

__all__ = ["Lock"]
