"""The processes that `bench django` measures: how they are installed, started and asked."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from lock_clients import call, once
from process import Failed
from report import progress
from servers import ROOT, run

FOLDER = ROOT / "bench/peers-django"

# Without the bytecode of what is measured, the first import would compile it.
_IMPORT = """
import sys, time
def memory():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
before, begun = memory(), time.perf_counter()
import lockstock
ms, mib = (time.perf_counter() - begun) * 1e3, (memory() - before) / 2**20
assert "redis" not in sys.modules and "asyncio" not in sys.modules
import json
print(json.dumps({"ms": ms, "mib": mib}))
"""


def install():
    """Builds the wheel, and installs it beside the peers into the environment of this program."""
    progress("django    building the wheel")
    call([ROOT / "dev", "wheel"])
    wheel = next((ROOT / "target/wheels").glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input"]
    pip += ["--disable-pip-version-check"]
    wanted = FOLDER / "requirements.txt"
    once(Path(sys.prefix) / ".peers-django", [wanted], lambda: call([*pip, "-r", wanted]))
    call([*pip, "--no-deps", "--no-index", "--force-reinstall", wheel])


def import_costs():
    """Returns the milliseconds and the MiB of the import, in a process of its own."""
    return json.loads(run([sys.executable, "-c", _IMPORT]))


class Clients:
    """A process for each library, started when it is needed."""

    def __init__(self, url):
        self._url = url
        self._processes = {}
        self._stack = ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self._stack.close()

    def run(self, library, order):
        """Returns what the library has done, `None` if it cannot."""
        process = self._processes.get(library) or self._start(library)
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        return json.loads(self._line(library, process))

    def _start(self, library):
        process = subprocess.Popen(
            [sys.executable, FOLDER / "client.py", library, self._url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPYCACHEPREFIX": str(ROOT / "target/pycache")},
            text=True,
        )
        self._stack.callback(self._stop, process)
        self._processes[library] = process
        self._line(library, process)
        return process

    @staticmethod
    def _line(library, process):
        line = process.stdout.readline()
        if not line:
            raise Failed(f"the client of {library} has exited")
        return line

    @staticmethod
    def _stop(process):
        process.stdin.close()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
