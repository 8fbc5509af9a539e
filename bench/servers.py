"""Starts and stops a PostgreSQL and a Redis for one bench.

    with postgres() as database, redis() as store:
        url = database.create("shop")
        database.sql("shop", "SELECT 1"), store.url(1), store.process.cpu()

Both listen on free ports of 127.0.0.1. PostgreSQL is as durable as Debian ships it (fsync and
synchronous_commit are on); Redis persists nothing, because locks need no persistence.
"""

import glob
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from process import Failed, Process, wait_until

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT = 60.0


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def scratch(name):
    # Not TMPDIR, because the user that runs PostgreSQL must be able to read it and the path of
    # a Unix socket is limited to 107 bytes.
    with tempfile.TemporaryDirectory(prefix=f"lockstock-{name}-", dir="/tmp") as folder:
        yield Path(folder)


def run(command, **more):
    """Runs a program to its end and returns its output."""
    command = [str(word) for word in command]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, **more
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{command[0]}: {error}") from None
    if done.returncode:
        raise Failed(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


# --- PostgreSQL -------------------------------------------------------------


def postgres_program(name):
    """Searches the same places as the tests, because Debian keeps these programs off the PATH."""
    if folder := os.environ.get("LOCKSTOCK_POSTGRES_BIN"):
        return os.path.join(folder, name)

    def version(path):
        return [int(number) for number in re.findall(r"\d+", path)]

    installed = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), key=version)
    found = installed[-1] if installed else shutil.which(name)
    if not found:
        raise Failed(f"{name} is not installed. On Debian: apt-get install postgresql")
    return found


def unprivileged():
    """Returns the arguments of Popen for a program that must not run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise Failed("PostgreSQL does not run as root: create a user `postgres`")


@dataclass
class Postgres:
    port: int
    process: Process

    def create(self, name):
        """Creates a database and returns its URL."""
        self.sql("postgres", f"CREATE DATABASE {name}")
        return f"postgres://postgres@127.0.0.1:{self.port}/{name}"

    def is_ready(self):
        try:
            return bool(self.sql("postgres", "SELECT 1"))
        except Failed:
            return False

    def sql(self, database, text):
        """Runs a statement and returns its rows, with columns separated by `|`."""
        options = ["--no-psqlrc", "-qAtw", "-v", "ON_ERROR_STOP=1", "-U", "postgres"]
        where = ["-h", "127.0.0.1", "-p", self.port, "-d", database]
        return run([postgres_program("psql"), *options, *where, "-c", text])


@contextmanager
def postgres():
    with scratch("postgres") as folder:
        user = unprivileged()
        if user:
            os.chown(folder, user["user"], user["group"])
        data, port = folder / "data", free_port()
        command = [postgres_program("initdb"), "-D", data, "-U", "postgres", "--auth", "trust"]
        run([*command, "--encoding", "UTF8", "--locale", "C.UTF-8"], cwd=folder, **user)
        command = [postgres_program("postgres"), "-D", data, "-p", port]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
        # Not SIGTERM, which waits for every client to disconnect.
        started = Process(
            "postgres", command, folder / "log", stop_with=signal.SIGINT, cwd=folder, **user
        )
        with started as process:
            here = Postgres(port, process)
            wait_until("postgres", START_TIMEOUT, here.is_ready, process)
            for setting in ("fsync", "synchronous_commit"):
                if here.sql("postgres", f"SHOW {setting}") != "on":
                    raise Failed(f"PostgreSQL runs without {setting}")
            yield here


# --- Redis ------------------------------------------------------------------


@dataclass
class Redis:
    port: int
    process: Process

    def url(self, number):
        return f"redis://127.0.0.1:{self.port}/{number}"

    def is_ready(self):
        try:
            return self.command("PING") == "+PONG"
        except OSError:
            return False

    def command(self, *words):
        """Sends a command without spaces in its words; returns the first line of the reply."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(" ".join(words).encode() + b"\r\n")
            return connection.makefile("rb").readline().decode().strip()


@contextmanager
def redis():
    with scratch("redis") as folder:
        program = os.environ.get("LOCKSTOCK_REDIS_SERVER") or shutil.which("redis-server")
        if not program:
            raise Failed("redis-server is not installed. On Debian: apt-get install redis-server")
        port = free_port()
        command = [program, "--port", port, "--bind", "127.0.0.1", "--dir", folder]
        command += ["--save", "", "--appendonly", "no"]
        with Process("redis", command, folder / "log") as process:
            here = Redis(port, process)
            wait_until("redis", START_TIMEOUT, here.is_ready, process)
            yield here
