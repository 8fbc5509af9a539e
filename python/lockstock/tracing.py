"""Whether a store reports its commands to OpenTelemetry. Imports nothing for one that does not."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from . import _core

__all__ = ["trace_if_wanted"]


def trace_if_wanted(store: _core.Store, url: str, *, is_wanted: bool = False) -> None:
    """Traces a new store if it is wanted or `lockstock.otel.instrument` was called."""
    otel: Any = sys.modules.get("lockstock.otel")
    if is_wanted and otel is None:
        from . import otel
    if otel is not None and (is_wanted or otel.is_instrumented()):
        otel.trace(store, url)
