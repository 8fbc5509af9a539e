"""One round of `bench lock`: clients of one library contend, and their records are checked.

The check does not trust the library: each client records, by a clock that all processes share,
when it called acquire, when acquire returned, and when it was about to release.
"""

import math
import os
import subprocess
import time
from array import array
from contextlib import ExitStack
from dataclasses import dataclass

from lock_clients import command
from load import wait_until_idle
from process import Failed, Process, wait_until
from servers import ROOT, START_TIMEOUT, scratch

# Time for the start time to reach all clients.
START_DELAY = 0.3
# A waiter that still waits so long after the end counts as stalled.
GRACE = 5.0
# A client that still runs so long after the grace time is stopped.
STUCK = 15.0
SECOND = 1_000_000_000


@dataclass(frozen=True)
class Shape:
    processes: int
    tasks: int
    names: int = 1

    def __str__(self):
        return f"{self.processes} × {self.tasks}"


@dataclass(frozen=True)
class Round:
    """Waits are milliseconds from the call of acquire to its return. A wait that was given up
    counts with its length."""

    rate: float
    p50: float
    p99: float
    longest: float
    # All acquisitions.
    acquired: int
    # Holders that began before another holder had ended.
    overlaps: int
    # Waiters that were not served, and clients that hung.
    stalled: int


def play(store, library, shape, seconds, idle_timeout):
    """Runs one round. Raises Failed if a client fails."""
    store.command("FLUSHALL")
    # Longer than the round, so that no lease expires.
    lease_ms = round((seconds + GRACE + STUCK) * 1000)
    with scratch("lock") as folder, ExitStack() as stack:
        clients, files = [], []
        for number in range(shape.processes):
            files.append(folder / f"{number}.intervals")
            arguments = command(library, store.url(0), lease_ms, number, shape, files[-1])
            log = folder / f"{number}.log"
            environment = os.environ | {
                "PYTHONPYCACHEPREFIX": str(ROOT / "target/pycache"),
                # Together no more threads than cores: more would measure the scheduler.
                "TOKIO_WORKER_THREADS": str(max(1, os.cpu_count() // shape.processes)),
            }
            client = Process(library, arguments, log, stdin=subprocess.PIPE, env=environment)
            clients.append(stack.enter_context(client))
        for client in clients:
            wait_until(
                library, START_TIMEOUT, lambda client=client: "ready" in client.log(), client
            )
        wait_until_idle(idle_timeout)
        start = time.monotonic_ns() + round(START_DELAY * SECOND)
        end = start + round(seconds * SECOND)
        give_up = end + round(GRACE * SECOND)
        for client in clients:
            client.send(f"{start} {end} {give_up}")
        stuck = wait(clients, give_up + STUCK * SECOND)
        for client, file in zip(clients, files):
            if client not in stuck and not file.exists():
                raise Failed(f"a client of {library} failed:\n{client.log()}")
        numbers = array("Q")
        for file in files:
            if file.exists():
                numbers.frombytes(file.read_bytes())
    return check(numbers, start, end, give_up, shape, len(stuck))


def wait(clients, deadline):
    """Waits until all clients have exited. Returns those that still run at the deadline."""
    while time.monotonic_ns() < deadline:
        if all(client.exited() for client in clients):
            return []
        time.sleep(0.02)
    return [client for client in clients if not client.exited()]


def check(numbers, start, end, give_up, shape, stuck):
    requested, began, ended = numbers[0::3], numbers[1::3], numbers[2::3]
    # Includes waits that end after the round: those are the longest.
    waits = sorted((b or give_up) - r for r, b in zip(requested, began) if r < end)
    overlaps, last = 0, 0
    # With one name per task holders cannot overlap.
    if shape.names == 1:
        # In the order of their ends: an interval that overlaps with any earlier one overlaps
        # with the last.
        for e, b in sorted(pair for pair in zip(ended, began) if pair[1]):
            overlaps += b < last
            last = e
    return Round(
        rate=sum(start <= b < end for b in began) / ((end - start) / SECOND),
        p50=quantile(waits, 0.5) / 1e6,
        p99=quantile(waits, 0.99) / 1e6,
        longest=max(waits, default=0) / 1e6,
        acquired=sum(b > 0 for b in began),
        overlaps=overlaps,
        stalled=sum(b == 0 for b in began) + stuck,
    )


def quantile(ordered, share):
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else 0
