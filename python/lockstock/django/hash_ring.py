"""The server of a key, as django-redis' `ShardClient` chooses it.

Entries that django-redis has written are found, so every detail counts: the number of points of a
server, the hash, and the point that is chosen.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterable, Iterator

__all__ = ["HashRing"]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class HashRing:
    """A ring of points, `replicas` for each node."""

    def __init__(self, nodes: Iterable[str] = (), replicas: int = 128) -> None:
        self.nodes: list[str] = []
        self.replicas = replicas
        self.ring: dict[str, str] = {}
        self.sorted_keys: list[str] = []
        for node in nodes:
            self.add_node(node)

    def add_node(self, node: str) -> None:
        """Adds a node."""
        self.nodes.append(node)
        for point in range(self.replicas):
            self.ring[_hash(f"{node}:{point}")] = node
        self.sorted_keys = sorted(self.ring)

    def remove_node(self, node: str) -> None:
        """Removes a node."""
        self.nodes.remove(node)
        for point in range(self.replicas):
            del self.ring[_hash(f"{node}:{point}")]
        self.sorted_keys = sorted(self.ring)

    def get_node(self, key: str) -> str | None:
        """Returns the node of a key."""
        return self.get_node_pos(key)[0]

    def get_node_pos(self, key: str) -> tuple[str | None, int | None]:
        """Returns the node of a key and the index of its point."""
        if not self.ring:
            return None, None
        # The point before the key. Before the first point: the last one, by a negative index.
        index = bisect.bisect(self.sorted_keys, _hash(key)) - 1
        return self.ring[self.sorted_keys[index]], index

    def iter_nodes(self, key: str) -> Iterator[tuple[str | None, str | None]]:
        """Yields the points from that of the key on, with their nodes."""
        if not self.ring:
            yield None, None
        _, index = self.get_node_pos(key)
        for point in self.sorted_keys[index:]:
            yield point, self.ring[point]

    def __call__(self, key: str) -> str | None:
        return self.get_node(key)
