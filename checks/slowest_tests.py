#!/usr/bin/env python3
"""Passes on the output of `cargo test`, and then lists the tests that took longest.

Stable Rust's test harness reports no times. They follow from when a test ends: the harness
starts tests in the order of their names, as many at once as it has threads, and the next one
whenever one ends. Documentation tests are not counted.

Usage: cargo test 2>&1 | slowest_tests.py [--threads N]
"""

import argparse
import heapq
import os
import re
import sys
import time

SHOWN = 10

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
BINARY = re.compile(r" +(?:Running (?:unittests )?(\S+)|(Doc-tests) )")
TEST = re.compile(r"test (\S+)(?: - should panic)? \.\.\. (?:ok|FAILED|ignored.*)$")
BEGIN = re.compile(r"running (\d+) tests?$")


def durations(begun: float, ended: list[tuple[str, float]], threads: int) -> dict[str, float]:
    """Returns how long each test took, given when each one ended."""
    waiting = sorted(name for name, _ in ended)
    started = dict.fromkeys(waiting[:threads], begun)
    waiting = waiting[threads:]
    took = {}
    for name, end in ended:
        # Missing if the harness started tests in another order.
        took[name] = end - started.get(name, end)
        if waiting:
            started[waiting.pop(0)] = end
    return took


def main() -> None:
    parser = argparse.ArgumentParser()
    threads = os.environ.get("RUST_TEST_THREADS") or len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, default=int(threads))
    threads = parser.parse_args().threads

    binary, begun, ended, expected = "", 0.0, [], 0
    slowest: list[tuple[float, str]] = []
    for line in sys.stdin:
        sys.stdout.write(line)
        sys.stdout.flush()
        now = time.monotonic()
        line = COLOUR.sub("", line.rstrip())
        if found := BINARY.match(line):
            binary, ended, expected = found[1] or "", [], 0
        elif found := BEGIN.match(line):
            begun, ended, expected = now, [], int(found[1])
        elif (found := TEST.match(line)) and binary:
            ended.append((found[1], now))
            if len(ended) == expected:
                for name, took in durations(begun, ended, threads).items():
                    heapq.heappush(slowest, (took, f"{binary} {name}"))
                slowest = heapq.nlargest(SHOWN, slowest)
                heapq.heapify(slowest)
    if slowest:
        print(f"\nThe {len(slowest)} slowest tests:")
        for took, name in sorted(slowest, reverse=True):
            print(f"{took:7.1f} s  {name}")


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):
        # `cargo test` has received it too and reports the end.
        sys.exit(130)
