"""django-defender with DEFENDER_REDIS_NAME: blocks a user after three failures."""

# ruff: noqa: E402
from __future__ import annotations

from django.test import RequestFactory

from project import configure

configure(
    apps=("django.contrib.sessions", "defender"),
    DEFENDER_REDIS_NAME="default",
    DEFENDER_LOGIN_FAILURE_LIMIT=3,
    DEFENDER_STORE_ACCESS_ATTEMPTS=False,
)

from defender import utils

request = RequestFactory().post("/login", {"username": "u"})
for number in range(4):
    assert not utils.is_already_locked(request, username="u"), number
    utils.record_failed_attempt("127.0.0.1", "u")
    if number < 3:
        assert utils.get_user_attempts(request, username="u") == number + 1
assert utils.is_already_locked(request, username="u")
utils.reset_failed_attempts(ip_address="127.0.0.1", username="u")
utils.unblock_username("u")
utils.unblock_ip("127.0.0.1")
assert not utils.is_already_locked(request, username="u")
print("ok")
