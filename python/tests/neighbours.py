"""Packages of requirements-neighbours.txt, in an environment on top of that of the tests.

It is made at the first use, because it takes a minute. The packages of the tests are visible in it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

__all__ = ["folder_of_programs", "needs_neighbours"]

_REQUIREMENTS = Path(__file__).with_name("requirements-neighbours.txt")
_FOLDER = Path(sys.prefix) / "neighbours"

# Skips a test in a short run.
needs_neighbours = pytest.mark.skipif(
    not os.environ.get("LOCKSTOCK_WHOLE"),
    reason="installs packages, which only a whole run does: ./dev test-django",
)


def folder_of_programs() -> Path:
    """Returns the folder of `python` and of the programs of the packages, installed if necessary.

    Raises `CalledProcessError` if a package cannot be installed.
    """
    made = _FOLDER / "made"
    wanted = hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest()
    with _FOLDER.with_suffix(".lock").open("w") as lock:
        # Tests of several files run at the same time.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists() or made.read_text() != wanted:
            _make()
            # Last, so that an interrupted installation is repeated.
            made.write_text(wanted)
    return _FOLDER / "bin"


def _make() -> None:
    subprocess.run(
        [sys.executable, "-m", "venv", "--clear", "--without-pip", str(_FOLDER)], check=True
    )
    lower = sysconfig.get_path("purelib")
    upper = _FOLDER / Path(lower).relative_to(sys.prefix)
    (upper / "tests.pth").write_text(f"{lower}\n")
    pip = [str(_FOLDER / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input"]
    subprocess.run([*pip, "--disable-pip-version-check", "-r", str(_REQUIREMENTS)], check=True)
