"""The Django cache backend beside django-redis, Django's own, valkey-glide-sync, redis.asyncio."""

import argparse
import importlib.metadata
import random
import signal
import statistics
import sys
from dataclasses import dataclass

import lock_round
from cache_clients import build as build_wire
from cache_clients import play as play_wire
from django_clients import Clients, import_costs, install
from load import wait_until_idle
from lock_clients import install as install_locks
from process import Failed
from report import OURS, Report, at_most, common_options, progress, ratio
from servers import redis

LARGE = 100 * 1024
PEER = "django-redis"
GLIDE = "valkey-glide-sync"
ASYNCIO = "redis.asyncio"
NEAR = "lockstock-near"
# A loop of GET in Rust that knows the length of the reply: the least that a round trip takes.
WIRE = "wire"


@dataclass(frozen=True)
class Case:
    """Calls in several threads, or for `aget` in several tasks of one event loop."""

    call: str
    threads: int
    must: float
    aim: float
    bytes: int = 0
    peers: tuple = (PEER, "django", GLIDE)
    bound_to: str = PEER
    ours: str = OURS
    # Whether the CPU of each call, and the share of the wire, have bounds.
    bound: bool = False
    # The round trips of a call: how many calls of the wire are as much work.
    trips: int = 0

    @property
    def order(self):
        return {"case": self.call, "threads": self.threads, "bytes": self.bytes}

    def bounds(self, value):
        bounds = {self.bound_to: ratio(value)}
        return bounds | ({GLIDE: ratio(1)} if GLIDE in self.peers else {})


CASES = {
    "get-1": Case("get", 1, must=1.3, aim=4, bound=True, trips=1),
    "set-1": Case("set", 1, must=1.3, aim=4, bound=True, trips=1),
    "get-8": Case("get", 8, must=5, aim=9),
    "set-8": Case("set", 8, must=5, aim=9),
    "large-1": Case("get", 1, must=2, aim=3, bytes=LARGE, trips=1),
    "large-8": Case("get", 8, must=3.5, aim=5.5, bytes=LARGE),
    "incr-1": Case("incr", 1, must=3, aim=4, trips=1),
    "incr-8": Case("incr", 8, must=6, aim=10),
    "lock-1": Case("lock", 1, must=1.5, aim=2.2, peers=(PEER,), trips=2),
    "lock-8": Case("lock", 8, must=4, aim=7, peers=(PEER,)),
    "near-backend": Case("get", 1, must=50, aim=90, ours=NEAR, peers=(PEER,)),
    "near-proxy": Case("get-proxy", 1, must=15, aim=30, ours=NEAR, peers=(PEER,)),
    "aget-1": Case("aget", 1, must=1.5, aim=2.4, peers=(ASYNCIO,), bound_to=ASYNCIO, trips=1),
    "aget-50": Case("aget", 50, must=5, aim=10, peers=(ASYNCIO,), bound_to=ASYNCIO),
}
# Waits for one lock, in 16 processes.
HOT = lock_round.Shape(16, 1)
HOT_PEER = "redis-py"
HOT_OURS = "lockstock-python"
BENCHES = (*CASES, "hot-16", "import")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, prog="./dev bench django")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one round (0.5)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each library (7)")
    common_options(parser, BENCHES)
    given = parser.parse_args()
    if given.seconds <= 0 or given.rounds < 1:
        parser.error("--seconds must be above 0, --rounds at least 1")
    return given


def measure(given, report):
    wanted = [name for name in BENCHES if not given.only or name in given.only]
    install()
    if any(name in CASES and CASES[name].trips for name in wanted):
        build_wire()
    with redis() as store, Clients(store.url(0)) as clients:
        for name in wanted:
            if name in CASES:
                add(report, name, CASES[name], play(given, name, CASES[name], clients, store))
    if "hot-16" in wanted:
        hot(given, report)
    if "import" in wanted:
        add_import(given, report)
    packages = {GLIDE: "valkey-glide-sync"}
    named = [f"{name} {importlib.metadata.version(each)}" for name, each in packages.items()]
    report.note("libraries: " + ", ".join(named))


def play(given, name, case, clients, store):
    """Runs all rounds. Each round has every library once, in another order."""
    libraries = [case.ours, *case.peers] + ([WIRE] if case.trips else [])
    rounds = {library: [] for library in libraries}
    for _ in range(given.rounds):
        wait_until_idle(given.idle_timeout)
        for library in random.sample(libraries, len(libraries)):
            if library == WIRE:
                seen = wire(given, case, store)
            else:
                seen = clients.run(library, case.order | {"seconds": given.seconds})
            if seen is not None:
                rounds[library].append(seen)
    for library, some in rounds.items():
        if some:
            rate = statistics.median(each["rate"] for each in some)
            cpu = statistics.median(each["cpu_us"] for each in some)
            progress(f"{name:12} {library:18} {rate:12,.0f}/s  CPU {cpu:7.2f} µs")
    return {library: some for library, some in rounds.items() if some}


def wire(given, case, store):
    """Runs a loop of `GET`. A call of the case is as many of them as it has round trips."""
    size = case.bytes or 100
    words = ["blocking", store.url(0), case.threads, size, given.seconds, 1, WIRE]
    seen = play_wire(*words)[WIRE][0]
    return {"rate": seen["rate"] / case.trips, "cpu_us": seen["cpu_us"] * case.trips}


def add(report, name, case, rounds):
    def medians(key):
        values = {
            library: statistics.median(each[key] for each in some)
            for library, some in rounds.items()
        }
        return values.pop(case.ours), values

    ours, peers = medians("rate")
    must, aim = case.bounds(case.must), case.bounds(case.aim)
    if case.bound:
        must, aim = must | {WIRE: ratio(0.55)}, aim | {WIRE: ratio(0.7)}
    report.add(f"{name}: calls", "1/s", ours, peers, must=must, aim=aim)
    ours, peers = medians("cpu_us")
    must = {PEER: ratio(4)} if case.bound else {}
    aim = {PEER: ratio(6.7)} if case.bound else {}
    report.add(f"{name}: CPU each", "µs", ours, peers, must=must, aim=aim)


def hot(given, report):
    """One lock that 16 processes want."""
    install_locks([HOT_OURS, HOT_PEER])
    rounds = {HOT_OURS: [], HOT_PEER: []}
    with redis() as store:
        for _ in range(given.rounds):
            for library in random.sample(list(rounds), 2):
                # Long enough for the longest wait of the peer.
                seconds = max(2.0, given.seconds)
                seen = lock_round.play(store, library, HOT, seconds, given.idle_timeout)
                rounds[library].append(seen)
                progress(
                    f"hot-16       {library:18} {seen.rate:12,.0f}/s  longest {seen.longest:.0f} ms"
                )
                if library == HOT_OURS and (seen.overlaps or seen.stalled):
                    raise Failed(f"{seen.overlaps} overlaps, {seen.stalled} waiters not served")

    def median(library, key):
        return statistics.median(getattr(each, key) for each in rounds[library])

    ours, peer = median(HOT_OURS, "rate"), median(HOT_PEER, "rate")
    bounds = {"must": ratio(1.1), "aim": ratio(1.4)}
    report.add("hot-16: acquisitions", "1/s", ours, {HOT_PEER: peer}, **bounds)
    ours, peer = median(HOT_OURS, "longest"), median(HOT_PEER, "longest")
    report.add("hot-16: longest wait", "ms", ours, {HOT_PEER: peer}, must=ratio(20))


def add_import(given, report):
    costs = [import_costs() for _ in range(max(given.rounds, 5))]
    milliseconds = statistics.median(each["ms"] for each in costs)
    report.add("import: time", "ms", milliseconds, {}, must=at_most(5))
    megabytes = statistics.median(each["mib"] for each in costs)
    report.add("import: memory", "MiB", megabytes, {}, must=at_most(3))


def main():
    given = arguments()
    # So that child processes are stopped in order.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    report = Report("django")
    try:
        measure(given, report)
    except Failed as error:
        sys.exit(f"bench django: {error}")
    report.finish(as_json=given.json)


if __name__ == "__main__":
    main()
