"""What the page shows of others, and the truth of its state."""

import re
import urllib.parse

from conftest import lock_row, row
from playwright.sync_api import expect


def light(page, state):
    expect(page.locator("#light")).to_have_attribute("data-state", state)


def test_a_purchase_of_another_client_appears_in_place(server, open_page):
    product, _ = server.product(stock=7)
    page = open_page(server.url)
    cells = row(page, product)
    expect(cells.locator(".stock")).to_have_text("7")
    cells.locator("[data-do=buy]").focus()
    page.evaluate("document.activeElement.closest('tr').isTheSame = true")

    assert server.call("POST", f"api/products/{product}/purchases/", {"quantity": 2})[0] == 201

    expect(cells.locator(".stock")).to_have_text("5")
    expect(cells.locator(".available")).to_have_text("5")
    focused = page.evaluate("document.activeElement.closest('tr')?.isTheSame")
    assert focused, "the row was replaced, or lost the focus"


def test_an_update_at_another_replica_appears(shop, open_page):
    here, there = shop
    product, _ = here.product(stock=7)
    page = open_page(here.url)

    assert there.call("PATCH", f"api/products/{product}/", {"stock": 3})[0] == 200

    expect(row(page, product).locator(".stock")).to_have_text("3")
    expect(lock_row(page, product).locator(".state")).to_have_attribute("data-state", "kept")
    # Two, and those that other tests have killed in the last minute.
    expect(page.locator("#light-text")).to_contain_text(re.compile(r"\d servers"))


def test_an_update_has_an_episode_and_the_refused_ones(server, open_page):
    product, _ = server.product()
    page = open_page(server.url)
    assert server.call("PATCH", f"api/products/{product}/", {"stock": 3})[0] == 200
    assert server.call("PATCH", f"api/products/{product}/", {"stock": 2})[0] == 429

    episode = page.locator("#episode-rows tr", has_text=f"product-update-lock-{product}")
    expect(episode.locator(".refused")).to_have_text("1")
    expect(episode.locator(".ended")).to_have_text("kept now")
    expect(lock_row(page, product).locator(".who")).to_have_text("127.0.0.1")


def test_the_page_freezes_without_its_server_and_goes_on(start, open_page):
    server = start("--no-samples")
    product, _ = server.product(stock=7)
    page = open_page(server.url)

    server.stop()
    light(page, "reconnecting")
    expect(page.locator("#light-text")).to_contain_text("frozen since")
    server.start()
    light(page, "live")

    assert server.call("POST", f"api/products/{product}/purchases/", {"quantity": 1})[0] == 201
    expect(row(page, product).locator(".stock")).to_have_text("6")


def test_pause_ends_the_stream_until_it_goes_on(server, open_page):
    product, _ = server.product(stock=7)
    page = open_page(server.url)
    streams = []
    page.on("request", lambda it: streams.append(it) if it.url.endswith("/events") else None)

    page.get_by_role("button", name="Pause").click()
    light(page, "paused")
    expect(page.locator("#light-text")).to_contain_text("Paused since")
    # A focus, or the return of the network, must not open it.
    page.evaluate("dispatchEvent(new Event('focus')); dispatchEvent(new Event('online'))")
    assert server.call("POST", f"api/products/{product}/purchases/", {"quantity": 1})[0] == 201
    assert streams == []
    expect(row(page, product).locator(".stock")).to_have_text("7")

    page.get_by_role("button", name="Continue").click()
    light(page, "live")
    expect(row(page, product).locator(".stock")).to_have_text("6")


def test_a_hidden_tab_closes_its_stream_and_resumes_it(server, open_page):
    product, _ = server.product(stock=7)
    page = open_page(server.url)
    # Until an event has an id.
    assert server.call("POST", f"api/products/{product}/purchases/", {"quantity": 1})[0] == 201
    expect(row(page, product).locator(".stock")).to_have_text("6")
    hide = """hidden => {
        Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
        document.dispatchEvent(new Event('visibilitychange'));
    }"""
    is_stream = lambda it: it.url.endswith("/events")

    with page.expect_event("requestfailed", is_stream):
        page.evaluate(hide, True)
    assert server.call("POST", f"api/products/{product}/purchases/", {"quantity": 1})[0] == 201
    with page.expect_request(is_stream) as resumed:
        page.evaluate(hide, False)

    assert resumed.value.headers.get("last-event-id")
    light(page, "live")
    expect(row(page, product).locator(".stock")).to_have_text("5")


def test_the_filter_is_in_the_address(server, open_page):
    one, _ = server.product()
    other, _ = server.product()
    for product in (one, other):
        assert server.call("PATCH", f"api/products/{product}/", {"stock": 1})[0] == 200
    query = urllib.parse.urlencode({"lock": f"product-update-lock-{one}"})
    page = open_page(f"{server.url}?{query}")
    expect(lock_row(page, one)).to_be_visible()
    expect(lock_row(page, other)).to_have_count(0)

    page.get_by_label("Name").fill("no-such-lock")
    page.get_by_role("button", name="Filter").click()
    expect(page).to_have_url(f"{server.url}?lock=no-such-lock")
    expect(page.locator("#no-locks")).to_have_text("No lock matches this filter.")
