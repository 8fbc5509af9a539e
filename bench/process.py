"""A child process that does not outlive the bench, and what it costs in CPU and memory.

Each child leads a process group of its own, so that Ctrl-C reaches the bench alone, which
then ends its children in order. If the bench is killed outright, the kernel ends them.
"""

import ctypes
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
POLL = 0.02
# Far beyond what an orderly end takes, a last checkpoint included.
END = 20.0
PR_SET_PDEATHSIG = 1
# Loaded here: between fork and exec it is too late.
PRCTL = ctypes.CDLL(None).prctl


class Failed(Exception):
    """The bench cannot go on, and the text says why."""


def ask(what, limit, ready, child=None):
    """Asks `ready` until it is true, for `limit` seconds. Gives what it answered."""
    end = time.monotonic() + limit
    while True:
        if answer := ready():
            return answer
        if child and child.ended():
            raise Failed(f"{what} ended:\n{child.log()}")
        if time.monotonic() > end:
            raise Failed(f"{what} not ready after {limit:g} s:\n{child.log() if child else ''}")
        time.sleep(POLL)


class Process:
    """Started by the constructor, ended by `stop` or by leaving a `with`."""

    def __init__(self, name, command, log, *, stop_with=signal.SIGTERM, **more):
        self.name = name
        self._log = Path(log)
        self._stop_with = stop_with
        with open(log, "ab") as output:
            more = {"stdin": subprocess.DEVNULL} | more
            more |= {"stdout": output, "stderr": subprocess.STDOUT}
            try:
                self._child = subprocess.Popen(
                    [str(word) for word in command],
                    start_new_session=True,
                    preexec_fn=lambda: PRCTL(PR_SET_PDEATHSIG, stop_with),
                    **more,
                )
            except OSError as error:
                raise Failed(f"cannot start {name}: {error}") from None
        self.pid = self._child.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def tell(self, line):
        """Writes to its standard input, if it was started with a pipe there."""
        try:
            self._child.stdin.write(f"{line}\n".encode())
            self._child.stdin.flush()
        except OSError:
            raise Failed(f"{self.name} does not listen:\n{self.log()}") from None

    def log(self):
        """The end of what it has printed."""
        return self._log.read_text(errors="replace")[-4000:]

    def ended(self):
        """Whether it has ended by itself. Does not reap it: its id stays its own."""
        if self._child.returncode is not None:
            return True
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, how) is not None

    def stop(self):
        """Asks it to end, insists after a while, and takes what is left of its group."""
        if self._child.returncode is not None:
            return
        if not self.ended():
            os.kill(self.pid, self._stop_with)
            try:
                ask(self.name, END, self.ended)
            except Failed:
                os.kill(self.pid, signal.SIGKILL)
        # Not reaped yet, so the group is certainly still ours.
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._child.wait()

    def cpu(self):
        """CPU seconds that it and its descendants have used, the ended ones included."""
        return sum(each.cpu for each in tree(self.pid))

    def memory(self):
        """Resident bytes of each process: its own first, then its descendants'."""
        return [resident(each.pid) for each in tree(self.pid)]


@dataclass(frozen=True)
class Entry:
    pid: int
    parent: int
    # What it has used, and what its children had used that it has waited for.
    cpu: float


def tree(root):
    """`root` and its descendants, `root` first."""
    children = {}
    for folder in os.listdir("/proc"):
        if folder.isdigit() and (each := entry(int(folder))):
            children.setdefault(each.parent, []).append(each)
    found = [entry(root)]
    for each in found:
        found.extend(children.get(each.pid, []))
    return found


def entry(pid):
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None  # ended meanwhile
    # The name before the last bracket may hold anything. See proc(5).
    fields = text[text.rindex(")") + 2 :].split()
    return Entry(pid, int(fields[1]), sum(map(int, fields[11:15])) / TICKS)


def resident(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def machine():
    """CPU seconds that the whole machine has worked, and those that its host gave to others."""
    first = Path("/proc/stat").read_text().splitlines()[0]
    user, nice, system, _idle, _wait, irq, softirq, steal, *_ = map(int, first.split()[1:])
    return (user + nice + system + irq + softirq) / TICKS, steal / TICKS
