"""A Django project for tests with servers and with other packages.

`DJANGO_SETTINGS_MODULE=project.settings` has its settings; `configure` has them with changes.
"""

from __future__ import annotations

from typing import Any

__all__ = ["configure"]


def configure(*, apps: tuple[str, ...] = (), **changes: Any) -> None:
    """Configures Django in this process, with further apps and changed settings."""
    import django
    from django.conf import settings

    from . import settings as base

    values = {name: value for name, value in vars(base).items() if name.isupper()}
    values.update(changes)
    values["INSTALLED_APPS"] = [*values["INSTALLED_APPS"], *apps]
    settings.configure(**values)
    django.setup()
