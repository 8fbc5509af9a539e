"""Locks of several names that are acquired together."""

from __future__ import annotations

from .lock import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from . import _core

__all__ = ["MultiLock"]


class MultiLock(Lock):
    """The locks of several names, of which either all are held or none.

    Created by `Store.lock_all`. They are acquired in the order of their names, so that two calls
    with the same names never wait for each other. `fence` is the highest of the fences.
    """

    def __init__(self, store: _core.Store, names: Iterable[str | bytes], **settings: Any) -> None:
        self.names = tuple(names)
        label = ", ".join(repr(name) for name in self.names)
        super().__init__(store, label, kind="all", **settings)

    def fence_of(self, name: str | bytes) -> int:
        """Returns the number of this acquisition of one name. Raises `KeyError` for other names."""
        wanted = name.encode() if isinstance(name, str) else name
        held = self._require("Cannot read the fence of a lock that is not held")
        return {name: fence for name, _, fence in held.claims}[wanted]

    @property
    def _names(self) -> Sequence[str | bytes]:
        return self.names

    def _request(self, *args: Any) -> tuple[Any, ...]:
        return (self.names, *super()._request(*args)[1:])
