"""The clients that `OPTIONS["CLIENT_CLASS"]` can name."""

from .default import DefaultClient
from .herd import HerdClient
from .sentinel import SentinelClient
from .sharded import ShardClient

__all__ = ["DefaultClient", "HerdClient", "SentinelClient", "ShardClient"]
