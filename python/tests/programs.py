"""Programs that tests run in a process of their own: `python/tests/programs/NAME.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["TESTS", "environment", "finished", "started"]

TESTS = Path(__file__).parent
# Far above what any of them takes.
_TIMEOUT = 120.0


def environment(**more: str) -> dict[str, str]:
    """Returns the environment in which a program can import what tests import."""
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **more}


def started(name: str, *arguments: str) -> subprocess.Popen[str]:
    """Starts a program."""
    return subprocess.Popen(
        [sys.executable, str(TESTS / "programs" / f"{name}.py"), *arguments],
        env=environment(),
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
