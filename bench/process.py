"""A child process that does not outlive the bench, with its use of CPU and memory.

Each child leads a process group of its own, so that Ctrl-C reaches only the bench, which then
stops its children in order. If the bench is killed, the kernel stops them.
"""

import ctypes
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
POLL_INTERVAL = 0.02
# Far longer than an orderly exit takes, even with a last checkpoint.
STOP_TIMEOUT = 20.0
PR_SET_PDEATHSIG = 1
# Loaded here, because nothing can be loaded between fork and exec.
PRCTL = ctypes.CDLL(None).prctl


class Failed(Exception):
    """The bench cannot continue, with the reason as its text."""


def wait_until(what, timeout, ready, child=None):
    """Calls `ready` until its result is true, and returns it. Fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        if result := ready():
            return result
        if child and child.exited():
            raise Failed(f"{what} exited:\n{child.log()}")
        if time.monotonic() > deadline:
            raise Failed(f"{what} not ready after {timeout:g} s:\n{child.log() if child else ''}")
        time.sleep(POLL_INTERVAL)


class Process:
    """Started by the constructor, stopped by `stop` or at the end of a `with` block."""

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

    def send(self, line):
        """Writes a line to its standard input, which must be a pipe."""
        try:
            self._child.stdin.write(f"{line}\n".encode())
            self._child.stdin.flush()
        except OSError:
            raise Failed(f"{self.name} does not read its standard input:\n{self.log()}") from None

    def log(self):
        """Returns the last 4000 characters of its output."""
        return self._log.read_text(errors="replace")[-4000:]

    def exited(self):
        """Returns whether it has exited. Does not reap it, so that its id is not reused."""
        if self._child.returncode is not None:
            return True
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, flags) is not None

    def stop(self):
        """Sends the stop signal, kills it after a timeout, and kills the rest of its group."""
        if self._child.returncode is not None:
            return
        if not self.exited():
            os.kill(self.pid, self._stop_with)
            try:
                wait_until(self.name, STOP_TIMEOUT, self.exited)
            except Failed:
                os.kill(self.pid, signal.SIGKILL)
        # Not reaped yet, so the id of the group has not been reused.
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._child.wait()

    def cpu(self):
        """Returns the CPU seconds of it and its descendants, including those that have exited."""
        return sum(each.cpu for each in tree(self.pid))

    def memory(self):
        """Returns the resident bytes of it and then of each descendant."""
        return [resident(each.pid) for each in tree(self.pid)]


@dataclass(frozen=True)
class Entry:
    pid: int
    parent: int
    # Of the process itself and of the children that it has waited for.
    cpu: float


def tree(root):
    """Returns `root` and its descendants, `root` first."""
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
        return None  # has exited
    # The name before the last bracket may contain any characters. See proc(5).
    fields = text[text.rindex(")") + 2 :].split()
    return Entry(pid, int(fields[1]), sum(map(int, fields[11:15])) / TICKS)


def resident(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def machine():
    """Returns the CPU seconds that the machine was busy, and those that its host stole."""
    first = Path("/proc/stat").read_text().splitlines()[0]
    user, nice, system, _idle, _wait, irq, softirq, steal, *_ = map(int, first.split()[1:])
    return (user + nice + system + irq + softirq) / TICKS, steal / TICKS
