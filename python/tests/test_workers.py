"""Servers and workers: gunicorn, uvicorn, uwsgi, celery, `manage.py test --parallel`."""

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
from neighbours import folder_of_programs, needs_neighbours
from programs import TESTS, environment

_REQUESTS = 500
_STOP_TIMEOUT_S = 30


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


def expect_additions(
    folder: Path, command: list[str], port: int, paths: tuple[str, ...] = ("/",), **more: str
) -> None:
    """Runs a server with the project, and expects right answers and that no addition is lost."""
    with servers.redis() as redis, (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(LOCKSTOCK_URL=redis.url, **more),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

        def answer(number: int) -> str:
            url = f"http://127.0.0.1:{port}{paths[number % len(paths)]}{number}"
            with urllib.request.urlopen(url, timeout=30) as reply:
                body: str = reply.read().decode()
                return body

        def is_up() -> bool:
            assert server.poll() is None, (folder / "log").read_text()
            try:
                return answer(0) == "True"
            except urllib.error.HTTPError:
                raise AssertionError((folder / "log").read_text()) from None
            except (urllib.error.URLError, ConnectionError):
                return False

        with stopped_at_end(server):
            eventually(is_up, "the server answers")
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(answer, range(1, _REQUESTS)))
            assert answers == ["True"] * (_REQUESTS - 1)
        # What the lock protects: no addition is lost.
        assert cache_at(redis.url, "project").get("total") == _REQUESTS
        text = (folder / "log").read_text()
        assert "Traceback" not in text, text
        assert "panicked" not in text, text


@pytest.mark.parametrize(
    "options",
    [
        ["--workers=3", "--worker-class=sync"],
        ["--workers=3", "--worker-class=sync", "--preload"],
        ["--workers=3", "--worker-class=gthread", "--threads=4", "--preload"],
        ["--workers=2", "--worker-class=gthread", "--threads=4"],
        ["--workers=2", "--worker-class=gevent"],
    ],
    ids=["sync", "sync-preload", "gthread-preload", "gthread", "gevent"],
)
def test_gunicorn(options: list[str], tmp_path: Path) -> None:
    port = servers.free_port()
    command = [sys.executable, "-m", "gunicorn", "project.wsgi:application"]
    command += [f"--bind=127.0.0.1:{port}", "--no-control-socket", *options]
    expect_additions(tmp_path, command, port, LOCKSTOCK_BUSY="1" if "--preload" in options else "")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_uvicorn_with_several_workers(loop: str, tmp_path: Path) -> None:
    port = servers.free_port()
    command = [sys.executable, "-m", "uvicorn", "project.asgi:application", f"--loop={loop}"]
    command += [f"--port={port}", "--workers=2", "--lifespan=off"]
    expect_additions(tmp_path, command, port, ("/", "/async/"))


def test_uvicorn_with_several_loops_in_a_process(tmp_path: Path) -> None:
    port = servers.free_port()
    command = [sys.executable, str(TESTS / "programs" / "loops.py"), str(port)]
    expect_additions(tmp_path, command, port, ("/", "/async/"))


@needs_neighbours
@pytest.mark.parametrize("options", [["--lazy-apps"], []], ids=["lazy-apps", "fork-after-import"])
def test_uwsgi(options: list[str], tmp_path: Path) -> None:
    port = servers.free_port()
    command = [str(folder_of_programs() / "uwsgi"), "--module=project.wsgi", "--master"]
    command += [f"--http-socket=127.0.0.1:{port}", "--processes=3", "--threads=4"]
    # SIGTERM reloads otherwise.
    command += ["--die-on-term", "--need-app", f"--home={sys.prefix}", *options]
    # Not with busy threads before the fork: the master of uWSGI does not end then, with redis-py
    # neither.
    expect_additions(tmp_path, command, port)


def test_manage_py_test_parallel() -> None:
    with servers.redis() as redis:
        done = subprocess.run(
            [sys.executable, str(TESTS / "project" / "manage.py"), "test", "--parallel=3"]
            + ["project.parallel"],
            cwd=TESTS,
            env=environment(LOCKSTOCK_URL=redis.url),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Ran 9 tests" in done.stderr, done.stderr
        cache = cache_at(redis.url, "project")
        assert cache.get("total") == 60
        # The tests ran in several processes.
        assert len(cache.keys("process-*")) > 1


def celery_environment(url: str) -> dict[str, str]:
    found = environment(LOCKSTOCK_URL=url)
    return {**found, "PYTHONPATH": f"{TESTS / 'programs'}{os.pathsep}{found['PYTHONPATH']}"}


def run_tasks(folder: Path, pool: str, concurrency: int, client: str) -> None:
    """Runs a worker of celery, and a program that sends tasks and adds 40 in all."""
    with servers.redis() as redis, (folder / "log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tasks", "worker", f"--pool={pool}"]
            + [f"--concurrency={concurrency}", "--loglevel=WARNING"],
            cwd=folder,
            env=celery_environment(redis.url),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        with stopped_at_end(worker):
            sent = subprocess.run(
                [sys.executable, "-c", client],
                env=celery_environment(redis.url),
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
            assert sent.returncode == 0, sent.stderr + (folder / "log").read_text()
        assert cache_at(redis.url, "celery").get("total") == 40


_ADDITIONS = """
import tasks
adds = [tasks.add.delay() for _ in range(40)]
assert sorted(add.get(timeout=60) for add in adds) == list(range(1, 41))
"""
_INTERRUPTED_WAITS = """
import tasks
held = tasks.CACHE.lock("held", timeout=100)
assert held.acquire()
waits = [tasks.wait.delay() for _ in range(2)]
assert [wait.get(timeout=60) for wait in waits] == ["interrupted"] * 2
"""
_WAIT = """
held.release()
assert tasks.wait.delay().get(timeout=60) == "acquired"
"""


def test_celery_prefork_and_its_soft_time_limit(tmp_path: Path) -> None:
    run_tasks(tmp_path, "prefork", 2, _INTERRUPTED_WAITS + _ADDITIONS + _WAIT)


@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_celery_in_one_process(pool: str, tmp_path: Path) -> None:
    run_tasks(tmp_path, pool, 8, _ADDITIONS)
