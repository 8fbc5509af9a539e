"""One round of `bench lock`: clients of one library take turns, and what that came to.

Nothing here asks the library: each client writes down, by the clock that all processes share,
when it asked, when it held and when it was about to release.
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
from process import Failed, Process, ask
from servers import ROOT, START, scratch

# For all to hear when the start is.
LEAD = 0.3
# After the end a waiter still has so long; then it counts as stalled. Beyond that again, a
# client that does not end is ended.
GRACE = 5.0
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
    """Milliseconds from asking to holding; a wait that was given up counts with its length."""

    rate: float
    p50: float
    p99: float
    longest: float
    # Acquisitions in all.
    turns: int
    # Holders that began before another had ended.
    overlaps: int
    # Waiters nobody served, and clients that hung.
    stalled: int


def play(store, library, shape, seconds, idle_timeout):
    """One round. Raises Failed if a client does."""
    store.command("FLUSHALL")
    # Longer than the round: no lease ends by itself.
    lease_ms = round((seconds + GRACE + STUCK) * 1000)
    with scratch("lock") as folder, ExitStack() as stack:
        clients, files = [], []
        for number in range(shape.processes):
            files.append(folder / f"{number}.turns")
            words = command(library, store.url(0), lease_ms, number, shape, files[-1])
            log = folder / f"{number}.log"
            environment = os.environ | {
                "PYTHONPYCACHEPREFIX": str(ROOT / "target/pycache"),
                # No more threads of work than cores: more would measure the scheduler.
                "TOKIO_WORKER_THREADS": str(max(1, os.cpu_count() // shape.processes)),
            }
            client = Process(library, words, log, stdin=subprocess.PIPE, env=environment)
            clients.append(stack.enter_context(client))
        for client in clients:
            ask(library, START, lambda client=client: "ready" in client.log(), client)
        wait_until_idle(idle_timeout)
        start = time.monotonic_ns() + round(LEAD * SECOND)
        end = start + round(seconds * SECOND)
        give_up = end + round(GRACE * SECOND)
        for client in clients:
            client.tell(f"{start} {end} {give_up}")
        stuck = wait(clients, give_up + STUCK * SECOND)
        for client, file in zip(clients, files):
            if client not in stuck and not file.exists():
                raise Failed(f"a client of {library} failed:\n{client.log()}")
        turns = array("Q")
        for file in files:
            if file.exists():
                turns.frombytes(file.read_bytes())
    return judge(turns, start, end, give_up, shape, len(stuck))


def wait(clients, until):
    """Until all have ended. Gives those that have not by then."""
    while time.monotonic_ns() < until:
        if all(client.ended() for client in clients):
            return []
        time.sleep(0.02)
    return [client for client in clients if not client.ended()]


def judge(turns, start, end, give_up, shape, stuck):
    asked, began, ended = turns[0::3], turns[1::3], turns[2::3]
    # Those who asked in time, also if they held only afterwards: the longest waits are theirs.
    waits = sorted((b or give_up) - a for a, b in zip(asked, began) if a < end)
    overlaps, last = 0, 0
    # With a name for each there is nobody to overlap with.
    if shape.names == 1:
        # In the order of their ends: whoever overlaps with any before overlaps with the last.
        for e, b in sorted(pair for pair in zip(ended, began) if pair[1]):
            overlaps += b < last
            last = e
    return Round(
        rate=sum(start <= b < end for b in began) / ((end - start) / SECOND),
        p50=quantile(waits, 0.5) / 1e6,
        p99=quantile(waits, 0.99) / 1e6,
        longest=max(waits, default=0) / 1e6,
        turns=sum(b > 0 for b in began),
        overlaps=overlaps,
        stalled=sum(b == 0 for b in began) + stuck,
    )


def quantile(ordered, share):
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else 0
