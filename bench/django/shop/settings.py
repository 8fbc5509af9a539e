"""Settings from the environment, so that tests and benches can choose the servers.

SHOP_DATABASE_URL   postgres://user@host:port/name, or postgres://user@/name?host=/socket/dir
SHOP_REDIS_URL      redis://host:port/db, or unix:///path.sock?db=0
SHOP_AFTER_UPDATE   keep (the default: one update per lease) or release (a plain mutex)
SHOP_FILTERS        on (the default) or off: no ?search=, ?ordering= and ?price=
SHOP_LANGUAGE       the language of the messages: en (the default), ko
SHOP_API_KEYS       secret=scope, separated by commas; a scope is read or write. The API is open
                    without any (the default)
"""

import os
import secrets
from urllib.parse import parse_qs, unquote, urlsplit


def postgres(url):
    parts = urlsplit(url)
    socket_dir = parse_qs(parts.query).get("host", [""])[0]
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or socket_dir,
        "PORT": str(parts.port or ""),
        # Persistent connections, so that the peer is measured at its best.
        "CONN_MAX_AGE": None,
    }


DATABASES = {"default": postgres(os.environ["SHOP_DATABASE_URL"])}

CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": os.environ["SHOP_REDIS_URL"],
    }
}

AFTER_UPDATE = os.environ.get("SHOP_AFTER_UPDATE", "keep")
if AFTER_UPDATE not in ("keep", "release"):
    raise ValueError(f"SHOP_AFTER_UPDATE is keep or release, not {AFTER_UPDATE!r}")

FILTERED = os.environ.get("SHOP_FILTERS", "on")
if FILTERED not in ("on", "off"):
    raise ValueError(f"SHOP_FILTERS is on or off, not {FILTERED!r}")
FILTERS = [
    "django_filters.rest_framework.DjangoFilterBackend",
    "rest_framework.filters.SearchFilter",
    "rest_framework.filters.OrderingFilter",
]

API_KEYS = dict(
    key.split("=") for key in os.environ.get("SHOP_API_KEYS", "").split(",") if key
)

# Django does not start without a key, although nothing is signed.
SECRET_KEY = secrets.token_hex()
# DEBUG would log every query and render errors as HTML pages.
DEBUG = False
ALLOWED_HOSTS = ["*"]
# Without LocaleMiddleware it is the language of every response.
LANGUAGE_CODE = os.environ.get("SHOP_LANGUAGE", "en")
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = ["rest_framework", "django_filters", "products"]
# Redirects to the trailing slash. Further middleware would only make the peer slower.
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": (
        ["products.authentication.KeyAuthentication"] if API_KEYS else []
    ),
    "DEFAULT_PERMISSION_CLASSES": (
        ["products.authentication.HasScope"] if API_KEYS else []
    ),
    # Without django.contrib.auth there is no AnonymousUser.
    "UNAUTHENTICATED_USER": None,
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": [
        "rest_framework.parsers.JSONParser",
        "rest_framework.parsers.FormParser",
        "rest_framework.parsers.MultiPartParser",
    ],
    # DRF runs filters for a single product too, which is half of the work of a GET. Benches of
    # single products switch them off.
    "DEFAULT_FILTER_BACKENDS": FILTERS if FILTERED == "on" else [],
}
