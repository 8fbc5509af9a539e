"""The settings under which Django's own tests run. Django's runner adds the rest."""

import os

CACHES = {
    "default": {
        "BACKEND": "lockstock.django.cache.RedisCache",
        "LOCATION": os.environ["LOCKSTOCK_REDIS_URL"],
    }
}
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3"},
    "other": {"ENGINE": "django.db.backends.sqlite3"},
}
SECRET_KEY = "not a secret"
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
USE_TZ = False
