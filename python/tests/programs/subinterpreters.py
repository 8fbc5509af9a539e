"""Uses the package in two interpreters of this process, as mod_wsgi does by default."""

from __future__ import annotations

import sys

try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

import lockstock

IN_ANOTHER = """
try:
    import lockstock
except ImportError as failure:
    print(failure, flush=True)
"""


def create():
    """Returns an interpreter that shares the GIL, as those of mod_wsgi do."""
    if sys.version_info >= (3, 13):
        return interpreters.create("legacy")
    return interpreters.create(isolated=False)


interpreters.run_string(create(), IN_ANOTHER)
assert lockstock.Store(sys.argv[1]).lock("l", timeout=30).acquire()
