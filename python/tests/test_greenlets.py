"""gevent and eventlet: a call blocks its greenlet and no other."""

from __future__ import annotations

import pytest

import servers
from programs import finished


@pytest.mark.parametrize("kind", ["gevent", "eventlet"])
def test_a_call_blocks_no_other_greenlet(kind: str) -> None:
    with servers.redis() as redis:
        assert finished("greenlets", kind, redis.url, str(redis.process.pid)) == "ok\n"
