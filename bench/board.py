"""What streams of live events cost the updates of products, and how much memory each takes."""

import argparse
import resource
import selectors
import signal
import socket
import statistics
import sys
import threading
import time
from contextlib import ExitStack

from load import require_wrk, wait_until_idle, wrk
from process import Failed, wait_until
from report import Report, at_most, common_options, progress, ratio
from servers import postgres, redis
from shops import lockstock

BENCHES = ("patch", "memory")
WARM_UP = 2
# What each server is started with. Only the streams of `watched` are opened.
SIDES = {"off": 0, "unwatched": 100_000, "watched": 100_000}
REQUEST = b"GET /api/locks/events HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n"


class Watchers:
    """Open streams whose bytes are read and dropped."""

    def __init__(self, port, count):
        self.bytes = 0
        self.selector = selectors.DefaultSelector()
        self.answered = set()
        self.sockets = []
        self.stopped = False
        for _ in range(count):
            stream = socket.create_connection(("127.0.0.1", port), timeout=10)
            stream.sendall(REQUEST)
            stream.setblocking(False)
            self.sockets.append(stream)
            self.selector.register(stream, selectors.EVENT_READ)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def __enter__(self):
        wait_until("the streams", 60, lambda: len(self.answered) == len(self.sockets))
        # The snapshots are no part of what is measured.
        before = -1
        while before != self.bytes:
            before = self.bytes
            time.sleep(0.5)
        self.bytes = 0
        return self

    def __exit__(self, *_):
        self.stopped = True
        self.thread.join()
        for stream in self.sockets:
            stream.close()

    def read(self):
        buffer = bytearray(1 << 20)
        while not self.stopped:
            for key, _ in self.selector.select(0.2):
                try:
                    length = key.fileobj.recv_into(buffer)
                except BlockingIOError:
                    continue
                if length == 0:
                    self.selector.unregister(key.fileobj)
                    continue
                self.bytes += length
                self.answered.add(key.fd)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, prog="./dev bench board")
    parser.add_argument("--seconds", type=int, default=5, help="length of one round (5)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (5)")
    parser.add_argument("--products", type=int, default=1000, help="products (1000)")
    parser.add_argument(
        "--connections", type=int, default=64, help="connections that send PATCH (64)"
    )
    parser.add_argument("--watchers", type=int, default=2000, help="open streams (2000)")
    common_options(parser, BENCHES)
    given = parser.parse_args()
    numbers = (given.seconds, given.rounds, given.products, given.connections, given.watchers)
    if min(numbers) < 1:
        parser.error("all numbers must be at least 1")
    return given


def servers(stack, database, store, products, number):
    """Starts a server for each side, each with a database of its own and the same products. `number` is
    part of the names of the databases."""
    shops = {}
    for index, (side, limit) in enumerate(SIDES.items(), start=1):
        options = ["--max-watchers", limit]
        name = f"{side}_{number}"
        started = lockstock(
            database.create(name), store.url(index), after_update="release", options=options
        )
        shops[side] = stack.enter_context(started)
        shops[side].name = side
        database.sql(
            name,
            "INSERT INTO products (name, description, price, stock, created_at, updated_at)"
            " SELECT 'Product ' || n, '', 100 + n, 1000, now(), now()"
            f" FROM generate_series(1, {products}) n",
        )
    return shops


def measure(given, database, store):
    """Returns the loads of each side. The order alternates, so that drift affects all equally. Each round
    has servers of its own: two processes with the same options differ by more than what is measured."""
    loads = {side: [] for side in SIDES}

    def load(shops, side, seconds, seed):
        shop = shops[side]
        wait_until_idle(given.idle_timeout)
        count = given.watchers if side == "watched" else 0
        with Watchers(shop.port, count) as watchers:
            result = wrk(
                shop,
                "patch",
                products=given.products,
                connections=given.connections,
                seconds=seconds,
                seed=seed,
                servers=(shop.process, database.process, store.process),
            )
        if result.failures:
            raise Failed(f"{side}: {result.failures}")
        return result, watchers.bytes

    for number in range(given.rounds):
        with ExitStack() as stack:
            shops = servers(stack, database, store, given.products, number)
            for side in shops:
                load(shops, side, WARM_UP, 1)
            sides = list(shops)
            for side in sides if number % 2 == 0 else reversed(sides):
                result, received = load(shops, side, given.seconds, 2 + number)
                loads[side].append(result)
                shares = ", ".join(f"{k} {v / result.seconds:.2f}" for k, v in result.cpu.items())
                progress(
                    f"{side:10} round {number + 1}/{given.rounds}: {result.rate:8,.0f}/s"
                    f"  p99 {result.p99:7.2f} ms  streams {received / result.seconds / 1e6:6.1f} MB/s"
                    f"  cores: {shares}"
                )
    return loads


def report_loads(report, loads, watchers):
    def cpu(load):
        return next(iter(load.cpu.values())) / load.requests * 1e6

    labels = {"unwatched": "no stream", "watched": f"{watchers} streams"}
    for side, label in labels.items():
        # Of the same round, so that drift of the machine does not count.
        pairs = list(zip(loads["off"], loads[side]))
        rate = statistics.median(mine.rate for _, mine in pairs)
        share = statistics.median(mine.rate / off.rate for off, mine in pairs)
        bound = {"must": ratio(0.95)} if side == "watched" else {"aim": ratio(0.99)}
        report.add(f"PATCH, {label}", "1/s", rate, {"off": rate / share}, **bound)
        report.add(
            f"CPU of the server for a PATCH, {label}",
            "µs",
            statistics.median(cpu(mine) for _, mine in pairs),
            {"off": statistics.median(cpu(off) for off, _ in pairs)},
        )
    others = [(load.cpu["others"] + load.cpu["stolen"]) / load.seconds for load in loads["off"]]
    report.note(f"other programs used {statistics.median(others):.2f} cores")


def report_memory(report, given, shop):
    before = sum(shop.process.memory())
    with Watchers(shop.port, given.watchers):
        after = sum(shop.process.memory())
    each = (after - before) / given.watchers / 1024
    report.add("memory of a stream", "KiB", each, {}, must=at_most(20))


def run(given, report):
    wanted = given.only or BENCHES
    with postgres() as database, redis() as store:
        if "memory" in wanted:
            # Before any load, whose memory the streams would use again.
            with ExitStack() as stack:
                shops = servers(stack, database, store, given.products, "memory")
                report_memory(report, given, shops["watched"])
        if "patch" in wanted:
            report_loads(report, measure(given, database, store), given.watchers)


def main():
    given = arguments()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # So that child processes are stopped in order.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    report = Report("board")
    try:
        require_wrk()
        run(given, report)
    except Failed as error:
        sys.exit(f"bench board: {error}")
    report.finish(as_json=given.json)


if __name__ == "__main__":
    main()
