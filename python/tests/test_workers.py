"""Servers and workers that fork: gunicorn, celery."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import servers
from caches import cache_at, eventually

_TESTS = Path(__file__).parent
_REQUESTS = 500
_STOP_TIMEOUT_S = 30


def environment(url: str, **more: str) -> dict[str, str]:
    path = os.pathsep.join(
        [str(_TESTS), str(_TESTS / "programs"), os.environ.get("PYTHONPATH", "")]
    )
    return {**os.environ, "PYTHONPATH": path, "LOCKSTOCK_URL": url, **more}


@contextmanager
def stopped_at_end(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Stops a process with SIGTERM, and expects that it ends by itself."""
    try:
        yield
        process.send_signal(signal.SIGTERM)
        process.wait(_STOP_TIMEOUT_S)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "options",
    [
        ["--workers=3", "--worker-class=sync", "--preload"],
        ["--workers=3", "--worker-class=gthread", "--threads=4", "--preload"],
        ["--workers=2", "--worker-class=gthread", "--threads=4"],
        ["--workers=2", "--worker-class=gevent"],
    ],
    ids=["sync-preload", "gthread-preload", "gthread", "gevent"],
)
def test_gunicorn(options: list[str], tmp_path: Path) -> None:
    with servers.redis() as redis, (tmp_path / "log").open("wb") as log:
        port = servers.free_port()
        busy = {"LOCKSTOCK_BUSY": "1"} if "--preload" in options else {}
        server = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "wsgi:application", f"--bind=127.0.0.1:{port}"]
            + ["--no-control-socket", *options],
            cwd=tmp_path,
            env=environment(redis.url, **busy),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

        def answer(number: int) -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{number}", timeout=30) as reply:
                body: str = reply.read().decode()
                return body

        def is_up() -> bool:
            assert server.poll() is None, (tmp_path / "log").read_text()
            try:
                return answer(0) == "True"
            except urllib.error.URLError:
                return False

        with stopped_at_end(server):
            eventually(is_up, "gunicorn answers")
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(answer, range(1, _REQUESTS)))
            assert answers == ["True"] * (_REQUESTS - 1)
        # What a lock protects: no addition is lost.
        assert cache_at(redis.url, "wsgi").get("total") == _REQUESTS
        text = (tmp_path / "log").read_text()
        assert "Traceback" not in text, text
        assert "panicked" not in text, text


def test_celery_prefork_and_its_soft_time_limit(tmp_path: Path) -> None:
    with servers.redis() as redis, (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--pool=prefork"]
            + ["--concurrency=2", "--loglevel=WARNING"],
            cwd=tmp_path,
            env=environment(redis.url),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        with stopped_at_end(worker):
            client = subprocess.run(
                [sys.executable, "-c", _CELERY_CLIENT],
                env=environment(redis.url),
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
            assert client.returncode == 0, client.stderr + (tmp_path / "log").read_text()
        assert cache_at(redis.url, "celery").get("total") == 40


_CELERY_CLIENT = """
import tasks
held = tasks.CACHE.lock("held", timeout=100)
assert held.acquire()
waits = [tasks.wait.delay() for _ in range(2)]
assert [wait.get(timeout=60) for wait in waits] == ["interrupted"] * 2
adds = [tasks.add.delay() for _ in range(40)]
assert sorted(add.get(timeout=60) for add in adds) == list(range(1, 41))
held.release()
assert tasks.wait.delay().get(timeout=60) == "acquired"
"""
