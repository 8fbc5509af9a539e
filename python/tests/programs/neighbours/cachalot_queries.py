"""django-cachalot: a query is answered by the cache until its table changes."""

# ruff: noqa: E402
from __future__ import annotations

from project import configure

configure(apps=("cachalot",), SILENCED_SYSTEM_CHECKS=["cachalot.W001"])

from django.contrib.auth.models import Group
from django.core.checks import run_checks
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

call_command("migrate", verbosity=0)


def names() -> tuple[list[str], int]:
    with CaptureQueriesContext(connection) as queries:
        found = sorted(Group.objects.values_list("name", flat=True))
    return found, len(queries)


Group.objects.create(name="a")
assert names() == (["a"], 1)
assert names() == (["a"], 0)
Group.objects.create(name="b")
assert names() == (["a", "b"], 1)
assert names() == (["a", "b"], 0)
# What the documentation names: the check of a list of paths, and none else.
unsilenced = [message.id for message in run_checks() if not message.is_silenced()]
assert unsilenced == [], unsilenced
assert [message.id for message in run_checks()] == ["cachalot.W001"]
print("ok")
