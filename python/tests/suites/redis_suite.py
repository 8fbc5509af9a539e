#!/usr/bin/env python3
"""Runs the tests of django-redis with this package in its place.

Usage: redis_suite.py [--original] [SETTINGS...]

They are fetched from PyPI, and copied with `django_redis` replaced by `lockstock.django` and the
servers replaced by private ones. Each settings module runs in a process of its own: in a single
one, Django would use the settings of the first for all. TestClientClose has another process,
because it empties the options that the tests after it need. Without SETTINGS, runs all of them, and
requires that at least 94 % of all tests pass. What does not pass must be in exclusions.txt.
--original runs the tests of django-redis with django-redis itself: what exclusions.txt says of it
must be true, and other failures are listed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import exclusions
from sdist import WORK, unpacked

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import servers  # noqa: E402

EXCLUSIONS = Path(__file__).with_name("exclusions.txt")
MIN_PASSED_PERCENT = 94.0
# A process takes half a minute if it has a core for itself.
PROCESS_TIMEOUT = 900.0
LAST = "TestClientClose"
# The names under which the sentinels of the suite know their master.
MASTERS = ("127.0.0.1", "default_service")


@dataclass
class Run:
    """The tests of one settings module."""

    settings: str
    # `passed`, `failed` or `skipped`, by test.
    outcomes: dict[str, str]
    seconds: float
    log: str

    def count(self, outcome: str) -> int:
        """Returns the number of tests with an outcome."""
        return Counter(self.outcomes.values())[outcome]


def main(arguments: list[str]) -> int:
    """Runs the suite. Returns the exit code."""
    is_original = "--original" in arguments
    names = [word for word in arguments if word != "--original"]
    tests = unpacked("django-redis") / "tests"
    known = sorted(path.stem for path in (tests / "settings").glob("sqlite*.py"))
    if unknown := set(names) - set(known):
        sys.exit(f"no settings {', '.join(sorted(unknown))}: {', '.join(known)}")
    work = WORK / "django-redis"
    shutil.rmtree(work, ignore_errors=True)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        runs = list(
            pool.map(
                lambda name: run(tests, work / name, name, is_original=is_original), names or known
            )
        )
    return report(runs, is_whole=not names, is_original=is_original)


def run(tests: Path, folder: Path, settings: str, *, is_original: bool) -> Run:
    """Runs the tests with one settings module, on servers of its own."""
    with (
        servers.redis() as redis,
        servers.sentinel(redis, *MASTERS) as sentinel_port,
        servers.closed_port() as closed_port,
    ):
        shutil.copytree(tests, folder / "tests")
        if not is_original:
            replace_package(folder / "tests")
        for path in (folder / "tests" / "settings").glob("*.py"):
            text = path.read_text()
            text = text.replace("127.0.0.1:6379", f"127.0.0.1:{redis.port}")
            text = text.replace("127.0.0.1:56379", f"127.0.0.1:{closed_port}")
            text = text.replace('("127.0.0.1", 26379)', f'("127.0.0.1", {sentinel_port})')
            text = text.replace("/tmp/redis.sock", str(redis.socket))
            path.write_text(text)
        began, log = time.monotonic(), ""
        outcomes: dict[str, str] = {}
        # The tests with these settings, and those that are independent of settings.
        for selection in (
            f"({settings}] or not sqlite) and not {LAST}",
            f"({settings}] or not sqlite) and {LAST}",
        ):
            log += pytest(folder, selection)
            outcomes |= read_outcomes(folder / "results.xml", settings)
    return Run(settings, outcomes, time.monotonic() - began, log)


def replace_package(tests: Path) -> None:
    """Lets the tests import this package."""
    for path in tests.rglob("*.py"):
        path.write_text(re.sub(r"\bdjango_redis\b", "lockstock.django", path.read_text()))


def pytest(folder: Path, selection: str) -> str:
    """Runs the selected tests. Returns what pytest printed."""
    command = [sys.executable, "-m", "pytest", "tests", "-q", "-p", "no:django"]
    command += ["-p", "no:cacheprovider", "--override-ini=addopts=", "--rootdir", str(folder)]
    command += ["-k", selection, "--junitxml", "results.xml"]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PROCESS_TIMEOUT,
        check=False,
    )
    # 1: some tests failed.
    if done.returncode not in (0, 1):
        sys.exit(f"pytest failed in {folder}:\n{done.stdout[-4000:]}")
    return done.stdout


def read_outcomes(path: Path, settings: str) -> dict[str, str]:
    """Reads the results of pytest: the outcome of each test, by its name without the settings."""
    found = {}
    for case in ElementTree.parse(path).iter("testcase"):
        name = case.get("name", "").replace(f"[{settings}]", "").replace(f"-{settings}]", "]")
        test = f"{case.get('classname', '').removeprefix('tests.')}.{name}"
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            found[test] = "failed"
        else:
            found[test] = "skipped" if "skipped" in kinds else "passed"
    return found


def report(runs: list[Run], *, is_whole: bool, is_original: bool) -> int:
    """Prints the outcomes and what is wrong with them. Returns the exit code."""
    excluded: list[exclusions.Exclusion] = exclusions.read(EXCLUSIONS)
    if is_original:
        # The others are about this package.
        excluded = [each for each in excluded if each.is_of_the_original]
    faults: list[str] = []
    print(f"{'settings':<22}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}")
    for each in runs:
        counts = [each.count(outcome) for outcome in ("passed", "failed", "skipped")]
        print("{:<22}{:>8}{:>8}{:>9}{:>9.0f}".format(each.settings, *counts, each.seconds))
        comparison = exclusions.compared(excluded, each.settings, each.outcomes)
        for test in comparison.failed:
            fault = f"{each.settings}: {test} {each.outcomes[test]}"
            if is_original:
                print(f"django-redis, {fault}")
            else:
                faults.append(fault)
        for exclusion in comparison.outdated:
            faults.append(f"{each.settings}: {exclusion.test} is excluded, and passes or is absent")
        if comparison.failed and not is_original:
            print(each.log)
    total = sum(len(each.outcomes) for each in runs)
    passed = sum(each.count("passed") for each in runs)
    percent = 100 * passed / total
    print(f"{passed} of {total} tests of django-redis pass: {percent:.1f} %")
    if is_whole and not is_original and percent < MIN_PASSED_PERCENT:
        faults.append(f"fewer than {MIN_PASSED_PERCENT:g} % pass")
    for fault in faults:
        print(f"FAILED {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
