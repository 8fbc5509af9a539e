"""Puts load on a shop and measures it: many requests (`wrk`) or a race for one product."""

import json
import resource
import selectors
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from process import Failed, Process, machine, wait_until
from servers import scratch

SCRIPTS = Path(__file__).resolve().parent / "wrk"
RACERS = 5
# The machine is idle if other programs use at most so many cores, over one interval.
MAX_IDLE_CORES = 0.15
IDLE_INTERVAL = 0.5
# The Django peer responds to the losers within two seconds.
RACE_TIMEOUT = 15.0


@dataclass(frozen=True)
class Load:
    """The result of one run of wrk. Latencies are in milliseconds, from sending a request on an
    open connection to the end of its response. wrk corrects them for the requests that a slow
    response delayed."""

    connections: int
    requests: int
    seconds: float
    p50: float
    p99: float
    # Number of failures by kind.
    failures: dict
    # CPU seconds used by each server, by wrk and by other programs, and stolen by the host.
    cpu: dict

    @property
    def rate(self):
        return self.requests / self.seconds


def require_wrk():
    if not shutil.which("wrk"):
        raise Failed("wrk, the load generator, is not installed. On Debian: apt-get install wrk")


def wait_until_idle(timeout):
    """Waits until other programs leave the machine idle, at most `timeout` seconds."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        before = machine()
        time.sleep(IDLE_INTERVAL)
        if sum(machine()) - sum(before) < MAX_IDLE_CORES * IDLE_INTERVAL:
            return


def wrk(shop, method, *, products, connections, seconds, seed, servers=()):
    """Sends `method` (get, patch, purchase) for random products over keep-alive connections.

    gunicorn's sync workers close each connection after its response; wrk opens another.
    """
    url = f"http://127.0.0.1:{shop.port}"
    # One thread sends several times what any server here handles, and a second thread would
    # compete with the server on a machine of two cores.
    command = ["wrk", "-t", 1, "-c", connections, "-d", f"{seconds}s", "--timeout", "10s"]
    command += ["-s", SCRIPTS / "products.lua", url, "--", method, products, seed]
    before = usage(servers)
    with scratch("wrk") as folder:
        with Process("wrk", command, folder / "log") as process:
            wait_until("wrk", seconds + 30, process.exited)
            printed = process.log()
    after = usage(servers)
    cpu = {name: after[name] - before[name] for name in after}
    stolen = cpu.pop("stolen")
    cpu["others"] = cpu.pop("machine") - sum(cpu.values())
    cpu["stolen"] = stolen
    try:
        seen = json.loads(printed.splitlines()[-1])
    except (IndexError, ValueError):
        raise Failed(f"unexpected output of wrk:\n{printed}") from None
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
    # wrk is the only child that exits between two readings.
    used["wrk"] = spent.ru_utime + spent.ru_stime
    return used | {"machine": worked, "stolen": stolen}


@dataclass(frozen=True)
class Race:
    statuses: list
    # Milliseconds from sending to the response of the requests that got 429, sorted.
    losers: list


def race(shop, product, stock):
    """The five-PATCH race: five identical PATCHes of one product at once."""
    body = b'{"stock": %d}' % stock
    request = (
        b"PATCH /api/products/%d/ HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
        % (product, len(body), body)
    )
    racers = []
    try:
        # Connected first, so that the requests are as simultaneous as possible.
        for _ in range(RACERS):
            racers.append(socket.create_connection(("127.0.0.1", shop.port), timeout=RACE_TIMEOUT))
        return send_and_wait(racers, request)
    finally:
        for racer in racers:
            racer.close()


def send_and_wait(racers, request):
    with selectors.DefaultSelector() as waiting:
        for racer in racers:
            racer.sendall(request)
            # The response so far, and when the request was sent.
            waiting.register(racer, selectors.EVENT_READ, (bytearray(), time.perf_counter()))
        end = time.perf_counter() + RACE_TIMEOUT
        statuses, losers = [], []
        while waiting.get_map():
            ready = waiting.select(max(0, end - time.perf_counter()))
            if not ready:
                raise Failed(f"a race did not finish within {RACE_TIMEOUT:g} s")
            for key, _ in ready:
                response, sent = key.data
                more = key.fileobj.recv(65536)
                response += more
                status = complete_status(response)
                if status is None and more:
                    continue
                waiting.unregister(key.fileobj)
                # At once, because gunicorn's worker waits for it before it accepts a client.
                key.fileobj.close()
                statuses.append(status)
                if status == 429:
                    losers.append((time.perf_counter() - sent) * 1e3)
    return Race(sorted(statuses, key=str), sorted(losers))


def complete_status(response):
    """Returns the status once the response is complete, and None before."""
    head, found, body = bytes(response).partition(b"\r\n\r\n")
    if not found:
        return None
    for line in head.lower().split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name == b"content-length" and len(body) < int(value):
            return None
    return int(head.split(b" ", 2)[1])
