"""Runs `manage.py check` with changed settings of the cache: `check_settings.py JSON [ARGUMENTS]`.

Keys of the JSON are those of a cache. `--gevent` patches threads and not sockets before,
`--without-msgpack` and `--without-opentelemetry` hide that package.
"""

from __future__ import annotations

import json
import sys

arguments = sys.argv[2:]
if "--gevent" in arguments:
    arguments.remove("--gevent")
    from gevent import monkey

    monkey.patch_all(socket=False)
for package in ("msgpack", "opentelemetry"):
    if f"--without-{package}" in arguments:
        arguments.remove(f"--without-{package}")
        # As if it were not installed.
        sys.modules[package] = None

from django.core.management import call_command  # noqa: E402
from django.core.management.base import SystemCheckError  # noqa: E402

from project import configure  # noqa: E402
from project.settings import CACHES  # noqa: E402

configure(CACHES={"default": {**CACHES["default"], **json.loads(sys.argv[1])}})
try:
    call_command("check", "--tag=caches", *arguments)
except SystemCheckError as failure:
    print(failure, file=sys.stderr)
