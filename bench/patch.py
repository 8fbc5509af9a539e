"""The shop against Django, DRF, django-redis and gunicorn: PATCH, GET, the losers of a race."""

import argparse
import signal
import statistics
import sys

from load import RACERS, race, require_wrk, wait_until_idle, wrk
from process import Failed
from report import Report, at_most, common_options, progress, ratio
from servers import postgres, redis
from shops import TABLES, on_sqlite, pair

# Each by the number of connections: what must be reached, and the aim.
BOUNDS = {
    "patch": {1: (6, 10), 4: (6, 10), 16: (10, 15), 64: (16, 20)},
    "get": {1: (15, 20), 4: (15, 25), 16: (30, 40), 64: (35, 45)},
}
# PATCH with an idempotency key, beside PATCH without one.
KEYED = {64: (0.8, 0.95)}
BENCHES = ("patch", "get", "keyed", "loser")
RACES = 3
WARM_UP = 2
MB = 1e6


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__,
        prog="./dev bench patch",
        epilog="`./dev bench lone` measures one client beside the least that the work takes.",
    )
    parser.add_argument("--seconds", type=int, default=3, help="length of one round (3)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each bench (5)")
    parser.add_argument("--products", type=int, default=1000, help="products in each shop (1000)")
    parser.add_argument(
        "--connections", default="1,4,16,64", help="numbers of connections (1,4,16,64)"
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
        written = self.versions(shop) if shop.name in TABLES else 0
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
        if method != "get" and shop.name in TABLES:
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

    def run(self, methods):
        """Runs all rounds of some methods, and returns the loads by connections, method and name of
        the shop. The peer has no idempotency keys."""
        loads = {}
        for connections in self.given.connections:
            sides = [
                (method, shop)
                for method in methods
                for shop in self.shops
                if method != "keyed" or shop.name != "django"
            ]
            for method, shop in sides:
                self.load(shop, method, connections, WARM_UP)
            for number in range(self.given.rounds):
                self.rounds += 1
                # Alternates the order, so that drift affects all sides equally.
                for method, shop in sides if number % 2 == 0 else reversed(sides):
                    load = self.load(shop, method, connections, self.given.seconds)
                    loads.setdefault((connections, method, shop.name), []).append(load)
                    shares = ", ".join(f"{k} {v / load.seconds:.2f}" for k, v in load.cpu.items())
                    progress(
                        f"{method:6} {shop.name:10} connections {connections:3}"
                        f" round {number + 1}/{self.given.rounds}: {load.rate:8,.0f}/s"
                        f"  p50 {load.p50:7.2f} ms  p99 {load.p99:7.2f} ms"
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


def report_loads(report, loads):
    """Adds a line for each number of connections: beside the peer, and with keys beside without."""

    def middle(value, *key):
        return statistics.median(map(value, loads[key]))

    def rate(load):
        return load.rate

    for connections, method, name in loads:
        if name == "django":
            continue
        what = f"{method}, {connections} connections" + (", SQLite" if name == "sqlite" else "")
        beside = ("patch", name) if method == "keyed" else (method, "django")
        if (connections, *beside) not in loads:
            continue
        label = "without a key" if method == "keyed" else "django"
        bounds = KEYED if method == "keyed" else BOUNDS[method]
        # The bounds are those of Postgres, which the peer uses too.
        must, aim = bounds.get(connections, (None, None)) if name == "lockstock" else (None, None)
        for metric, unit, value in (
            ("requests", "1/s", rate),
            ("p50", "ms", lambda load: load.p50),
            ("p99", "ms", lambda load: load.p99),
        ):
            report.add(
                f"{what}: {metric}",
                unit,
                middle(value, connections, method, name),
                {label: middle(value, connections, *beside)},
                must=ratio(must) if must and metric == "requests" else None,
                aim=ratio(aim) if aim and metric == "requests" else None,
            )
        server = statistics.median(spent(load, "server") for load in loads[connections, method, name])
        report.add(f"{what}: CPU of the server", "µs", server, {})
    used = [
        (load.cpu["others"] + load.cpu["stolen"]) / load.seconds
        for some in loads.values()
        for load in some
    ]
    report.note(f"other programs used {statistics.median(used):.2f} cores")


def spent(load, part):
    own = next(iter(load.cpu))
    return load.cpu[own if part == "server" else part] / load.requests * 1e6


def report_memory(report, shops, idle):
    """Compares the whole of Lockstock with one worker of the peer, which handles one request at
    a time."""
    ours, peer = shops[:2]
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
        methods = [method for method in BENCHES if method in wanted and method != "loser"]
        if "keyed" in methods and "patch" not in methods:
            methods.insert(0, "patch")
        if methods:
            with (
                pair(database, store, "release", given.products) as (ours, peer),
                on_sqlite(store, given.products) as embedded,
            ):
                idle = ours.process.memory(), peer.process.memory()
                bench = Bench(given, database, store, (ours, peer, embedded))
                report_loads(report, bench.run(methods))
                report_memory(report, bench.shops, idle)
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
