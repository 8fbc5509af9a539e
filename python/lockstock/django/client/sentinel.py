"""The client of a service behind sentinels, by django-redis' name."""

from __future__ import annotations

from .default import DefaultClient

__all__ = ["SentinelClient"]


class SentinelClient(DefaultClient):
    """The same as `DefaultClient`, which follows sentinels if `OPTIONS` has `SENTINELS`."""
