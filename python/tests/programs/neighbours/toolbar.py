"""django-debug-toolbar: its cache panel counts each call once."""

# ruff: noqa: E402
from __future__ import annotations

from project import configure

configure(
    apps=("django.contrib.staticfiles", "debug_toolbar"),
    MIDDLEWARE=["debug_toolbar.middleware.DebugToolbarMiddleware"],
    DEBUG=True,
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
    STATIC_URL="/static/",
    INTERNAL_IPS=["127.0.0.1"],
    ROOT_URLCONF="toolbar_urls",
    DEBUG_TOOLBAR_PANELS=["debug_toolbar.panels.cache.CachePanel"],
    DEBUG_TOOLBAR_CONFIG={"SHOW_TOOLBAR_CALLBACK": "toolbar_urls.is_shown"},
)

from debug_toolbar.toolbar import DebugToolbar
from django.test import Client

toolbars = []
DebugToolbar._created.connect(lambda toolbar, **_: toolbars.append(toolbar), weak=False)
client = Client()
# The first request makes the cache, the second finds the patched one.
for _ in range(2):
    assert client.get("/get-or-set").status_code == 200
for each in toolbars:
    panel = each.get_panel_by_id("CachePanel")
    counts = {name: count for name, count in panel.counts.items() if count}
    assert counts == {
        "add": 1,
        "clear": 1,
        "delete": 1,
        "get": 2,
        "get_many": 1,
        "get_or_set": 1,
        "incr": 1,
        "set": 1,
        "set_many": 1,
    }, counts
    assert (panel.hits, panel.misses) == (4, 2)
assert len(toolbars) == 2
print("ok")
