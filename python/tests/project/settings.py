"""The settings of the project. The URL of the Redis is in the environment."""

import os

CACHES = {
    "default": {
        "BACKEND": "lockstock.django.cache.RedisCache",
        "LOCATION": os.environ["LOCKSTOCK_URL"],
        "KEY_PREFIX": "project",
        # The default, 1 s, is too short on a busy machine.
        "OPTIONS": {"SOCKET_TIMEOUT": 10},
    }
}
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "lockstock.django"]
MIDDLEWARE: list[str] = []
ROOT_URLCONF = "project.urls"
SECRET_KEY = "only for tests"
ALLOWED_HOSTS = ["testserver", "127.0.0.1"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
