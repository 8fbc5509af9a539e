"""Purchases against pgbench with the same row update and ledger insert on the same Postgres."""

import argparse
import random
import signal
import statistics
import sys
from contextlib import contextmanager
from dataclasses import dataclass

from load import require_wrk, wait_until_idle, wrk
from process import Failed
from report import Report, common_options, progress, ratio
from servers import ROOT, postgres, postgres_program, run, scratch
from shops import lockstock

MIGRATIONS = ROOT / "crates/lockstock-shop/migrations/postgres"
# Databases.
OURS, PEER = "lockstock", "pgbench"
WARM_UP = 1
STOCK = 2_000_000_000


@dataclass(frozen=True)
class Scenario:
    products: int
    # The bound beside pgbench, and the aim.
    must: object
    aim: object = None
    # Connections of pgbench.
    clients: int = 16
    # Connections to Lockstock, if not as many as --connections.
    connections: int = 0


SCENARIOS = {
    "hot": Scenario(1, ratio(10)),
    "spread": Scenario(1000, ratio(0.5)),
    # `./dev bench lone` measures the same client beside the least, without the HTTP of a bare route.
    "lone": Scenario(1, ratio(1 / 4), ratio(1 / 2.5), clients=1, connections=1),
}
BENCHES = (*SCENARIOS, "sqlite")

# One statement, and so one transaction and one round trip: faster than the usual form.
SCRIPT = """\\set product random(1, {products})
WITH sold AS (
    UPDATE products SET stock = stock - 1, version = version + 1, updated_at = now()
    WHERE id = :product AND stock >= 1 RETURNING id, version, stock, price
)
INSERT INTO ledger (product, version, id, reason, delta, stock_after, unit_price, request, at)
SELECT id, version, gen_random_uuid(), 'purchase', -1, stock, price, 'pgbench', now() FROM sold;
"""


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__,
        prog="./dev bench purchase",
        epilog="The whole bench takes about five minutes on an idle machine.",
    )
    parser.add_argument("--seconds", type=int, default=5, help="length of one round (5)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each side (5)")
    parser.add_argument(
        "--connections", type=int, default=256, help="connections to Lockstock (256)"
    )
    parser.add_argument(
        "--spread",
        action="store_const",
        const=["spread"],
        dest="only",
        help="the same as --only spread",
    )
    common_options(parser, BENCHES)
    given = parser.parse_args()
    if min(given.seconds, given.rounds, given.connections) < 1:
        parser.error("--seconds, --rounds and --connections must be at least 1")
    return given


class Bench:
    def __init__(self, given, database, report):
        self.given, self.database, self.report = given, database, report
        self.failures = {}

    def scenario(self, name):
        """Runs Lockstock and pgbench alternately on one PostgreSQL."""
        scenario = SCENARIOS[name]
        with self.shop(scenario.products) as shop:
            loads, peers = [], []
            self.load(name, shop, scenario, WARM_UP)
            for number in range(self.given.rounds):
                runs = [
                    lambda: loads.append(self.load(name, shop, scenario, self.given.seconds)),
                    lambda: peers.append(self.pgbench(name, scenario)),
                ]
                for run_side in runs if number % 2 == 0 else reversed(runs):
                    wait_until_idle(self.given.idle_timeout)
                    run_side()
            self.books(OURS)
        self.add(name, loads, {"pgbench": peers}, scenario.must, scenario.aim)
        return statistics.median(load.rate for load in loads)

    @contextmanager
    def shop(self, products):
        for base in (OURS, PEER):
            self.database.sql("postgres", f"DROP DATABASE IF EXISTS {base}")
            url = self.database.create(base)
            if base == PEER:
                for migration in sorted(MIGRATIONS.glob("*.sql")):
                    self.database.sql(PEER, migration.read_text())
                self.stock(PEER, products)
            else:
                ours = url
        # Purchases take no lock, so the store makes no difference.
        with lockstock(ours, "memory://", after_update="release") as shop:
            self.stock(OURS, products)
            yield shop

    def stock(self, base, products):
        self.database.sql(
            base,
            "INSERT INTO products (name, description, price, stock, created_at, updated_at)"
            f" SELECT 'Product ' || n, '', 100 + n, {STOCK}, now(), now()"
            f" FROM generate_series(1, {products}) n",
        )

    def load(self, name, shop, scenario, seconds):
        load = wrk(
            shop,
            "purchase",
            products=scenario.products,
            connections=scenario.connections or self.given.connections,
            seconds=seconds,
            seed=random.randrange(1 << 30),
            servers=(shop.process, self.database.process),
        )
        for kind, count in load.failures.items():
            self.failures[f"{name}: {kind}"] = self.failures.get(f"{name}: {kind}", 0) + count
        if seconds != WARM_UP:
            report_progress(name, "lockstock", load)
        return load

    def pgbench(self, name, scenario):
        with scratch("pgbench") as folder:
            script = folder / "purchase.sql"
            script.write_text(SCRIPT.format(products=scenario.products))
            command = [postgres_program("pgbench"), "-n", "-M", "prepared", "-c", scenario.clients]
            command += ["-j", min(scenario.clients, 2), "-T", self.given.seconds, "-f", script]
            command += ["-l", "--log-prefix", folder / "log"]
            command += ["-h", "127.0.0.1", "-p", self.database.port, "-U", "postgres", PEER]
            run(command)
            logs = [log.read_text() for log in folder.glob("log.*")]
        took = sorted(int(line.split()[2]) / 1e3 for log in logs for line in log.splitlines())
        seen = Seen(len(took) / self.given.seconds, took)
        report_progress(name, "pgbench", seen)
        return seen

    def sqlite(self, postgres_rate):
        """Compares Lockstock on SQLite with Lockstock on Postgres."""
        loads = []
        with scratch("sqlite") as folder:
            url = f"sqlite://{folder}/shop.sqlite3"
            with lockstock(url, "memory://", after_update="release", samples=True) as shop:
                fill_stock(shop)
                scenario = SCENARIOS["hot"]
                self.load("sqlite", shop, scenario, WARM_UP)
                for _ in range(self.given.rounds):
                    wait_until_idle(self.given.idle_timeout)
                    loads.append(self.load("sqlite", shop, scenario, self.given.seconds))
        self.add("sqlite", loads, {})
        rate = statistics.median(load.rate for load in loads)
        peers = {"on Postgres": postgres_rate}
        self.report.add("sqlite, hot: purchases", "1/s", rate, peers, must=ratio(0.5))

    def books(self, base):
        """Checks that the ledger agrees with the stock."""
        wrong = self.database.sql(
            base,
            f"SELECT count(*) FROM products p WHERE stock <> {STOCK} + coalesce((SELECT sum(delta)"
            " FROM ledger l WHERE l.product = p.id), 0) OR version <> 1 + (SELECT count(*)"
            " FROM ledger l WHERE l.product = p.id)",
        )
        if wrong != "0":
            self.failures[f"products whose ledger and stock differ in {base}"] = int(wrong)

    def add(self, name, loads, peers, must=None, aim=None):
        def both(value):
            middle = {peer: statistics.median(map(value, some)) for peer, some in peers.items()}
            return statistics.median(map(value, loads)), middle

        bounds = {"must": must, "aim": aim}
        self.report.add(f"{name}: purchases", "1/s", *both(lambda load: load.rate), **bounds)
        self.report.add(f"{name}: p50", "ms", *both(lambda load: load.p50))
        self.report.add(f"{name}: p99", "ms", *both(lambda load: load.p99))
        for part in loads[0].cpu:
            share = statistics.median(load.cpu[part] / load.seconds for load in loads)
            self.report.note(f"{name}: cores used by {part}: {share:.2f}")


class Seen:
    """The result of one run of pgbench."""

    def __init__(self, rate, took):
        self.rate = rate
        self.p50, self.p99 = (took[int(len(took) * part)] for part in (0.5, 0.99))


def report_progress(name, side, seen):
    progress(f"{name:7} {side:10} {seen.rate:9,.0f}/s  p50 {seen.p50:7.2f}  p99 {seen.p99:7.2f} ms")


def fill_stock(shop):
    """Raises the stock of the first product."""
    status, body = shop.send("PATCH", "/api/products/1/", {"stock": STOCK})
    if status != 200:
        raise Failed(f"PATCH: {status} {body}")


def main():
    given = arguments()
    # So that child processes are stopped in order.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    report = Report("purchase")
    wanted = given.only or BENCHES
    try:
        require_wrk()
        with postgres() as database:
            bench = Bench(given, database, report)
            # SQLite is compared with the hot scenario on Postgres.
            needed = [
                name
                for name in SCENARIOS
                if name in wanted or name == "hot" and "sqlite" in wanted
            ]
            rates = {name: bench.scenario(name) for name in needed}
            if "sqlite" in wanted:
                bench.sqlite(rates["hot"])
    except Failed as error:
        sys.exit(f"bench purchase: {error}")
    clients = ", ".join(f"{SCENARIOS[name].clients} in {name}" for name in needed)
    report.note(f"pgbench: prepared, one statement per transaction; clients: {clients}")
    report.finish(as_json=given.json)
    if bench.failures:
        lines = "\n".join(f"  {what}: {count}" for what, count in bench.failures.items())
        sys.exit(f"\nbench purchase: FAILED:\n{lines}")


if __name__ == "__main__":
    main()
