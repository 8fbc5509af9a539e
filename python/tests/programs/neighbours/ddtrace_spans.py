"""ddtrace with `instrument_caches`, and a filter that collects the spans. There is no agent."""

# ruff: noqa: E402
from __future__ import annotations

import os

os.environ["DD_DJANGO_INSTRUMENT_CACHES"] = "true"
os.environ["DD_INSTRUMENTATION_TELEMETRY_ENABLED"] = "false"
os.environ["DD_REMOTE_CONFIGURATION_ENABLED"] = "false"

import ddtrace
from ddtrace.trace import TraceFilter, tracer

spans = []


class Collecting(TraceFilter):
    def process_trace(self, trace):
        spans.extend(trace)


tracer.configure(trace_processors=[Collecting()])
ddtrace.patch(django=True)

from django.test import Client

from project import configure

configure()
assert Client().get("/calls").status_code == 200
tracer.flush()
traced = [span.resource.rpartition(".")[2] for span in spans if span.name == "django.cache"]
names = ["set", "set_many", "get", "get", "get_many", "incr", "add", "delete"]
assert traced == [f"{name} project" for name in names], traced
backends = {span.get_tag("django.cache.backend") for span in spans if span.name == "django.cache"}
assert backends == {"lockstock.django.cache.RedisCache"}, backends
print("ok")
