"""Other packages that use a cache backend of Django or observe it, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

import servers
from neighbours import folder_of_programs, needs_neighbours
from programs import TESTS, environment

# Far above what any of them takes.
_TIMEOUT_S = 120
_PROJECT = TESTS / "project"


@needs_neighbours
@pytest.mark.parametrize(
    "command",
    [
        ["cachalot_queries"],
        ["constance_values"],
        ["ddtrace_spans"],
        ["defender_blocks"],
        ["prometheus_counts"],
        ["ratelimit_requests"],
        ["rq_queue"],
        ["rq_queue", "as-django-redis"],
        ["sentry_spans"],
        ["toolbar"],
    ],
    ids=" ".join,
)
def test_a_package(command: list[str]) -> None:
    python = folder_of_programs() / "python"
    program = TESTS / "programs" / "neighbours" / f"{command[0]}.py"
    with servers.redis() as redis:
        done = subprocess.run(
            [str(python), str(program), *command[1:]],
            env=environment(LOCKSTOCK_URL=redis.url),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    # The last line of each program: some packages print, too.
    assert done.stdout.splitlines()[-1] == "ok", done.stdout


def test_pytest_django(redis_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", "/dev/null", "--rootdir", str(_PROJECT), "-q"]
        + ["-p", "no:cacheprovider", "--ds=project.settings", str(_PROJECT / "overriding")],
        env=environment(LOCKSTOCK_URL=redis_url),
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout, done.stdout
