"""The time from the expiry of a crashed holder's lease until the next holder has the lock."""

import os
import random
import signal
import subprocess
import time

from lock_clients import CLIENT
from process import Failed, Process, wait_until
from report import progress
from servers import START_TIMEOUT, scratch

LEASE_MS = 300
# When the holder is killed, in seconds after the next waiter was sent the name.
KILL_DELAY = (0.02, 0.2)
NEXT_TIMEOUT = 10.0


def crashes(store, count):
    """Kills `count` holders while a waiter waits. Returns, sorted and in milliseconds, the time
    from the expiry of each lease until the waiter held the lock. The lease counts from before
    its holder sent the request."""
    late = []
    with scratch("crash") as folder:
        arguments = [CLIENT, "next", store.url(0), LEASE_MS]
        with Process("next", arguments, folder / "next", stdin=subprocess.PIPE) as following:
            wait_until("next", START_TIMEOUT, lambda: "ready" in following.log(), following)
            for number in range(count):
                late.append(crash(store, folder, following, f"lock-bench-crash-{number}"))
                progress(
                    f"crash     {number + 1}/{count}: acquired {late[-1]:.2f} ms after the lease"
                )
    return sorted(late)


def crash(store, folder, following, name):
    arguments = [CLIENT, "hold", store.url(0), LEASE_MS, name]
    with Process("holder", arguments, folder / name) as holder:
        expiry = wait_until("holder", START_TIMEOUT, lambda: printed(holder, "until"), holder)
        following.send(name)
        time.sleep(random.uniform(*KILL_DELAY))
        os.kill(holder.pid, signal.SIGKILL)
        acquired = wait_until(
            "next", NEXT_TIMEOUT, lambda: printed(following, f"since {name}"), following
        )
    if acquired < expiry:
        raise Failed("the next holder acquired the lock before the crashed holder's lease expired")
    return (acquired - expiry) / 1e6


def printed(process, prefix):
    """Returns the nanoseconds that the process printed after `prefix`, or None."""
    # Without the last line, which may be incomplete.
    for line in process.log().split("\n")[:-1]:
        if line.startswith(f"{prefix} "):
            return int(line.split()[-1])
    return None
