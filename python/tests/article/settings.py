"""The settings of the project. What differs between two runs is in the environment."""

import os

CACHES = {
    "default": {
        "BACKEND": os.environ["SHOP_CACHE_BACKEND"],
        "LOCATION": os.environ["SHOP_REDIS_URL"],
    }
}
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "shop",
        "USER": "postgres",
        "HOST": "127.0.0.1",
        "PORT": os.environ["SHOP_POSTGRES_PORT"],
    }
}
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "rest_framework",
    "products",
]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
ROOT_URLCONF = "urls"
SECRET_KEY = "only for tests"
ALLOWED_HOSTS = ["testserver"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
