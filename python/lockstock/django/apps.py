"""The application config. Adding it to INSTALLED_APPS is optional."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["LockstockConfig"]


class LockstockConfig(AppConfig):
    """Registers the system checks before the first cache is used."""

    name = "lockstock.django"
    label = "lockstock"
    verbose_name = "Lockstock"

    def ready(self) -> None:
        """Registers the checks."""
        from . import checks  # noqa: F401
