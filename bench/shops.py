"""Starts the two shops that are measured side by side: Lockstock and the Django peer.

    with pair(database, store, after_update="release", products=1000) as (ours, peer):
        ours.get("/api/products/1/"), ours.process.cpu(), ours.process.memory()
"""

import http.client
import json
import os
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from process import Failed, Process, wait_until
from servers import ROOT, START_TIMEOUT, free_port, run, scratch

LOCKSTOCK = ROOT / "target/dist/lockstock"
DJANGO = ROOT / "bench/django"
WORKERS = 3
# Database and table of each shop.
TABLES = {"lockstock": ("lockstock", "products"), "django": ("django", "products_product")}


@dataclass
class Shop:
    """A server with `/api/products/`."""

    name: str
    port: int
    process: Process

    def get(self, path):
        """Returns the status and the body."""
        return self.send("GET", path)

    def send(self, method, path, json_body=None):
        """Returns the status and the body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        body = None if json_body is None else json.dumps(json_body)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def responds(self, path):
        try:
            return self.get(path)[0] == 200
        except (OSError, http.client.HTTPException):
            return False


@contextmanager
def lockstock(database_url, store_url, *, after_update, samples=False, options=()):
    if not LOCKSTOCK.exists():
        binary = LOCKSTOCK.relative_to(ROOT)
        raise Failed(f"{binary} is missing: cargo build --profile dist -p lockstock-shop")
    port = free_port()
    command = [LOCKSTOCK, "serve", "--listen", f"127.0.0.1:{port}", "--store", store_url]
    command += ["--database", database_url, "--after-update", after_update, "--log", "warn"]
    command += [] if samples else ["--no-samples"]
    command += options
    with scratch("server") as folder:
        with Process("lockstock", command, folder / "log") as process:
            shop = Shop("lockstock", port, process)
            wait_until("lockstock", START_TIMEOUT, lambda: shop.responds("/readyz"), process)
            yield shop


@contextmanager
def django(database_url, store_url, *, after_update, products):
    """The peer as it is deployed: gunicorn's default workers, persistent connections to the
    database, hiredis, no access log, no DEBUG. Recreates its table."""
    environment = os.environ | {
        "SHOP_DATABASE_URL": database_url,
        "SHOP_REDIS_URL": store_url,
        "SHOP_AFTER_UPDATE": after_update,
        # Filters would double the work of a GET of one product, which needs none.
        "SHOP_FILTERS": "off",
        "PYTHONPYCACHEPREFIX": str(ROOT / "target/pycache"),
    }
    # If set for the bench, it would leave the peer without compiled modules.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    here = {"cwd": DJANGO, "env": environment}
    run([sys.executable, "manage.py", "prepare", "--count", products], **here)
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-w", WORKERS, "-b", f"127.0.0.1:{port}"]
    command += ["--no-control-socket", "--log-level", "warning", "shop.wsgi"]
    with scratch("server") as folder:
        with Process("django", command, folder / "log", **here) as process:
            shop = Shop("django", port, process)
            path = "/api/products/1/"
            wait_until("gunicorn", START_TIMEOUT, lambda: shop.responds(path), process)
            yield shop


@contextmanager
def pair(database, store, after_update, products):
    """Both shops on one PostgreSQL and one Redis, each with databases of its own and with the
    same products."""
    urls = {}
    for number, (name, (base, _)) in enumerate(TABLES.items(), start=1):
        database.sql("postgres", f"DROP DATABASE IF EXISTS {base}")
        urls[name] = database.create(base), store.url(number)
    # Removes the locks of earlier rounds.
    store.command("FLUSHALL")
    with ExitStack() as stack:
        ours = stack.enter_context(lockstock(*urls["lockstock"], after_update=after_update))
        # The same products as `prepare` creates for the peer.
        database.sql(
            TABLES["lockstock"][0],
            "INSERT INTO products (name, description, price, stock, created_at, updated_at)"
            " SELECT 'Product ' || n, '', 100 + n, 1000, now(), now()"
            f" FROM generate_series(1, {products}) n",
        )
        peer = stack.enter_context(
            django(*urls["django"], after_update=after_update, products=products)
        )
        ensure_same_products(ours, peer)
        yield ours, peer


@contextmanager
def on_sqlite(store, products):
    """Lockstock on its embedded database, with as many products."""
    with scratch("sqlite") as folder:
        url = f"sqlite://{folder}/shop.sqlite3"
        with lockstock(url, store.url(3), after_update="release") as shop:
            for number in range(1, products + 1):
                product = {"name": f"Product {number}", "price": 100 + number, "stock": 1000}
                status, body = shop.send("POST", "/api/products/", product)
                if status != 201:
                    raise Failed(f"POST: {status} {body}")
            shop.name = "sqlite"
            yield shop


def ensure_same_products(*shops):
    """Fails unless both shops return the same fields of a product with the same values, apart
    from timestamps."""
    ours, peer = (json.loads(shop.get("/api/products/1/")[1]) for shop in shops)
    fields = [name for name in peer if not name.endswith("_at")]
    seen = [{name: product.get(name) for name in fields} for product in (ours, peer)]
    if seen[0] != seen[1]:
        raise Failed(f"the two shops return different products:\n{seen[0]}\n{seen[1]}")
