"""The cache against other libraries and raw commands: rates, latencies, CPU of each call."""

import argparse
import signal
import statistics
import sys
from dataclasses import dataclass

from cache_clients import build, play, versions
from load import wait_until_idle
from process import Failed
from report import OURS, Report, at_least, common_options, progress, ratio
from servers import redis

# `play` gives each command two minutes.
MAX_SECONDS = 100


@dataclass(frozen=True)
class Remote:
    """Calls that send a command to Redis each, beside the same commands through redis-rs."""

    operation: str
    tasks: int
    bytes: int = 100

    def command(self, url):
        return ["redis", url, self.operation, self.tasks, self.bytes]

    @property
    def libraries(self):
        return [OURS, "raw", "cached"]

    @property
    def bounds(self):
        # With one task the wire decides.
        return {"must": {"raw": ratio(0.9)}, "aim": {"raw": ratio(0.95)}}


@dataclass(frozen=True)
class Near:
    """Reads from the memory of the process, on one thread."""

    keys: int = 10_000
    bytes: int = 100

    def command(self, url):
        return ["near", url, self.keys, self.bytes]

    @property
    def libraries(self):
        return ["moka", "quick_cache", "cache-aio"]

    @property
    def bounds(self):
        return {"must": at_least(5_000_000), "aim": at_least(8_000_000)}


BENCHES = {
    "get-1": Remote("get", 1),
    "get-64": Remote("get", 64),
    "get-512": Remote("get", 512),
    "set-1": Remote("set", 1),
    "set-64": Remote("set", 64),
    "set-512": Remote("set", 512),
    "get-64-large": Remote("get", 64, bytes=100 * 1024),
    "near": Near(),
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, prog="./dev bench cache")
    parser.add_argument("--seconds", type=float, default=1, help="length of one round (1)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each library (7)")
    common_options(parser, BENCHES)
    given = parser.parse_args()
    if given.seconds <= 0 or given.rounds < 1:
        parser.error("--seconds must be above 0, --rounds at least 1")
    if given.seconds * given.rounds * 3 > MAX_SECONDS:
        parser.error(f"all rounds of a bench must take less than {MAX_SECONDS} s")
    return given


def measure(given, report):
    build()
    libraries = set()
    for name, bench in BENCHES.items():
        if given.only and name not in given.only:
            continue
        # A server of its own, so that no bench finds the memory of another.
        with redis() as store:
            wait_until_idle(given.idle_timeout)
            command = [*bench.command(store.url(0)), given.seconds, given.rounds]
            rounds = play(*command, *bench.libraries)
        for library, some in rounds.items():
            rate = statistics.median(each["rate"] for each in some)
            progress(f"{name:13} {library:12} {rate:12,.0f}/s")
        add(report, name, bench, rounds)
        libraries |= set(rounds)
    named = versions(libraries).items()
    report.note("libraries: " + ", ".join(f"{name} {number}" for name, number in named))


def add(report, name, bench, rounds):
    def add_metric(metric, unit, key, **bounds):
        values = {
            library: statistics.median(each[key] for each in some)
            for library, some in rounds.items()
        }
        ours = values.pop(OURS, None)
        report.add(f"{name}: {metric}", unit, ours, values, **bounds)

    add_metric("calls", "1/s", "rate", **bench.bounds)
    add_metric("CPU each", "µs", "cpu_us")
    if isinstance(bench, Remote):
        add_metric("latency p50", "µs", "p50_us")
        add_metric("latency p99", "µs", "p99_us")


def main():
    given = arguments()
    # So that child processes are stopped in order.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    report = Report("cache")
    try:
        measure(given, report)
    except Failed as error:
        sys.exit(f"bench cache: {error}")
    report.finish(as_json=given.json)


if __name__ == "__main__":
    main()
