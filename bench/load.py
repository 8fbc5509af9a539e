"""Puts load on a shop and says how it coped: many requests (`wrk`) or a race for one product."""

import json
import resource
import selectors
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from process import Failed, Process, ask, machine
from servers import scratch

SCRIPTS = Path(__file__).resolve().parent / "wrk"
RACERS = 5
# Cores that may be in use by others when a measurement begins, looked at for so long.
QUIET = 0.15
LOOK = 0.5
# The article's own code answers its losers within two seconds.
RACE_LIMIT = 15.0


@dataclass(frozen=True)
class Load:
    """What one run of wrk saw. Latencies in milliseconds, from sending a request on a
    connection that is open already to its whole answer; corrected by wrk for the requests
    that a slow answer kept it from sending."""

    connections: int
    requests: int
    seconds: float
    p50: float
    p99: float
    # Kind of failure: how many.
    failures: dict
    # CPU seconds used meanwhile by each server, by wrk, by all others; and stolen by the host.
    cpu: dict

    @property
    def rate(self):
        return self.requests / self.seconds


def require_wrk():
    if not shutil.which("wrk"):
        raise Failed("there is no wrk, which makes the load. On Debian: apt-get install wrk")


def wait_until_idle(timeout):
    """Waits until other programs leave the machine idle, at most `timeout` seconds."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        before = machine()
        time.sleep(LOOK)
        if sum(machine()) - sum(before) < QUIET * LOOK:
            return


def wrk(shop, method, *, products, connections, seconds, seed, servers=()):
    """Sends `method` (get, patch, purchase) for random products over keep-alive connections.

    gunicorn's plain workers close each connection after its answer; wrk opens another.
    """
    url = f"http://127.0.0.1:{shop.port}"
    # One thread: it sends several times what any server here answers, and two would take
    # turns with the server on a machine of two cores.
    command = ["wrk", "-t", 1, "-c", connections, "-d", f"{seconds}s", "--timeout", "10s"]
    command += ["-s", SCRIPTS / "products.lua", url, "--", method, products, seed]
    before = usage(servers)
    with scratch("wrk") as folder:
        with Process("wrk", command, folder / "log") as process:
            ask("wrk", seconds + 30, process.ended)
            printed = process.log()
    after = usage(servers)
    cpu = {name: after[name] - before[name] for name in after}
    stolen = cpu.pop("stolen")
    cpu["others"] = cpu.pop("machine") - sum(cpu.values())
    cpu["stolen"] = stolen
    try:
        seen = json.loads(printed.splitlines()[-1])
    except (IndexError, ValueError):
        raise Failed(f"wrk said:\n{printed}") from None
    kinds = ("connect", "read", "write", "timeout")
    failures = {kind: seen[kind] for kind in kinds if seen[kind]}
    success = "201" if method == "purchase" else "200"
    failures |= {f"status {s}": n for s, n in seen["statuses"].items() if s != success}
    return Load(
        connections=connections,
        requests=seen["requests"],
        seconds=seen["duration"] / 1e6,
        p50=seen["p50"] / 1e3,
        p99=seen["p99"] / 1e3,
        failures=failures,
        cpu=cpu,
    )


def usage(servers):
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = {process.name: process.cpu() for process in servers}
    worked, stolen = machine()
    # wrk is the only child that ends between two readings.
    used["wrk"] = spent.ru_utime + spent.ru_stime
    return used | {"machine": worked, "stolen": stolen}


@dataclass(frozen=True)
class Race:
    statuses: list
    # Milliseconds from sending to the answer of those that got 429, the quickest first.
    losers: list


def race(shop, product, stock):
    """The article's race: five identical PATCHes of one product at once."""
    body = b'{"stock": %d}' % stock
    request = (
        b"PATCH /api/products/%d/ HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
        % (product, len(body), body)
    )
    racers = []
    try:
        # Connected beforehand, so that the requests are as simultaneous as can be.
        for _ in range(RACERS):
            racers.append(socket.create_connection(("127.0.0.1", shop.port), timeout=RACE_LIMIT))
        return settle(racers, request)
    finally:
        for racer in racers:
            racer.close()


def settle(racers, request):
    with selectors.DefaultSelector() as waiting:
        for racer in racers:
            racer.sendall(request)
            # What has been read, and when it was sent.
            waiting.register(racer, selectors.EVENT_READ, (bytearray(), time.perf_counter()))
        end = time.perf_counter() + RACE_LIMIT
        statuses, losers = [], []
        while waiting.get_map():
            ready = waiting.select(max(0, end - time.perf_counter()))
            if not ready:
                raise Failed(f"a race was not over after {RACE_LIMIT:g} s")
            for key, _ in ready:
                answer, sent = key.data
                more = key.fileobj.recv(65536)
                answer += more
                status = complete(answer)
                if status is None and more:
                    continue
                waiting.unregister(key.fileobj)
                # At once: gunicorn's worker waits for that before it takes its next client.
                key.fileobj.close()
                statuses.append(status)
                if status == 429:
                    losers.append((time.perf_counter() - sent) * 1e3)
    return Race(sorted(statuses, key=str), sorted(losers))


def complete(answer):
    """The status, once the whole of it is there."""
    head, found, body = bytes(answer).partition(b"\r\n\r\n")
    if not found:
        return None
    for line in head.lower().split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name == b"content-length" and len(body) < int(value):
            return None
    return int(head.split(b" ", 2)[1])
