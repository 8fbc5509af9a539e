#!/usr/bin/env python3
"""Runs Django's own tests of cache backends and of sessions with this package.

Usage: django_suite.py [ARGUMENTS OF DJANGO'S runtests.py]

They are fetched from PyPI. All must pass.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from sdist import WORK, unpacked

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import servers

HERE = Path(__file__).resolve().parent
# `cache.test_lockstock` is backend_tests.py.
TESTS = (
    "cache.test_lockstock",
    "sessions_tests.tests.CacheSessionTests",
    "sessions_tests.tests.CacheDBSessionTests",
    "sessions_tests.tests.SessionMiddlewareTests",
)


def main(arguments: list[str]) -> int:
    """Runs the tests. Returns the exit code."""
    work = WORK / "django"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(unpacked("Django") / "tests", work / "tests")
    shutil.copy(HERE / "backend_tests.py", work / "tests" / "cache" / "test_lockstock.py")
    command = [sys.executable, "runtests.py", "--settings", "django_settings", "--parallel", "1"]
    with servers.redis() as redis:
        done = subprocess.run(
            [*command, *arguments, *TESTS],
            cwd=work / "tests",
            env={
                **os.environ,
                "LOCKSTOCK_REDIS_URL": redis.url,
                "PYTHONPATH": str(HERE),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            check=False,
        )
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
