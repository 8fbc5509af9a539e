"""Starts the two shops that are measured side by side, ours and the Django one.

    with pair(database, store, after_update="release", products=1000) as (ours, peer):
        ours.get("/api/products/1/"), ours.process.cpu(), ours.process.memory()
"""

import http.client
import json
import os
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from process import Failed, Process, ask
from servers import ROOT, START, free_port, run, scratch

LOCKSTOCK = ROOT / "target/dist/lockstock"
DJANGO = ROOT / "bench/django"
WORKERS = 3
# Database and table of each.
TABLES = {"lockstock": ("ours", "products"), "django": ("peer", "products_product")}


@dataclass
class Shop:
    """A server of `/api/products/`."""

    name: str
    port: int
    process: Process

    def get(self, path):
        """Status and body."""
        return self.send("GET", path)

    def send(self, method, path, json_body=None):
        """Status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        body = None if json_body is None else json.dumps(json_body)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def responds(self, path):
        try:
            return self.get(path)[0] == 200
        except (OSError, http.client.HTTPException):
            return False


@contextmanager
def lockstock(database_url, store_url, *, after_update, samples=False):
    if not LOCKSTOCK.exists():
        raise Failed(f"no {LOCKSTOCK.relative_to(ROOT)}: cargo build --profile dist -p lockstock-shop")
    port = free_port()
    command = [LOCKSTOCK, "serve", "--listen", f"127.0.0.1:{port}", "--store", store_url]
    command += ["--database", database_url, "--after-update", after_update, "--log", "warn"]
    command += [] if samples else ["--no-samples"]
    with scratch("server") as folder:
        with Process("lockstock", command, folder / "log") as process:
            shop = Shop("lockstock", port, process)
            ask("lockstock", START, lambda: shop.responds("/readyz"), process)
            yield shop


@contextmanager
def django(database_url, store_url, *, after_update, products):
    """The peer, as it is deployed: gunicorn's default workers, persistent connections to
    the database, hiredis, no access log, no DEBUG. Its table is made anew."""
    environment = os.environ | {
        "SHOP_DATABASE_URL": database_url,
        "SHOP_REDIS_URL": store_url,
        "SHOP_AFTER_UPDATE": after_update,
        # They would double its work on a single product, and the article has none.
        "SHOP_FILTERS": "off",
        "PYTHONPYCACHEPREFIX": str(ROOT / "target/pycache"),
    }
    # Would leave it without compiled modules if set where the bench was called.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    here = {"cwd": DJANGO, "env": environment}
    run([sys.executable, "manage.py", "prepare", "--count", products], **here)
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-w", WORKERS, "-b", f"127.0.0.1:{port}"]
    command += ["--no-control-socket", "--log-level", "warning", "shop.wsgi"]
    with scratch("server") as folder:
        with Process("django", command, folder / "log", **here) as process:
            shop = Shop("django", port, process)
            ask("gunicorn", START, lambda: shop.responds("/api/products/1/"), process)
            yield shop


@contextmanager
def pair(database, store, after_update, products):
    """Both shops over one PostgreSQL and one Redis, each with a database and a number of its
    own, and the same products."""
    urls = {}
    for number, (name, (base, _)) in enumerate(TABLES.items(), start=1):
        database.sql("postgres", f"DROP DATABASE IF EXISTS {base}")
        urls[name] = database.create(base), store.url(number)
    # Nobody's lock from before.
    store.command("FLUSHALL")
    with ExitStack() as stack:
        ours = stack.enter_context(lockstock(*urls["lockstock"], after_update=after_update))
        # What `prepare` gives the peer.
        database.sql(
            TABLES["lockstock"][0],
            "INSERT INTO products (name, description, price, stock, created_at, updated_at)"
            " SELECT 'Product ' || n, '', 100 + n, 1000, now(), now()"
            f" FROM generate_series(1, {products}) n",
        )
        peer = stack.enter_context(django(*urls["django"], after_update=after_update, products=products))
        same_answers(ours, peer)
        yield ours, peer


def same_answers(*shops):
    """Both do the same thing: what the peer shows of a product ours shows with the same value,
    times aside."""
    ours, peer = (json.loads(shop.get("/api/products/1/")[1]) for shop in shops)
    fields = [name for name in peer if not name.endswith("_at")]
    seen = [{name: product.get(name) for name in fields} for product in (ours, peer)]
    if seen[0] != seen[1]:
        raise Failed(f"the two shops show different products:\n{seen[0]}\n{seen[1]}")
