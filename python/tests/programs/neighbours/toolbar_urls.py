"""The URLs of django-debug-toolbar, and a view."""

from __future__ import annotations

from debug_toolbar.toolbar import debug_toolbar_urls
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse
from django.urls import path

from project import views


def is_shown(request: HttpRequest) -> bool:
    """Returns whether a request is observed."""
    return True


def get_or_set(request: HttpRequest) -> HttpResponse:
    """Calls the same methods as the view of the project, and one that calls others."""
    response = views.calls(request)
    assert cache.get_or_set("d", 4) == 4
    return response


urlpatterns = [path("get-or-set", get_or_set), *debug_toolbar_urls()]
