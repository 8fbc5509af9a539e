"""Values as pickles, the default.

Loading a pickle executes what it contains: a client that can write to Redis can run code in this
process. Use `JSONSerializer` if Redis is shared with programs that are not trusted.
"""

from __future__ import annotations

import pickle
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from .base import BaseSerializer

__all__ = ["PickleSerializer"]


class PickleSerializer(BaseSerializer):
    """Pickles of the protocol `OPTIONS["PICKLE_VERSION"]`, by default that of this Python."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        self._pickle_version = pickle.DEFAULT_PROTOCOL
        self.setup_pickle_version(options)

    def setup_pickle_version(self, options: dict[str, Any]) -> None:
        """Reads `PICKLE_VERSION`."""
        if "PICKLE_VERSION" not in options:
            return
        try:
            version = int(options["PICKLE_VERSION"])
        except (TypeError, ValueError) as error:
            message = "PICKLE_VERSION value must be an integer"
            raise ImproperlyConfigured(message) from error
        if version > pickle.HIGHEST_PROTOCOL:
            highest = pickle.HIGHEST_PROTOCOL
            message = f"PICKLE_VERSION can't be higher than pickle.HIGHEST_PROTOCOL: {highest}"
            raise ImproperlyConfigured(message)
        self._pickle_version = version

    def dumps(self, value: Any) -> bytes:
        return pickle.dumps(value, self._pickle_version)

    def loads(self, value: bytes) -> Any:
        return pickle.loads(value)
