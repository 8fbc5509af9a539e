"""The lock against other libraries and raw commands: rates, waits, commands, a crash."""

import argparse
import json
import signal
import statistics
import sys
from dataclasses import dataclass, field

from load import wait_until_idle
from lock_clients import install, versions
from lock_crash import LEASE_MS, crashes
from lock_round import GRACE, Shape, play, quantile
from process import Failed
from report import OURS, Report, at_least, at_most, common_options, progress, ratio
from servers import redis, run
from shops import LOCKSTOCK

RAW = ("raw-delete", "raw-script")
# The peer of all scenarios with one hot lock.
REDIS_PY = Shape(16, 1)


@dataclass(frozen=True)
class Scenario:
    ours: Shape
    # The shape of each peer library.
    peers: dict
    # Bounds and aims of acquisitions per second by peer.
    must: dict
    aim: dict
    # Bounds of the longest wait and of p99 by peer.
    longest: dict = field(default_factory=dict)
    p99: dict = field(default_factory=dict)
    # Bound of p99 / p50.
    spread: object = None


def uncontended(tasks, alone, must, aim):
    """Each task has a name of its own. Libraries in `alone` have one task per process. `must` and
    `aim` are the rates as multiples of those of the raw commands."""
    shape = Shape(1, tasks, names=tasks)
    peers = {library: shape for library in (*RAW, "rslock", "redis-semaphore", "redlock")}
    return Scenario(
        ours=shape,
        peers=peers | {library: Shape(1, 1) for library in alone},
        must={library: ratio(must) for library in RAW} | ({"rslock": ratio(1)} if tasks > 1 else {}),
        aim={library: ratio(aim) for library in RAW},
    )


SCENARIOS = {
    # One caller: the raw commands are two round trips.
    "pairs-1": uncontended(1, alone=("redis-py",), must=1 / 1.8, aim=1 / 1.4),
    "pairs-64": uncontended(64, alone=("redis-py", "python-redis-lock"), must=0.6, aim=0.9),
    "pairs-512": uncontended(512, alone=(), must=0.6, aim=0.9),
    "hot-16x1": Scenario(
        ours=Shape(16, 1),
        peers={
            "redis-py": REDIS_PY,
            "python-redis-lock": Shape(16, 1),
            "rslock": Shape(16, 1),
        },
        must={"redis-py": ratio(1.4)},
        aim={"redis-py": ratio(1.8)},
        longest={"redis-py": at_most(100)},
        spread=at_most(3),
    ),
    "hot-4x4": Scenario(
        ours=Shape(4, 4),
        peers={"redis-py": REDIS_PY, "rslock": Shape(4, 4)},
        must={"redis-py": ratio(3)},
        aim={"redis-py": ratio(6)},
        p99={"redis-py": at_most(10)},
    ),
    "hot-1x16": Scenario(
        ours=Shape(1, 16),
        peers={
            "redis-py": REDIS_PY,
            "rslock": Shape(1, 16),
            "redis-semaphore": Shape(1, 16),
            "redlock": Shape(1, 16),
        },
        must={"redis-py": ratio(30)},
        aim={"redis-py": at_least(300_000)},
    ),
}
# Maximum number of commands per acquisition in `lockstock bench lock`.
COMMANDS = {
    "1 waiter": (Shape(1, 2), 2.2),
    "100 waiters": (Shape(1, 101), 2.2),
    "10,000 waiters": (Shape(1, 10_001), 2.2),
    "10,000 waiters, 4 processes": (Shape(4, 2_501), 2.2),
    "4 processes × 4 tasks": (Shape(4, 4), 1),
    "1 process × 16 tasks": (Shape(1, 16), 0.2),
}
BENCHES = (*SCENARIOS, "commands", "crash")


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__,
        prog="./dev bench lock",
        epilog="The whole bench takes about a quarter of an hour on an idle machine.",
    )
    parser.add_argument("--seconds", type=float, default=3, help="length of one round (3)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each library (5)")
    parser.add_argument("--crashes", type=int, default=50, help="holders to kill (50)")
    common_options(parser, BENCHES)
    given = parser.parse_args()
    if given.seconds <= 0 or min(given.rounds, given.crashes) < 1:
        parser.error("--seconds must be above 0, --rounds and --crashes at least 1")
    return given


class Bench:
    def __init__(self, given, store, report):
        self.given, self.store, self.report = given, store, report
        # Violations of Lockstock, which fail the bench.
        self.failures = []

    def scenario(self, name, missing):
        """Runs all rounds of Lockstock and of each peer."""
        scenario = SCENARIOS[name]
        shapes = {OURS: scenario.ours} | scenario.peers
        rounds = {library: [] for library in shapes if library not in missing}
        for number in range(self.given.rounds):
            # Alternates the order, so that drift affects all libraries equally.
            order = list(rounds) if number % 2 == 0 else list(reversed(rounds))
            for library in order:
                seen = self.round(name, library, shapes[library])
                if seen is None:
                    # It would fail in the next round too.
                    del rounds[library]
                    continue
                rounds[library].append(seen)
                progress(
                    f"{name:9} {library:17} {shapes[library]!s:8}"
                    f" round {number + 1}/{self.given.rounds}: {seen.rate:9,.0f}/s"
                    f"  p50 {seen.p50:7.3f}  p99 {seen.p99:8.3f}  max {seen.longest:8.2f} ms"
                    f"  overlaps {seen.overlaps}  stalled {seen.stalled}"
                )
        self.add(name, scenario, shapes, rounds)

    def round(self, name, library, shape):
        given = self.given
        try:
            return play(self.store, library, shape, given.seconds, given.idle_timeout)
        except Failed as error:
            if library == OURS:
                raise
            progress(f"{name:9} {library}: {error}")
            last = str(error).strip().splitlines()[-1]
            self.report.note(f"{name}: {library} failed and is omitted: {last}")
            return None

    def add(self, name, scenario, shapes, rounds):
        labels = {library: label(library, shapes, scenario) for library in shapes}

        def add(metric, unit, combine, value, must=None, aim=None):
            values = {
                labels[library]: combine([value(each) for each in some])
                for library, some in rounds.items()
            }
            bounds = [
                {labels[library]: bound for library, bound in (bounds or {}).items()}
                for bounds in (must, aim)
            ]
            ours = values.pop(OURS)
            self.report.add(f"{name}: {metric}", unit, ours, values, must=bounds[0], aim=bounds[1])

        middle = statistics.median
        add("acquisitions", "1/s", middle, lambda each: each.rate, scenario.must, scenario.aim)
        add("wait p50", "ms", middle, lambda each: each.p50)
        add("wait p99", "ms", middle, lambda each: each.p99, scenario.p99)
        add("longest wait", "ms", max, lambda each: each.longest, scenario.longest)
        if scenario.spread:
            spread = middle([each.p99 / each.p50 for each in rounds[OURS] if each.p50] or [0])
            self.report.add(f"{name}: p99 / p50", "", spread, {}, must=scenario.spread)
        if scenario.ours.names == 1:
            self.report.note(
                f"{name}: in FIFO order a wait is the number of waiters times one hand-over; a lock"
                " with polling waiters often returns to the last holder, hence its short p50 and"
                " its longest wait"
            )
        for library, some in rounds.items():
            self.check(name, labels[library], some)

    def check(self, name, library, rounds):
        """Reports overlaps and stalled waiters, which no lock may have."""
        acquired = sum(each.acquired for each in rounds)
        overlaps = sum(each.overlaps for each in rounds)
        stalled = sum(each.stalled for each in rounds)
        text = f"{name}: {library}: of {acquired:,} holders {overlaps} overlapped with another,"
        text += f" and {stalled} waiters still waited {GRACE:g} s after the end"
        if library == OURS:
            bad = overlaps + stalled
            self.report.add(f"{name}: overlaps and stalls", "", bad, {}, must=at_most(0))
            if bad:
                self.failures.append(text)
        elif overlaps or stalled:
            self.report.note(text)

    def commands(self):
        """Measures the commands per acquisition, as Redis counts them without those that scripts
        call: see `lockstock bench lock --help`."""
        for title, (shape, bound) in COMMANDS.items():
            wait_until_idle(self.given.idle_timeout)
            self.store.command("FLUSHALL")
            command = [LOCKSTOCK, "bench", "lock", "--json", "--store", self.store.url(0)]
            command += ["--processes", shape.processes, "--tasks", shape.tasks]
            # A whole number.
            command += ["--seconds", max(1, round(self.given.seconds))]
            seen = json.loads(run(command))
            each = seen["commands_per_acquisition"]
            if each is None:
                why = seen["commands_unknown_because"]
                self.report.note(f"commands: {title}: unknown, {why}")
                continue
            progress(
                f"commands  {title:27}: {each:.3f} each,"
                f" {seen['acquisitions_per_s']:,.0f}/s, longest wait {seen['wait_max_ms']:,.0f} ms"
            )
            self.report.add(f"commands: {title}", "each", each, {}, must=at_most(bound))

    def crash(self):
        wait_until_idle(self.given.idle_timeout)
        self.store.command("FLUSHALL")
        late = crashes(self.store, self.given.crashes)
        bounds = {"must": at_most(20), "aim": at_most(5)}
        self.report.add("crash: next holder, p99", "ms", quantile(late, 0.99), {}, **bounds)
        self.report.add("crash: next holder, p50", "ms", quantile(late, 0.5), {})
        self.report.note(
            f"crash: time from the expiry of the lease of a killed holder, for {len(late)} holders"
            f" with leases of {LEASE_MS} ms"
        )


def label(library, shapes, scenario):
    """Returns the name, with the shape if it differs from that of Lockstock."""
    shape = shapes[library]
    return library if shape == scenario.ours else f"{library} ({shape})"


def measure(given, report):
    """Runs the benches, and returns the violations of Lockstock."""
    wanted = [name for name in BENCHES if name in (given.only or BENCHES)]
    libraries = {OURS: None}
    for name in wanted:
        libraries |= SCENARIOS[name].peers if name in SCENARIOS else {}
    missing = install(libraries)
    for library, why in missing.items():
        report.note(f"{library} is omitted: {why}")
    with redis() as store:
        bench = Bench(given, store, report)
        for name in wanted:
            if name in SCENARIOS:
                bench.scenario(name, missing)
            else:
                getattr(bench, name)()
    named = versions(library for library in libraries if library not in missing)
    report.note("libraries: " + ", ".join(f"{name} {number}" for name, number in named.items()))
    return bench.failures


def main():
    given = arguments()
    # So that child processes are stopped in order.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    report = Report("lock")
    try:
        failures = measure(given, report)
    except Failed as error:
        sys.exit(f"bench lock: {error}")
    report.finish(as_json=given.json)
    if failures:
        sys.exit("\nbench lock: FAILED:\n" + "\n".join(f"  {each}" for each in failures))


if __name__ == "__main__":
    main()
