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
# Not the test client, which sentry-sdk does not observe.
statuses = []
response = get_wsgi_application()(
    RequestFactory().get("/calls").environ, lambda status, headers: statuses.append(status)
)
list(response)
response.close()
assert statuses == ["200 OK"]
sentry_sdk.flush()
(transaction,) = [item for envelope in sent if (item := envelope.get_transaction_event())]
spans = [
    (span["op"], span["data"]["cache.key"], span["data"].get("cache.hit"))
    for span in transaction["spans"]
    if span["op"].startswith("cache.")
]
assert spans == [
    ("cache.put", ["a"], None),
    ("cache.put", ["b", "c"], None),
    ("cache.get", ["a"], True),
    ("cache.get", ["missing"], False),
    ("cache.get", ["a", "b", "missing"], True),
], spans
print("ok")
