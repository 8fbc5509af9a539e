"""django-ratelimit: requests of several threads are counted, none twice and none missed."""

# ruff: noqa: E402
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from project import configure

configure(apps=("django_ratelimit",), SILENCED_SYSTEM_CHECKS=["django_ratelimit.W001"])

from django.core.checks import run_checks
from django.test import RequestFactory
from django_ratelimit.core import is_ratelimited

request = RequestFactory().get("/")


def is_limited(_: int) -> bool:
    # A limit for a day: the test does not cross a border of a minute.
    return is_ratelimited(request, group="g", key="ip", rate="100/d", increment=True)


with ThreadPoolExecutor(8) as pool:
    limited = list(pool.map(is_limited, range(150)))
assert limited.count(False) == 100, limited.count(False)
assert [message.id for message in run_checks()] == ["django_ratelimit.W001"]
assert all(message.is_silenced() for message in run_checks())
print("ok")
