"""Private servers for the tests: Redis, a sentinel, PostgreSQL, Lockstock's shop.

Each listens on a free port of 127.0.0.1 and is stopped at the end of its `with` block. If the test
process is killed, the kernel stops them.
"""

from __future__ import annotations

import ctypes
import glob
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Postgres", "Redis", "closed_port", "free_port", "postgres", "redis", "sentinel", "shop"]

_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 20.0
_POLL_INTERVAL = 0.02
_PR_SET_PDEATHSIG = 1
# Loaded here, because nothing can be loaded between fork and exec.
_PRCTL = ctypes.CDLL(None).prctl


@dataclass
class Redis:
    """A running Redis."""

    port: int
    socket: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """The URL of database 0."""
        return self.url_of(0)

    def url_of(self, database: int) -> str:
        """Returns the URL of a database."""
        return f"redis://127.0.0.1:{self.port}/{database}"


@dataclass
class Postgres:
    """A running PostgreSQL, which trusts every connection from this machine."""

    port: int
    process: subprocess.Popen[bytes]


@contextmanager
def redis(*arguments: str) -> Iterator[Redis]:
    """Runs a Redis without persistence."""
    with _folder("redis") as folder:
        port, path = free_port(), folder / "socket"
        command = [*_redis_server(), "--port", str(port), "--bind", "127.0.0.1"]
        command += ["--unixsocket", str(path), "--dir", str(folder)]
        command += ["--save", "", "--appendonly", "no", "--databases", "64", *arguments]
        with _started("redis", command, folder, lambda: _pong(port)) as process:
            yield Redis(port, path, process)


@contextmanager
def sentinel(master: Redis, *names: str) -> Iterator[int]:
    """Runs a sentinel that watches one master under several names. Yields its port."""
    with _folder("sentinel") as folder:
        port, config = free_port(), folder / "sentinel.conf"
        lines = [f"port {port}", "bind 127.0.0.1", f"dir {folder}"]
        lines += [f"sentinel monitor {name} 127.0.0.1 {master.port} 1" for name in names]
        config.write_text("\n".join(lines) + "\n")
        command = [*_redis_server(), str(config), "--sentinel"]
        with _started("sentinel", command, folder, lambda: _pong(port)):
            yield port


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Runs a PostgreSQL."""
    with _folder("postgres") as folder:
        user = _unprivileged()
        if user:
            os.chown(folder, user["user"], user["group"])
        data, port = folder / "data", free_port()
        initdb = [_postgres_program("initdb"), "-D", str(data), "-U", "postgres", "--auth", "trust"]
        initdb += ["--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"]
        subprocess.run(initdb, cwd=folder, check=True, capture_output=True, **user)
        command = [_postgres_program("postgres"), "-D", str(data), "-p", str(port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
        ready = [_postgres_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]

        def is_ready() -> bool:
            return subprocess.run(ready, check=False).returncode == 0

        # SIGTERM waits until every client has disconnected.
        with _started(
            "postgres", command, folder, is_ready, stop_with=signal.SIGINT, **user
        ) as process:
            yield Postgres(port, process)


@contextmanager
def shop(store: Redis, *arguments: str) -> Iterator[int]:
    """Runs the server of this repository with sample products on SQLite. Yields its port."""
    with _folder("shop") as folder:
        port = free_port()
        command = [str(_shop_program()), "serve", "--listen", f"127.0.0.1:{port}"]
        command += ["--store", store.url, "--database", f"sqlite://{folder}/shop.sqlite3"]
        command += arguments

        def is_ready() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as reply:
                    return bool(reply.status == 200)
            except OSError:
                return False

        with _started("lockstock", command, folder, is_ready):
            yield port


@contextmanager
def closed_port() -> Iterator[int]:
    """Yields a port that refuses connections and that no other program can open meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def free_port() -> int:
    """Returns a port that was free a moment ago."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


# --- processes ------------------------------------------------------------------


@contextmanager
def _folder(name: str) -> Iterator[Path]:
    # Not TMPDIR: the user that runs PostgreSQL must be able to enter it, and the path of a Unix
    # socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix=f"lockstock-{name}-", dir="/tmp") as folder:
        yield Path(folder)


@contextmanager
def _started(
    name: str,
    command: list[str],
    folder: Path,
    is_ready: Callable[[], bool],
    *,
    stop_with: signal.Signals = signal.SIGTERM,
    **more: Any,
) -> Iterator[subprocess.Popen[bytes]]:
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches the test process only, which then stops its servers.
            start_new_session=True,
            preexec_fn=lambda: _PRCTL(_PR_SET_PDEATHSIG, signal.SIGKILL),
            **more,
        )
    try:
        deadline = time.monotonic() + _START_TIMEOUT
        while not is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                message = f"{name} does not start:\n{log.read_text(errors='replace')[-4000:]}"
                raise RuntimeError(message)
            time.sleep(_POLL_INTERVAL)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(stop_with)
            try:
                process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _pong(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


def _redis_server() -> list[str]:
    found = os.environ.get("LOCKSTOCK_REDIS_SERVER") or shutil.which("redis-server")
    if not found:
        message = "redis-server is not installed: ./dev setup"
        raise RuntimeError(message)
    return [found]


def _shop_program() -> Path:
    program = Path(__file__).resolve().parents[2] / "target" / "debug" / "lockstock"
    if not program.exists():
        message = "the server is not built: cargo build -p lockstock-shop"
        raise RuntimeError(message)
    return program


def _postgres_program(name: str) -> str:
    # The same places as in the Rust tests: Debian keeps these programs off the PATH.
    if folder := os.environ.get("LOCKSTOCK_POSTGRES_BIN"):
        return os.path.join(folder, name)
    installed = sorted(
        glob.glob(f"/usr/lib/postgresql/*/bin/{name}"),
        key=lambda path: [int(number) for number in re.findall(r"\d+", path)],
    )
    found = installed[-1] if installed else shutil.which(name)
    if not found:
        message = f"{name} is not installed: ./dev setup"
        raise RuntimeError(message)
    return found


def _unprivileged() -> dict[str, Any]:
    """Returns the arguments of Popen for a program that refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    message = "PostgreSQL does not run as root: create a user `postgres`"
    raise RuntimeError(message)
