"""`as_django_redis`: the name `django_redis` for this package, in processes of their own."""

from __future__ import annotations

import subprocess
import sys

from programs import TESTS, environment


def run(program: str, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *program.split(maxsplit=1)],
        env=environment(LOCKSTOCK_URL=url),
        capture_output=True,
        text=True,
        check=False,
    )


def test_modules_of_this_package_by_their_names_in_django_redis(redis_url: str) -> None:
    done = run(str(TESTS / "programs" / "django_redis_names.py"), redis_url)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


def test_it_fails_if_django_redis_is_imported_already(redis_url: str) -> None:
    done = run(
        "-c import django_redis, lockstock.django; lockstock.django.as_django_redis()", redis_url
    )
    assert done.returncode == 1
    assert "RuntimeError: django_redis is imported already" in done.stderr


def test_without_the_call_the_name_is_that_of_django_redis(redis_url: str) -> None:
    done = run(
        "-c import lockstock.django, django_redis; print(django_redis.__version__)", redis_url
    )
    assert (done.returncode, done.stdout) == (0, "7.0.0\n"), done.stderr
