"""The shop against Django, DRF, django-redis and gunicorn: PATCH, GET, the losers of a race."""

import argparse
import signal
import statistics
import sys

from load import RACERS, race, require_wrk, wait_until_idle, wrk
from process import Failed
from report import Report, at_most, common_options, progress, ratio
from servers import postgres, redis
from shops import TABLES, pair

BENCHES = ("patch", "get", "loser")
RACES = 3
WARM_UP = 2
# Rates from this share of the best are equal within the noise.
EQUAL_SHARE = 0.95
MB = 1e6
# Bounds and aims.
BOUNDS = {"patch": (ratio(10), ratio(15)), "get": (ratio(12), ratio(20))}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, prog="./dev bench patch")
    parser.add_argument("--seconds", type=int, default=5, help="length of one round (5)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each bench (5)")
    parser.add_argument("--products", type=int, default=1000, help="products in each shop (1000)")
    parser.add_argument(
        "--connections",
        default="16,32,64",
        help="numbers to try: each side is measured with its best (16,32,64)",
    )
    common_options(parser, BENCHES)
    given = parser.parse_args()
    try:
        given.connections = sorted({int(number) for number in given.connections.split(",")})
    except ValueError:
        parser.error("--connections must be numbers separated by commas")
    if min(given.seconds, given.rounds, given.connections[0]) < 1:
        parser.error("--seconds, --rounds and --connections must be at least 1")
    if given.products < given.rounds * RACES:
        parser.error(f"--products must be at least {given.rounds * RACES}: one for each race")
    return given


class Bench:
    """Load on both sides alternately, on one database and one Redis."""

    def __init__(self, given, database, store, shops):
        self.given, self.database, self.store, self.shops = given, database, store, shops
        self.failures = {}
        self.rounds = 0

    def load(self, shop, method, connections, seconds):
        written = self.versions(shop)
        wait_until_idle(self.given.idle_timeout)
        load = wrk(
            shop,
            method,
            products=self.given.products,
            connections=connections,
            seconds=seconds,
            # Both sides get the same products in the same order.
            seed=1 + self.rounds,
            servers=(shop.process, self.database.process, self.store.process),
        )
        for kind, count in load.failures.items():
            self.failed(f"{method} {shop.name}: {kind}", count)
        if method == "patch":
            missing = load.requests - (self.versions(shop) - written)
            if missing > 0 and not load.failures:
                self.failed(f"{method} {shop.name}: acknowledged and not in the database", missing)
        return load

    def failed(self, what, count=1):
        self.failures[what] = self.failures.get(what, 0) + count

    def versions(self, shop):
        """Returns the number of writes in its database: each increments a version by one."""
        database, table = TABLES[shop.name]
        return int(self.database.sql(database, f"SELECT sum(version) - count(*) FROM {table}"))

    def best_connections(self, shop, method):
        """Returns the number of connections with the highest rate; of equal rates the smallest
        number, which has the lowest latencies."""
        rates = dict.fromkeys(self.given.connections, 0.0)
        # Twice, and the better run counts: noise only reduces a rate.
        for connections in self.given.connections * 2:
            self.rounds += 1
            load = self.load(shop, method, connections, WARM_UP)
            rates[connections] = max(rates[connections], load.rate)
        threshold = EQUAL_SHARE * max(rates.values())
        best = min(number for number, rate in rates.items() if rate >= threshold)
        tried = ", ".join(f"{number}: {rate:,.0f}/s" for number, rate in rates.items())
        progress(f"{method:6} {shop.name:10} connections {tried} -> {best}")
        return best

    def run(self, method):
        """Runs all rounds of one method, and returns the loads by shop name."""
        best = {}
        for shop in self.shops:
            self.load(shop, method, self.given.connections[0], WARM_UP)
            best[shop.name] = self.best_connections(shop, method)
        loads = {shop.name: [] for shop in self.shops}
        for number in range(self.given.rounds):
            self.rounds += 1
            # Alternates the order, so that drift affects both sides equally.
            for shop in self.shops if number % 2 == 0 else reversed(self.shops):
                load = self.load(shop, method, best[shop.name], self.given.seconds)
                loads[shop.name].append(load)
                shares = ", ".join(f"{k} {v / load.seconds:.2f}" for k, v in load.cpu.items())
                progress(
                    f"{method:6} {shop.name:10} round {number + 1}/{self.given.rounds}:"
                    f" {load.rate:8,.0f}/s  p50 {load.p50:7.2f} ms  p99 {load.p99:7.2f} ms"
                    f"  failures: {load.failures or 0}  cores: {shares}"
                )
        return loads

    def races(self):
        """Runs the five-PATCH race on unused products, and returns the milliseconds of the losers
        by shop name."""
        losers = {shop.name: [] for shop in self.shops}
        for number in range(self.given.rounds):
            for shop in self.shops if number % 2 == 0 else reversed(self.shops):
                wait_until_idle(self.given.idle_timeout)
                times = []
                for product in range(number * RACES + 1, (number + 1) * RACES + 1):
                    seen = race(shop, product, stock=number)
                    if seen.statuses != [200] + [429] * (RACERS - 1):
                        self.failed(f"loser {shop.name}: statuses {seen.statuses}")
                    times += seen.losers
                losers[shop.name] += times
                progress(
                    f"loser  {shop.name:10} round {number + 1}/{self.given.rounds}: {RACES} races,"
                    f" rejected after {', '.join(f'{each:.1f}' for each in sorted(times))} ms"
                )
        return losers


def report_loads(report, method, loads):
    must, aim = BOUNDS[method]

    def both(value):
        middle = {name: statistics.median(map(value, some)) for name, some in loads.items()}
        return middle.pop("lockstock"), middle

    report.add(f"{method}: requests", "1/s", *both(lambda load: load.rate), must=must, aim=aim)
    report.add(f"{method}: p50", "ms", *both(lambda load: load.p50))
    report.add(f"{method}: p99", "ms", *both(lambda load: load.p99))
    # CPU time, which is less noisy than elapsed time.
    for part in ("server", "postgres", "redis") if method == "patch" else ("server", "postgres"):
        report.add(f"{method}: CPU a request, {part}", "µs", *both(lambda load: spent(load, part)))
    for name, some in loads.items():
        used = [(each.cpu["others"] + each.cpu["stolen"]) / each.seconds for each in some]
        report.note(
            f"{method}: {name} with {some[0].connections} connections, its best number; other"
            f" programs used {statistics.median(used):.2f} cores"
        )


def spent(load, part):
    own = next(iter(load.cpu))
    return load.cpu[own if part == "server" else part] / load.requests * 1e6


def report_memory(report, shops, idle):
    """Compares the whole of Lockstock with one worker of the peer, which handles one request at
    a time."""
    ours, peer = shops
    after = ours.process.memory(), peer.process.memory()
    for when, (our_bytes, peer_bytes), must in (
        ("idle", idle, at_most(20)),
        ("after load", after, at_most(40)),
    ):
        mine, workers = sum(our_bytes) / MB, [each / MB for each in peer_bytes[1:]]
        peers = {"django, one worker": statistics.median(workers)}
        peers["django, all processes"] = sum(peer_bytes) / MB
        report.add(f"memory {when}", "MB", mine, peers, must=must)


def report_losers(report, losers):
    def both(value):
        return value(losers["lockstock"]), {"django": value(losers["django"])}

    report.add("loser: rejected after, median", "ms", *both(statistics.median), must=at_most(10))
    report.add("loser: rejected after, longest", "ms", *both(max))


def run(given, report):
    """Runs the benches, and returns the failures."""
    wanted = given.only or BENCHES
    failures = {}
    with postgres() as database, redis() as store:
        loads = [method for method in BENCHES if method in wanted and method != "loser"]
        if loads:
            with pair(database, store, "release", given.products) as shops:
                idle = shops[0].process.memory(), shops[1].process.memory()
                bench = Bench(given, database, store, shops)
                for method in loads:
                    report_loads(report, method, bench.run(method))
                report_memory(report, shops, idle)
                failures |= bench.failures
        if "loser" in wanted:
            with pair(database, store, "keep", given.products) as shops:
                bench = Bench(given, database, store, shops)
                report_losers(report, bench.races())
                failures |= bench.failures
    return failures


def main():
    given = arguments()
    # So that child processes are stopped in order.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    report = Report("patch")
    try:
        require_wrk()
        failures = run(given, report)
    except Failed as error:
        sys.exit(f"bench patch: {error}")
    report.finish(as_json=given.json)
    if failures:
        lines = "\n".join(f"  {what}: {count}" for what, count in failures.items())
        sys.exit(f"\nbench patch: FAILED because of wrong responses:\n{lines}")


if __name__ == "__main__":
    main()
