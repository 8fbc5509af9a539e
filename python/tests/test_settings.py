"""What the settings of a cache do, beyond what django-redis' own suite asserts."""

from __future__ import annotations

import asyncio
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.signing import BadSignature, Signer
from django.test import override_settings

import servers
from caches import cache_at
from lockstock import errors
from lockstock.django.serializers.pickle import PickleSerializer

JSON = "lockstock.django.serializers.json.JSONSerializer"
PICKLE = "lockstock.django.serializers.pickle.PickleSerializer"
ZLIB = "lockstock.django.compressors.zlib.ZlibCompressor"
ZSTD = "lockstock.django.compressors.zstd.ZStdCompressor"

needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")


@pytest.fixture(autouse=True)
def empty(redis_url: str) -> Iterator[None]:
    yield
    cache_at(redis_url).clear()


# --- classes of the application --------------------------------------------------------


def test_a_class_of_the_application_is_used(redis_url: str) -> None:
    cache = cache_at(redis_url, SERIALIZER=f"{__name__}.Reversed")
    cache.set("k", "text")
    assert cache.get("k") == "text"
    assert cache_at(redis_url, SERIALIZER=f"{__name__}.Plain").get("k") == "txet"


class Plain:
    def __init__(self, options: dict[str, Any]) -> None:
        pass

    def dumps(self, value: Any) -> bytes:
        return str(value).encode()

    def loads(self, value: bytes) -> Any:
        return value.decode()


class Reversed(Plain):
    def dumps(self, value: Any) -> bytes:
        return super().dumps(value)[::-1]

    def loads(self, value: bytes) -> Any:
        return super().loads(value)[::-1]


class SignedPickle(PickleSerializer):
    """As in docs/django.md."""

    def dumps(self, value: Any) -> bytes:
        return Signer(key="secret").sign(super().dumps(value).hex()).encode()

    def loads(self, value: bytes) -> Any:
        return super().loads(bytes.fromhex(Signer(key="secret").unsign(value.decode())))


def test_a_serializer_that_signs(redis_url: str) -> None:
    cache, raw = cache_at(redis_url, SERIALIZER=f"{__name__}.SignedPickle"), cache_at(redis_url)
    cache.set("k", {"a": 1})
    assert cache.get("k") == {"a": 1}
    raw.set("k", {"a": 2})
    with pytest.raises((BadSignature, UnicodeDecodeError)):
        cache.get("k")


# --- formats ----------------------------------------------------------------------------


def test_the_first_serializer_writes_and_any_reads(redis_url: str) -> None:
    old, new = cache_at(redis_url, SERIALIZER=PICKLE), cache_at(redis_url, SERIALIZER=JSON)
    both = cache_at(redis_url, SERIALIZER=[JSON, PICKLE])
    old.set("k", {"a": 1})
    assert both.get("k") == {"a": 1}
    assert both.get_many(["k"]) == {"k": {"a": 1}}
    both.set("k", {"a": 2})
    assert new.get("k") == {"a": 2}


def test_the_first_compressor_writes_and_any_reads(redis_url: str) -> None:
    value = "v" * 1000
    old, new = cache_at(redis_url, COMPRESSOR=ZLIB), cache_at(redis_url, COMPRESSOR=ZSTD)
    both = cache_at(redis_url, COMPRESSOR=[ZSTD, ZLIB])
    old.set("k", value)
    assert both.get("k") == value
    both.set("k", value)
    assert new.get("k") == value
    # What is not compressed is read with any of them.
    cache_at(redis_url).set("k", value)
    assert both.get("k") == value


def test_a_value_that_no_serializer_reads(redis_url: str) -> None:
    cache_at(redis_url, SERIALIZER=PICKLE).set("k", "text")
    with pytest.raises(ValueError):
        cache_at(redis_url, SERIALIZER=JSON).get("k")


# --- servers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "database"), [("", 3), ("/", 3), ("/2", 2), ("?db=2", 2), ("/1?db=2", 2)]
)
def test_the_database_is_that_of_django_redis(
    redis: servers.Redis, rest: str, database: int
) -> None:
    import django_redis.cache

    url = redis.url_of(0).removesuffix("/0") + rest
    options = {"CONNECTION_POOL_KWARGS": {"db": 3}}
    cache = cache_at(url, "database", **options)
    cache.set("k", "value")
    params = {"KEY_PREFIX": "database", "OPTIONS": options}
    assert django_redis.cache.RedisCache(url, params).get("k") == "value"
    assert cache_at(redis.url_of(database), "database").get("k") == "value"
    cache.clear()


@pytest.mark.parametrize(
    ("name", "advice"), [("host", "LOCATION"), ("port", "LOCATION"), ("decode_responses", "remove")]
)
def test_an_option_of_a_connection_that_has_no_meaning(name: str, advice: str) -> None:
    cache = cache_at("redis://127.0.0.1:1/0", CONNECTION_POOL_KWARGS={name: 1})
    with pytest.raises(ImproperlyConfigured, match=f"{name}.*{advice}"):
        cache.get("k")


@pytest.mark.parametrize("requirement", [None, "none", "optional", ssl.CERT_NONE])
def test_a_certificate_that_is_not_checked_is_refused(requirement: Any) -> None:
    options = {"CONNECTION_POOL_KWARGS": {"ssl_cert_reqs": requirement}}
    with pytest.raises(ImproperlyConfigured, match="ssl_ca_certs"):
        cache_at("rediss://127.0.0.1:1/0", **options).get("k")


def test_a_file_of_certificates_that_cannot_be_read() -> None:
    options = {"CONNECTION_POOL_KWARGS": {"ssl_ca_certs": "/absent.pem"}}
    with pytest.raises(ImproperlyConfigured, match="ssl_ca_certs .*/absent.pem"):
        cache_at("rediss://127.0.0.1:1/0", **options).get("k")


@contextmanager
def tls_server(folder: Path, constraints: str, name: str) -> Iterator[tuple[str, Path]]:
    """Starts a Redis whose certificate is signed by itself. Yields its URL and the certificate."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    make += ["-subj", "/CN=localhost", "-addext", f"subjectAltName={name}"]
    make += ["-addext", f"basicConstraints=critical,{constraints}"]
    make += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(make, check=True, capture_output=True)
    port = servers.free_port()
    tls = ["--tls-port", str(port), "--tls-auth-clients", "no", "--tls-cert-file"]
    with servers.redis(*tls, str(certificate), "--tls-key-file", str(key)):
        yield f"rediss://127.0.0.1:{port}/0", certificate


@needs_openssl
def test_a_certificate_that_is_named_itself(tmp_path: Path) -> None:
    with tls_server(tmp_path, "CA:FALSE", "IP:127.0.0.1") as (url, certificate):
        for options in (
            {"CONNECTION_POOL_KWARGS": {"ssl_ca_certs": certificate}},
            {"CONNECTION_POOL_KWARGS": {"ssl_ca_certs": certificate, "ssl_cert_reqs": "required"}},
        ):
            cache = cache_at(url, **options)
            cache.set("k", "value")
            assert cache.get("k") == "value"
            with cache.lock("l", timeout=30) as lock:
                assert lock.owned()
        with pytest.raises(errors.Unavailable, match="certificate"):
            cache_at(url).get("k")


@needs_openssl
@pytest.mark.parametrize(
    ("constraints", "name"),
    [
        # An authority cannot be the certificate of a server, too.
        ("CA:TRUE", "IP:127.0.0.1"),
        ("CA:FALSE", "DNS:another.example.com"),
    ],
)
def test_a_certificate_that_is_not_accepted(tmp_path: Path, constraints: str, name: str) -> None:
    with tls_server(tmp_path, constraints, name) as (url, certificate):
        # Host names are always checked.
        pool = {"ssl_ca_certs": certificate, "ssl_check_hostname": False}
        with pytest.raises(errors.Unavailable, match="certificate"):
            cache_at(url, CONNECTION_POOL_KWARGS=pool).get("k")


def test_the_first_of_several_servers_has_writes_and_locks(redis: servers.Redis) -> None:
    primary, replica = cache_at(redis.url_of(4)), cache_at(redis.url_of(5))
    cache = cache_at(f"{redis.url_of(4)},{redis.url_of(5)}")
    replica.set("k", "of the replica")
    cache.set("k", "of the primary")
    assert primary.get("k") == "of the primary"
    assert cache.get("k") == "of the replica"
    with cache.lock("l", timeout=30):
        assert primary.lock("l", timeout=30).locked()
        assert not replica.lock("l", timeout=30).locked()
    primary.clear()
    replica.clear()


@pytest.mark.parametrize(("name", "timeout"), [("l", 24 * 3600 + 1), ("l" * 70_000, 3), ("l", -1)])
def test_a_lock_that_cannot_be(redis_url: str, name: str, timeout: int) -> None:
    with pytest.raises(errors.Invalid):
        cache_at(redis_url, COMPAT="django-redis").lock(name, timeout=timeout).acquire()


def test_get_redis_connection_sees_the_same_keys(redis_url: str) -> None:
    cache = cache_at(redis_url)
    cache.set("k", 42)
    assert cache.client.get_client().get("test:1:k") == b"42"
    with cache.lock("l", timeout=30) as lock:
        stored = f"lockstock:held:{lock.local.token}:{lock.fence}"
        assert cache.client.get_client().get("test:1:l") == stored.encode()


def test_a_user_with_the_documented_rights_can_lock(redis: servers.Redis) -> None:
    rights = (Path(__file__).parents[2] / "docs" / "acl.txt").read_text().split()
    admin = cache_at(redis.url).client.get_client()
    admin.execute_command("ACL", "SETUSER", "shop", "reset", "on", ">pw", "~test:*", *rights)
    cache = cache_at(redis.url.replace("//", "//shop:pw@"))
    cache.set("k", 1)
    assert cache.incr("k") == 2
    with cache.lock("l", timeout=30) as lock:
        other = cache_at(redis.url).lock("l", timeout=30)
        assert lock.fence
        assert not other.acquire(blocking=False)
    admin.execute_command("ACL", "DELUSER", "shop")


def test_django_redis_finds_the_same_server(redis_url: str) -> None:
    import django_redis
    from django.core.cache import cache

    config = {"BACKEND": "lockstock.django.cache.RedisCache", "LOCATION": redis_url}
    with override_settings(CACHES={"default": config}):
        cache.set("k", 42)
        assert django_redis.get_redis_connection("default").get(":1:k") == b"42"
        cache.clear()


# --- clear ------------------------------------------------------------------------------


def test_clear_empties_the_database(redis_url: str) -> None:
    own, other = cache_at(redis_url, "own"), cache_at(redis_url, "other")
    own.set("k", 1)
    other.set("k", 1)
    own.clear()
    assert other.get("k") is None


def test_clear_of_the_prefix(redis_url: str) -> None:
    own, other = cache_at(redis_url, "ow[n]*", CLEAR="prefix"), cache_at(redis_url, "own")
    own.set("k", 1)
    own.set("k", 1, version=2)
    other.set("k", 1)
    own.clear()
    assert own.get("k") is None
    assert own.get("k", version=2) is None
    assert other.get("k") == 1


def test_clear_of_an_empty_prefix_leaves_what_is_no_entry(redis_url: str) -> None:
    cache = cache_at(redis_url, "", CLEAR="prefix")
    cache.set("k", 1)
    raw = cache.client.get_client()
    raw.set("celery", "queue")
    cache.clear()
    assert cache.get("k") is None
    assert raw.get("celery") == b"queue"


# --- failures ---------------------------------------------------------------------------


def test_a_server_that_does_not_reply_costs_one_timeout_and_not_one_a_call() -> None:
    with servers.redis() as redis:
        cache = cache_at(redis.url, SOCKET_TIMEOUT=2, IGNORE_EXCEPTIONS=True)
        assert cache.set("k", "value")
        redis.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        assert [cache.get("k", "none") for _ in range(100)] == ["none"] * 100
        assert cache.set("k", "other") is False
        # They would take 200 s.
        assert time.monotonic() - began < 60


def test_ignored_exceptions_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    options = {"IGNORE_EXCEPTIONS": True, "LOG_IGNORED_EXCEPTIONS": True}
    cache = cache_at("redis://127.0.0.1:1/0", **options)
    assert cache.get("k") is None
    assert cache.get_many(["k"]) == {}
    assert cache.incr("k") is None
    assert [record.name for record in caplog.records] == ["lockstock.django.cache"] * 3


@pytest.mark.parametrize("ignores", [False, True])
def test_iterators_of_a_server_that_is_down(ignores: bool) -> None:
    cache = cache_at("redis://127.0.0.1:1/0", IGNORE_EXCEPTIONS=ignores)

    async def all_of(found: Any) -> list[Any]:
        return [each async for each in found]

    calls = [
        lambda: list(cache.iter_keys("*")),
        lambda: list(cache.sscan_iter("k")),
        lambda: asyncio.run(all_of(cache.aiter_keys("*"))),
        lambda: asyncio.run(all_of(cache.asscan_iter("k"))),
    ]
    for call in calls:
        if ignores:
            assert call() == []
        else:
            with pytest.raises(errors.Unavailable):
                call()


def test_what_a_failure_raises() -> None:
    with servers.redis() as redis:
        cache = cache_at(redis.url, SOCKET_TIMEOUT=2)
        ignoring = cache_at(redis.url, SOCKET_TIMEOUT=2, IGNORE_EXCEPTIONS=True)
        cache.hset("hash", "field", 1)
        with pytest.raises(errors.Malformed):
            cache.get("hash")
        assert ignoring.get("hash", "default") == "default"
        cache.client.get_client().set("test:1:k", b"no pickle")
        for each in (cache, ignoring):
            with pytest.raises(Exception, match="pickle|stack|invalid"):
                each.get("k")
        cache.client.get_client().config_set("maxmemory", 1)
        with pytest.raises(errors.ResponseError, match="OOM|memory"):
            cache.set("k", 1)
        assert ignoring.set("k", 1) is False
        with pytest.raises(errors.ResponseError):
            ignoring.lock("l", timeout=3).acquire()
        redis.process.send_signal(signal.SIGSTOP)
        with pytest.raises(errors.TimedOut):
            cache.get("k")
        with pytest.raises(errors.Unavailable):
            cache.get("k")
        with pytest.raises(errors.Unavailable):
            ignoring.lock("l", timeout=3).acquire()
