"""Programs that tests run in a process of their own: `python/tests/programs/NAME.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["finished", "started"]

_TESTS = Path(__file__).parent
# Far above what any of them takes.
_TIMEOUT = 120.0


def started(name: str, *arguments: str) -> subprocess.Popen[str]:
    """Starts a program."""
    path = os.pathsep.join([str(_TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, str(_TESTS / "programs" / f"{name}.py"), *arguments],
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(name: str, *arguments: str) -> str:
    """Runs a program to its end, and returns what it printed. It must not print errors."""
    process = started(name, *arguments)
    try:
        output, errors = process.communicate(timeout=_TIMEOUT)
    finally:
        process.kill()
    assert (process.returncode, errors) == (0, ""), f"{output}\n{errors}"
    return output
