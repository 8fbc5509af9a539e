"""How long after a crashed holder's lease the next one holds."""

import os
import random
import signal
import subprocess
import time

from lock_clients import CLIENT
from process import Failed, Process, ask
from report import progress
from servers import START, scratch

LEASE_MS = 300
# When the holder is killed, in seconds after the next one began to wait.
KILL = (0.02, 0.2)
PATIENCE = 10.0


def crashes(store, count):
    """Kills `count` holders while somebody waits. Gives, in milliseconds and in order, how
    long after the end of the lease each next one held; the lease is counted from before
    its holder asked for it."""
    late = []
    with scratch("crash") as folder:
        words = [CLIENT, "next", store.url(0), LEASE_MS]
        with Process("next", words, folder / "next", stdin=subprocess.PIPE) as following:
            ask("next", START, lambda: "ready" in following.log(), following)
            for number in range(count):
                late.append(crash(store, folder, following, f"lock-bench-crash-{number}"))
                progress(f"crash     {number + 1}/{count}: held {late[-1]:.2f} ms after the lease")
    return sorted(late)


def crash(store, folder, following, name):
    words = [CLIENT, "hold", store.url(0), LEASE_MS, name]
    with Process("holder", words, folder / name) as holder:
        until = ask("holder", START, lambda: said(holder, "until"), holder)
        following.tell(name)
        time.sleep(random.uniform(*KILL))
        os.kill(holder.pid, signal.SIGKILL)
        since = ask("next", PATIENCE, lambda: said(following, f"since {name}"), following)
    if since < until:
        raise Failed("the next holder held before the lease of the one that crashed had ended")
    return (since - until) / 1e6


def said(process, words):
    """The number after these words, in nanoseconds."""
    # Whole lines only: the last may still be being written.
    for line in process.log().split("\n")[:-1]:
        if line.startswith(f"{words} "):
            return int(line.split()[-1])
    return None
