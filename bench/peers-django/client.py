"""A client of `./dev bench django`: one library, several cases.

    python client.py LIBRARY URL

Prints `ready`, then reads lines of JSON: `{"case": …, "threads": …, "bytes": …, "seconds": …}`.
Runs each case and prints `{"rate": calls per second, "cpu_us": CPU of each call}`, or `null` if the
library has no such call.
"""

import asyncio
import json
import pickle
import sys
import threading
import time

KEYS = 100
LEASE_SECONDS = 10
# Calls between two looks at the clock.
BATCH = 20


class Library:
    """The calls of a library. A case without a method is not measured."""

    def prepare(self, value):
        """Writes the values that are read."""
        for number in range(KEYS):
            self.set(f"key:{number}", value)


class DjangoCache(Library):
    """A backend of Django's cache. Each thread has a backend of its own, as in Django."""

    def __init__(self, backend, url, **more):
        from django.conf import settings

        config = {"BACKEND": backend, "LOCATION": url, **more}
        settings.configure(CACHES={"default": config}, USE_TZ=True)
        from django.core.cache import cache, caches

        self.caches, self.proxy = caches, cache

    def set(self, key, value):
        self.caches["default"].set(key, value, 300)

    def calls(self, case, number, value):
        cache, keys = self.caches["default"], [f"key:{n}" for n in range(KEYS)]
        match case:
            case "get":
                return one_of(keys, cache.get)
            case "get-proxy":
                return one_of(keys, self.proxy.get)
            case "set":
                return one_of(keys, lambda key: cache.set(key, value, 300))
            case "incr":
                cache.set(f"number:{number}", 0, 300)
                return lambda: cache.incr(f"number:{number}")
            case "lock" if hasattr(cache, "lock"):
                return lambda: pair(cache.lock(f"lock:{number}", timeout=LEASE_SECONDS))
        return None

    def aget(self):
        return self.caches["default"].aget


class Glide(Library):
    def __init__(self, url):
        from glide_sync import GlideClient, GlideClientConfiguration, NodeAddress

        host, _, port = url.split("/")[2].partition(":")
        config = GlideClientConfiguration([NodeAddress(host, int(port))], request_timeout=5000)
        self.client = GlideClient.create(config)

    def set(self, key, value):
        self.client.set(key, pickle.dumps(value))

    def calls(self, case, number, value):
        client, keys = self.client, [f"key:{n}" for n in range(KEYS)]
        match case:
            case "get":
                return one_of(keys, lambda key: pickle.loads(client.get(key)))
            case "set":
                return one_of(keys, lambda key: client.set(key, pickle.dumps(value)))
            case "incr":
                client.set(f"number:{number}", "0")
                return lambda: client.incr(f"number:{number}")
        return None


class RedisAsyncio(Library):
    def __init__(self, url):
        import redis

        self.url, self.client = url, redis.Redis.from_url(url)

    def set(self, key, value):
        self.client.set(key, pickle.dumps(value))

    def aget(self):
        import redis.asyncio

        client = redis.asyncio.Redis.from_url(self.url)

        async def get(key):
            return pickle.loads(await client.get(key))

        return get


LIBRARIES = {
    "lockstock": lambda url: DjangoCache("lockstock.django.cache.RedisCache", url),
    "lockstock-near": lambda url: DjangoCache(
        "lockstock.django.cache.RedisCache",
        url,
        OPTIONS={"NEAR_CACHE": {"max_bytes": 64 * 1024 * 1024}},
    ),
    "django-redis": lambda url: DjangoCache("django_redis.cache.RedisCache", url),
    "django": lambda url: DjangoCache("django.core.cache.backends.redis.RedisCache", url),
    "valkey-glide-sync": Glide,
    "redis.asyncio": RedisAsyncio,
}


def one_of(keys, call):
    """Returns a call with one key after another."""
    state = [0]

    def next_call():
        state[0] = number = (state[0] + 1) % len(keys)
        return call(keys[number])

    return next_call


def pair(lock):
    """Acquires and releases a lock."""
    if not lock.acquire():
        raise RuntimeError("a free lock was not acquired")
    lock.release()


def value_of(size):
    if size:
        return b"x" * size
    # About 100 bytes, as a row.
    return {"id": 42, "name": "a product with a name", "price": "19.90", "stock": 7, "hot": True}


def in_threads(library, order):
    value, seconds = value_of(order["bytes"]), order["seconds"]
    counts = []
    ready = threading.Barrier(order["threads"] + 1)

    def work(number):
        call = library.calls(order["case"], number, value)
        if call is None:
            counts.append(None)
            ready.wait()
            return
        call()
        ready.wait()
        count, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            for _ in range(BATCH):
                call()
            count += BATCH
        counts.append(count)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(order["threads"])]
    for thread in threads:
        thread.start()
    ready.wait()
    begun, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.join()
    return measured(counts, time.perf_counter() - begun, time.process_time() - cpu)


def measured(counts, seconds, cpu):
    if None in counts or not counts:
        return None
    total = sum(counts)
    return {"rate": total / seconds, "cpu_us": cpu / total * 1e6}


async def in_tasks(library, order):
    if not hasattr(library, "aget"):
        return None
    get, tasks, counts = library.aget(), order["threads"], []

    async def work():
        count, end = 0, time.perf_counter() + order["seconds"]
        while time.perf_counter() < end:
            await get(f"key:{count % KEYS}")
            count += 1
        counts.append(count)

    await asyncio.gather(*[get("key:0") for _ in range(tasks)])
    begun, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*[work() for _ in range(tasks)])
    return measured(counts, time.perf_counter() - begun, time.process_time() - cpu)


def main():
    name, url = sys.argv[1:]
    library = LIBRARIES[name](url)
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        library.prepare(value_of(order["bytes"]))
        if order["case"] == "aget":
            result = asyncio.run(in_tasks(library, order))
        else:
            result = in_threads(library, order)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
