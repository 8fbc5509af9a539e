"""One client at a time, beside the least that the same work takes in the same run."""

import argparse
import itertools
import json
import signal
import socket
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from load import wait_until_idle
from process import Failed
from report import Report, at_most, common_options, progress
from servers import postgres, postgres_program, redis, run, scratch
from shops import lockstock

REQUESTS = 400
WARM_UP = 50
# The tables of the shop with one statement for each kind of request, each a transaction.
STATEMENTS = {
    "get": "SELECT * FROM products WHERE id = 1;\n",
    "patch": "\\set stock random(1, 100000)\n"
    "UPDATE products SET stock = :stock, version = version + 1 WHERE id = 1;\n",
}
# Round trips to Redis that a request cannot do without: acquire and release.
LOCK_TRIPS = {"get": 0, "patch": 2, "keyed": 2, "purchase": 0}
# The statement that is the least of each kind.
LEAST = {"get": "get", "patch": "patch", "keyed": "patch", "purchase": "patch"}
# Bounds and aims, as multiples of the least.
BOUNDS = {"get": (3, 2), "patch": (4, 3), "keyed": (5, 3), "purchase": (4, 2.5)}


class Client:
    """One connection, kept alive."""

    def __init__(self, port):
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.keys = itertools.count(time.time_ns())
        self.stocks = itertools.count(100_000)

    def request(self, kind):
        """Returns the bytes of a request."""
        if kind == "bare":
            return b"GET /healthz HTTP/1.1\r\nHost: bench\r\n\r\n"
        path, method, body = "/api/products/1/", "PATCH", {"stock": next(self.stocks)}
        if kind == "get":
            return f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
        if kind == "purchase":
            path, method, body = f"{path}purchases/", "POST", {"quantity": 1}
        text = json.dumps(body)
        key = f"Idempotency-Key: {next(self.keys)}\r\n" if kind == "keyed" else ""
        return (
            f"{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(text)}\r\n{key}\r\n{text}"
        ).encode()

    def send(self, kind):
        """Sends a request and returns the seconds until its response was complete."""
        request = self.request(kind)
        start = time.perf_counter()
        self.connection.sendall(request)
        response = b""
        while not is_complete(response):
            more = self.connection.recv(65536)
            if not more:
                raise Failed(f"{kind}: the server closed the connection")
            response += more
        took = time.perf_counter() - start
        if response[9:10] != b"2":
            raise Failed(f"{kind}: {response.decode(errors='replace')}")
        return took

    def p50(self, kind):
        """Returns the median in microseconds."""
        return statistics.median(self.send(kind) for _ in range(REQUESTS)) * 1e6


def is_complete(response):
    head, found, body = response.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
    return bool(found) and len(body) >= int(length or 0)


class Least:
    """The same work without a server in between."""

    def __init__(self, database, store):
        self.database, self.store = database, store

    def statement(self, name):
        """Returns the median of a prepared statement, in microseconds."""
        with scratch("pgbench") as folder:
            script = folder / "statement.sql"
            script.write_text(STATEMENTS[name])
            command = [postgres_program("pgbench"), "-n", "-M", "prepared", "-c", 1]
            command += ["-t", REQUESTS, "-f", script, "-l", "--log-prefix", folder / "log"]
            command += ["-h", "127.0.0.1", "-p", self.database.port, "-U", "postgres", "lone"]
            run(command)
            lines = [line for log in folder.glob("log.*") for line in log.read_text().splitlines()]
        return statistics.median(int(line.split()[2]) for line in lines)

    def round_trip(self):
        """Returns the median of a PING, in microseconds."""
        command = ["redis-benchmark", "-p", self.store.port, "-c", 1, "-n", REQUESTS * 5]
        printed = run([*command, "-t", "ping_mbulk", "--csv"]).splitlines()
        columns = dict(zip(*(line.replace('"', "").split(",") for line in printed)))
        return float(columns["p50_latency_ms"]) * 1e3


def usage(process):
    """Returns the voluntary context switches of a process, and its CPU time in microseconds."""
    switches = 0
    for status in Path(f"/proc/{process.pid}/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                switches += int(line.split()[1])
    return switches, process.cpu() * 1e6


def measure(given, report):
    """Adds the results of all kinds to the report."""
    kinds = given.only or list(BOUNDS)
    with ExitStack() as stack:
        database, store = stack.enter_context(postgres()), stack.enter_context(redis())
        urls = {"Postgres": database.create("lone")}
        if not given.postgres:
            folder = stack.enter_context(scratch("sqlite"))
            urls["SQLite"] = f"sqlite://{folder}/lone.sqlite3"
        shops = {}
        for number, (name, url) in enumerate(urls.items(), start=1):
            started = lockstock(url, store.url(number), after_update="release")
            shops[name] = stack.enter_context(started)
            product = {"name": "Product", "price": 100, "stock": 2_000_000_000}
            status, body = shops[name].send("POST", "/api/products/", product)
            if status != 201:
                raise Failed(f"POST: {status} {body}")
        least = Least(database, store)
        times = {}
        spent = {}

        def note(key, value):
            times.setdefault(key, []).append(value)

        for number in range(given.rounds):
            wait_until_idle(given.idle_timeout)
            note("trip", least.round_trip())
            for name in STATEMENTS:
                note(("least", name), least.statement(name))
            for base, shop in shops.items():
                # The server closes connections that are idle for long.
                client = Client(shop.port)
                for kind in ("bare", *kinds):
                    for _ in range(WARM_UP):
                        client.send(kind)
                    before = usage(shop.process)
                    note((base, kind), client.p50(kind))
                    after = usage(shop.process)
                    used = [(b - a) / REQUESTS for a, b in zip(before, after)]
                    spent.setdefault((base, kind), []).append(used)
            progress(f"round {number + 1}/{given.rounds}")
    p50 = {key: statistics.median(values) for key, values in times.items()}
    add(report, kinds, shops, p50, spent)


def add(report, kinds, bases, p50, spent):
    for name in STATEMENTS:
        report.add(f"least: {name} in one statement", "µs", p50["least", name], {})
    report.add("least: a round trip to Redis", "µs", p50["trip"], {})
    for base in bases:
        for kind in ("bare", *kinds):
            report.add(f"{base}, {kind}: p50", "µs", p50[base, kind], {})
        for kind in kinds:
            must, aim = BOUNDS[kind]
            least = p50["least", LEAST[kind]] + LOCK_TRIPS[kind] * p50["trip"]
            multiple = (p50[base, kind] - p50[base, "bare"]) / least
            metric = f"{base}, {kind}: over the bare route, as a multiple of the least"
            report.add(metric, "×", multiple, {}, must=at_most(must), aim=at_most(aim))
        for kind in ("bare", *kinds):
            switches, cpu = (statistics.median(each) for each in zip(*spent[base, kind]))
            report.add(f"{base}, {kind}: context switches", "", switches, {})
            report.add(f"{base}, {kind}: CPU of the server", "µs", cpu, {})


def main():
    parser = argparse.ArgumentParser(description=__doc__, prog="./dev bench lone")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (7)")
    parser.add_argument("--postgres", action="store_true", help="without SQLite")
    common_options(parser, list(BOUNDS))
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error("--rounds must be at least 1")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    report = Report("lone")
    try:
        measure(given, report)
    except Failed as error:
        sys.exit(f"bench lone: {error}")
    report.finish(as_json=given.json)


if __name__ == "__main__":
    main()
