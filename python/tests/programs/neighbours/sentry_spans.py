"""sentry-sdk with cache spans, and a transport that collects what it would send."""

from __future__ import annotations

import sentry_sdk
from django.core.wsgi import get_wsgi_application
from django.test import RequestFactory
from sentry_sdk.integrations.django import DjangoIntegration
from sentry_sdk.transport import Transport

from project import configure

sent = []


class Collecting(Transport):
    def capture_envelope(self, envelope):
        sent.append(envelope)


sentry_sdk.init(
    dsn="http://key@127.0.0.1/1",
    transport=Collecting,
    traces_sample_rate=1.0,
    integrations=[DjangoIntegration(cache_spans=True)],
)
configure()
application = get_wsgi_application()


def cache_spans(path):
    """Returns operation, keys and hit of each call to the cache that a request makes."""
    sent.clear()
    statuses = []
    # Not the test client, which sentry-sdk does not observe.
    response = application(
        RequestFactory().get(path).environ, lambda status, headers: statuses.append(status)
    )
    assert list(response) != [b"False"]
    response.close()
    assert statuses == ["200 OK"]
    sentry_sdk.flush()
    (found,) = [event for envelope in sent if (event := envelope.get_transaction_event())]
    return [
        (span["op"], span["data"]["cache.key"], span["data"].get("cache.hit"))
        for span in found["spans"]
        if span["op"].startswith("cache.")
    ]


spans = cache_spans("/calls")
assert spans == [
    ("cache.put", ["a"], None),
    ("cache.put", ["b", "c"], None),
    ("cache.get", ["a"], True),
    ("cache.get", ["missing"], False),
    ("cache.get", ["a", "b", "missing"], True),
], spans
# A documented limit: it replaces the synchronous methods only.
assert cache_spans("/async/1") == []
print("ok")
