"""Servers, a browser, and pages that must not misbehave."""

import itertools
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from playwright.sync_api import expect, sync_playwright

# Upper bound of every wait. A test that reaches it has failed.
PATIENCE_S = 60
SCRATCH = pathlib.Path(os.environ["BOARD_SCRATCH"])
PICTURES = pathlib.Path(os.environ["BOARD_PICTURES"])
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Chromium reports each response of 400 and more, and each connection that a server ends.
EXPECTED = re.compile(
    r"Failed to load resource: (.* status of (4\d\d|50[23])|net::ERR_(CONNECTION|INCOMPLETE))"
)
names = itertools.count(1)

expect.set_options(timeout=PATIENCE_S * 1000)


class Server:
    """A running `lockstock`, which can be killed and started again on its port."""

    def __init__(self, *arguments, env=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.command = [
            os.environ["BOARD_LOCKSTOCK"],
            *("--listen", f"127.0.0.1:{self.port}"),
            *("--drain-delay", "0s", "--log", "warn", "--update-wait", "30s"),
            # A cool-down that no test outlasts: each has products of its own.
            *("--update-lease", "60s"),
            *arguments,
        ]
        self.env = {**os.environ, **(env or {})}
        self.process = None
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.command, env=self.env, stdout=subprocess.DEVNULL)
        until = time.monotonic() + PATIENCE_S
        while True:
            assert self.process.poll() is None, "the server has ended"
            assert time.monotonic() < until, "the server is not ready"
            try:
                urllib.request.urlopen(self.url + "readyz").close()
                return
            except OSError:
                time.sleep(0.02)

    def stop(self, number=signal.SIGKILL):
        self.process.send_signal(number)
        self.process.wait(PATIENCE_S)

    def call(self, method, path, body=None, key=None):
        """Calls the API. Returns the status and the parsed body."""
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                return response.status, json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")

    def product(self, stock=10, name=None, key=None):
        """Creates a product. Returns its id and its name."""
        name = name or f"Product {next(names)}"
        body = {"name": name, "price": 49_900, "stock": stock}
        status, created = self.call("POST", "api/products/", body, key)
        assert status == 201, created
        return created["id"], name


@pytest.fixture(scope="session")
def database():
    return f"sqlite://{SCRATCH / 'shop.sqlite3'}"


@pytest.fixture(scope="session")
def shop(database):
    """Two servers of one shop."""
    options = ("--no-samples", "--store", os.environ["BOARD_REDIS"], "--database", database)
    servers = [Server(*options), Server(*options)]
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def server(shop):
    return shop[0]


@pytest.fixture
def one_of_two(shop, database):
    """A server of the shop whose race can include another one, and that one."""
    options = ("--no-samples", "--store", os.environ["BOARD_REDIS"], "--database", database)
    other = Server(*options)
    one = Server(*options, "--replicas", other.url)
    yield one, other
    for server in (one, other):
        server.stop()


@pytest.fixture
def start():
    """Starts further servers: `start("--samples", …)`."""
    servers = []

    def begin(*arguments, store="memory://", env=None):
        file = SCRATCH / f"{next(names)}.sqlite3"
        server = Server(
            *("--store", store, "--database", f"sqlite://{file}"), *arguments, env=env
        )
        servers.append(server)
        return server

    yield begin
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ["BOARD_CHROMIUM"], args=CHROMIUM_FLAGS
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens pages, each in a context of its own. At the end, none may have misbehaved: no error in
    the console, no violation of the content security policy, no request to another origin."""
    contexts = []
    problems = []

    def begin(url, live=True, **options):
        context = browser.new_context(**{"locale": "en-US", **options})
        contexts.append(context)
        context.set_default_timeout(PATIENCE_S * 1000)
        page = context.new_page()
        origin = re.match(r"https?://[^/]+", url)[0]

        def on_request(request):
            if not request.url.startswith((origin, "blob:", "data:")):
                problems.append(f"a request to {request.url}")

        def on_console(message):
            is_expected = EXPECTED.search(message.text)
            if message.type in ("error", "warning") and not is_expected:
                problems.append(f"{message.type} in the console: {message.text}")

        page.on("request", on_request)
        page.on("console", on_console)
        page.on("pageerror", lambda error: problems.append(f"an error: {error}"))
        page.goto(url)
        if live:
            expect(page.locator("#light")).to_have_attribute("data-state", "live")
        return page

    yield begin
    for context in contexts:
        context.close()
    assert not problems, "\n".join(problems)


def row(page, product):
    return page.locator(f'tr[data-product="{product}"]')


def lock_row(page, product):
    return page.locator(f'tr[data-lock="product-update-lock-{product}"]')
