"""The page for every reader: keyboard, languages, without JavaScript, accessibility, pictures, load."""

import gzip
import json
import os
import re
import socket
import urllib.request

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import PICTURES, lock_row, row
from playwright.sync_api import expect

SIZES = {"phone": (390, 844), "tablet": (900, 1100), "wide": (1440, 1000)}


def test_everything_is_done_by_the_keyboard(server, open_page):
    product, name = server.product(stock=10)
    page = open_page(server.url)
    press = page.keyboard.press
    focused = lambda: page.evaluate("document.activeElement.id || document.activeElement.textContent")

    press("Tab")
    assert focused() == "Skip to the content"
    press("Enter")
    expect(page.locator("#main")).to_be_focused()

    press("?")
    expect(page.locator("#help-dialog")).to_be_visible()
    press("Escape")
    expect(page.locator("#help-dialog")).to_be_hidden()

    page.get_by_label("Product", exact=True).focus()
    page.keyboard.type(name)
    press("Tab")
    press("ArrowRight")
    press("r")
    expect(page.get_by_role("status")).to_have_text(re.compile(r"Request \d won\. 5 were refused"))

    press("p")
    expect(page.locator("#light")).to_have_attribute("data-state", "paused")
    press("p")
    expect(page.locator("#light")).to_have_attribute("data-state", "live")
    press("w")
    expect(page.locator("#waiting-switch")).to_have_attribute("aria-pressed", "false")
    press("+")
    expect(page.get_by_role("button", name="10 s")).to_have_attribute("aria-pressed", "true")
    press("-")
    press("-")
    expect(page.get_by_role("button", name="5 min")).to_have_attribute("aria-pressed", "true")

    row(page, product).get_by_role("button", name="Buy").focus()
    press("Enter")
    expect(row(page, product).locator(".stock")).to_have_text("8")
    press("/")
    page.keyboard.type(f"lock-{product}")
    press("Enter")
    # The skip link has left a fragment.
    expect(page).to_have_url(f"{server.url}?lock=lock-{product}#main")


def test_single_keys_can_be_turned_off(server, open_page):
    page = open_page(server.url)
    page.keyboard.press("?")
    page.get_by_label("Single keys are on").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("p")
    page.reload()
    expect(page.locator("#light")).to_have_attribute("data-state", "live")
    page.keyboard.press("p")
    page.get_by_role("button", name="Keyboard shortcuts").click()
    expect(page.get_by_label("Single keys are on")).not_to_be_checked()
    expect(page.locator("#light")).to_have_attribute("data-state", "live")


def test_the_page_is_in_korean_if_the_browser_prefers_it(server, open_page):
    product, _ = server.product(stock=0)
    page = open_page(server.url, locale="ko-KR")
    expect(page.locator("html")).to_have_attribute("lang", "ko")
    expect(page.locator("#zoom button")).to_have_text(["10초", "1분", "5분"])
    expect(page.get_by_role("heading", name="레이스")).to_be_visible()
    expect(page.locator("#light-text")).to_contain_text("실시간")
    row(page, product).get_by_role("button", name="구매").click()
    # The message of the API, too.
    expect(page.get_by_role("status")).to_contain_text("품절되었습니다")

    page.get_by_role("link", name="English").click()
    expect(page).to_have_url(f"{server.url}?lang=en")
    expect(page.get_by_role("heading", name="The race")).to_be_visible()
    row(page, product).get_by_role("link").click()
    expect(page).to_have_url(f"{server.url}products/{product}/?lang=en")
    expect(page.get_by_role("heading", name="Ledger")).to_be_visible()


def test_the_tables_need_no_javascript(server, open_page):
    product, name = server.product(stock=1234)
    assert server.call("PATCH", f"api/products/{product}/", {"stock": 1233})[0] == 200
    lock = f"product-update-lock-{product}"
    page = open_page(f"{server.url}?lock={lock}", live=False, java_script_enabled=False)

    expect(row(page, product).locator(".available")).to_have_text("1,233")
    expect(lock_row(page, product).locator(".state")).to_have_text("kept")
    expect(lock_row(page, product).locator(".who")).to_have_text("127.0.0.1")
    expect(page.locator("#light-text")).to_contain_text("needs JavaScript")
    expect(row(page, product).get_by_role("button", name="Buy")).to_be_disabled()
    page.get_by_label("Name").fill("no-such-lock")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("#no-locks")).to_be_visible()

    row(page, product).get_by_role("link").click()
    expect(page.get_by_role("heading", name=name)).to_be_visible()
    expect(page.locator("#entry-rows tr").first.locator(".delta")).to_have_text("−1")


POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def test_the_page_has_a_strict_policy_and_files_that_may_be_kept(server):
    with fetch(server.url) as response:
        headers, page = response.headers, response.read().decode()
    assert headers["Content-Security-Policy"] == POLICY
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert not re.search(r"<style|\sstyle=|<script>|\son\w+=", page)

    (path,) = re.findall(r'href="\./(board/\w+/board\.css)"', page)
    with fetch(server.url + path) as response:
        assert "immutable" in response.headers["Cache-Control"]
        assert response.headers["Content-Encoding"] == "gzip"
        assert b":root" in gzip.decompress(response.read())
    # Of a page that another version of the server has rendered.
    with fetch(server.url + re.sub(r"/\w+/", "/0/", path)) as response:
        assert response.headers["Cache-Control"] == "no-cache"


def fetch(url):
    headers = {"Accept": "text/html", "Accept-Encoding": "gzip"}
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers))


def test_a_missing_product_has_a_page(server, open_page):
    page = open_page(f"{server.url}products/999999/", live=False)
    expect(page.get_by_role("heading", name="There is no such product.")).to_be_visible()


@pytest.fixture(scope="module")
def busy_product(server):
    """A product with a ledger, a lock that is kept, and an episode with a refused request."""
    product, _ = server.product(stock=10, name="Enamel mug")
    for stock in (9, 8):
        server.call("PATCH", f"api/products/{product}/", {"stock": stock})
    for _ in range(4):
        server.call("POST", f"api/products/{product}/purchases/", {"quantity": 1})
    return product


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(server, open_page, busy_product, scheme):
    # The policy of the page allows no script of a test.
    options = {"color_scheme": scheme, "bypass_csp": True, "reduced_motion": "reduce"}
    page = open_page(f"{server.url}?lock=lock-{busy_product}", **options)
    expect(lock_row(page, busy_product)).to_be_visible()
    page.get_by_label("Product", exact=True).select_option(str(busy_product))
    page.get_by_role("button", name="Send 5 requests").click()
    expect(page.get_by_role("status")).not_to_be_empty()
    check(page)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Keyboard shortcuts").click()
    check(page)

    page = open_page(f"{server.url}products/{busy_product}/", **options)
    expect(page.locator("#curve")).to_have_attribute("role", "img")
    check(page)


def check(page):
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures(start, open_page, scheme):
    """No assertion beyond the layout: the pictures in target/board/ are for the eye."""
    server = start()
    products = server.call("GET", "api/products/")[1]["results"]
    for product in products[1:4]:
        path = f"api/products/{product['id']}/"
        for stock in (30, 31):
            server.call("PATCH", path, {"stock": stock})
        server.call("POST", path + "purchases/", {"quantity": 2})
        server.call("POST", path + "reservations/", {"quantity": 3, "hold": 600})
    first = products[0]["id"]
    page = open_page(server.url, color_scheme=scheme, viewport={"width": 1440, "height": 1000})
    page.get_by_label("Product", exact=True).select_option(str(first))
    page.get_by_role("button", name="Send 5 requests").click()
    expect(page.locator("#race-chart .won")).to_have_count(1)
    for size, (width, height) in SIZES.items():
        page.set_viewport_size({"width": width, "height": height})
        is_wider = page.evaluate("document.documentElement.scrollWidth > innerWidth")
        assert not is_wider, f"the page is wider than {width}"
        picture(page, f"board-{scheme}-{size}")
    page.goto(f"{server.url}products/{products[1]['id']}/")
    expect(page.locator("#light")).to_have_attribute("data-state", "live")
    expect(page.locator("#curve canvas")).to_be_visible()
    for size, (width, height) in SIZES.items():
        page.set_viewport_size({"width": width, "height": height})
        assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
        picture(page, f"product-{scheme}-{size}")


def picture(page, name):
    # After the next two frames, everything has its new size.
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.screenshot(path=PICTURES / f"{name}.png", full_page=True)


def test_five_hundred_products_and_two_hundred_waiters_are_drawn(start, open_page, browser):
    """Writes the frames a second of Chromium's own trace to target/board/frames.json."""
    env = {"FAILPOINTS": "update.locked=return(60000)"} if os.environ["BOARD_FAILPOINTS"] else {}
    server = start("--no-samples", "--request-timeout", "120s", env=env)
    products = [server.product(stock=stock)[0] for stock in range(500)]
    page = open_page(server.url, viewport={"width": 1440, "height": 1000})
    expect(page.locator("#product-rows tr")).to_have_count(500)
    waiters = [waiter(server, products[number % 20]) for number in range(220)]
    try:
        if env:
            expect(page.locator("#lock-sum")).to_have_text("20 held · 0 kept · 200 waiting")
        browser.start_tracing(page=page, categories=["devtools.timeline"])
        page.evaluate("new Promise(done => setTimeout(done, 3000))")
        events = json.loads(browser.stop_tracing())["traceEvents"]
    finally:
        for it in waiters:
            it.close()
    frames = [it["ts"] for it in events if it["name"] == "FireAnimationFrame"]
    assert len(frames) > 2, "nothing is drawn"
    seconds = (frames[-1] - frames[0]) / 1e6
    result = {"frames": len(frames), "seconds": seconds, "per_second": len(frames) / seconds}
    (PICTURES / "frames.json").write_text(json.dumps(result))
    picture(page, "board-load")
    print(f"{result['per_second']:.0f} frames a second with 500 products and 200 waiters")


def waiter(server, product):
    """Sends an update, and does not read the response."""
    body = b'{"stock": 1}'
    head = (
        f"PATCH /api/products/{product}/ HTTP/1.1\r\nHost: board\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(head.encode() + body)
    return connection
