"""The race, sales, changes, forced releases, and who may do them."""

import hashlib
import re
import xml.etree.ElementTree

from conftest import PICTURES, SCRATCH, lock_row, row
from playwright.sync_api import expect

SVG = "{http://www.w3.org/2000/svg}"


def status(page):
    return page.get_by_role("status")


def test_one_request_wins_the_race_and_the_picture_is_one_file(server, open_page):
    product, name = server.product(stock=10, name="Canvas sneakers")
    page = open_page(server.url)
    page.get_by_label("Product", exact=True).select_option(str(product))
    page.get_by_role("button", name="Send 5 requests").click()

    expect(status(page)).to_have_text(re.compile(r"Request \d won\. 4 were refused"))
    expect(page.locator("#race-chart .won")).to_have_count(1)
    expect(page.locator("#race-chart .lost")).to_have_count(4)
    expect(row(page, product).locator(".stock")).to_have_text("9")
    # The server of each request, from the stream.
    page.get_by_text("Numbers").click()
    expect(page.locator("#race-rows .server", has_text=re.compile("[0-9a-f]{8}"))).to_have_count(5)

    with page.expect_download() as saved:
        page.get_by_role("button", name="Save this race").click()
    picture = PICTURES / "race.svg"
    saved.value.save_as(picture)
    root = xml.etree.ElementTree.parse(picture).getroot()
    assert name in root.find(f"{SVG}title").text
    text = picture.read_text()
    assert not re.search(r"href|@import|<script|url\((?!#)", text), text


def test_a_race_of_fifty_has_fifty_bars(server, open_page):
    product, _ = server.product(stock=10)
    page = open_page(server.url)
    page.get_by_label("Product", exact=True).select_option(str(product))
    page.locator("#race-count").fill("50")
    page.get_by_role("button", name="Send 50 requests").click()
    expect(page.locator("#race-chart .won")).to_have_count(1)
    expect(page.locator("#race-chart .lost")).to_have_count(49)
    # Also if the events are too many to be reported one by one.
    episode = page.locator("#episode-rows tr", has_text=f"product-update-lock-{product}")
    expect(episode).to_have_count(1)
    expect(episode.locator(".refused")).to_have_text("49")


def test_a_race_over_two_servers_names_both(one_of_two, open_page):
    one, other = one_of_two
    product, _ = one.product(stock=10)
    page = open_page(one.url)
    page.get_by_label("Product", exact=True).select_option(str(product))
    # By keyboard.
    page.get_by_label("Servers").focus()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_label("Servers")).to_have_value("all")
    sent = []
    page.on("request", lambda request: sent.append((request.method, request.url.partition("?")[0])))
    page.get_by_role("button", name="Send 5 requests").click()

    name = other.url.removeprefix("http://").removesuffix("/")
    outcome = page.locator("#race-chart .outcome")
    won = rf"Request \d won at (this server|{re.escape(name)})\. 4 were refused, each within .*"
    expect(outcome).to_have_text(re.compile(won))
    expect(page.locator("#race-chart .server")).to_have_text(["This server", name])
    expect(page.locator("#race-chart .won")).to_have_count(1)
    expect(page.locator("#race-chart .lost")).to_have_count(4)
    patches = [url for method, url in sent if method == "PATCH"]
    assert patches.count(f"{one.url}api/products/{product}/") == 3, patches
    assert patches.count(f"{one.url}board/replicas/0/products/{product}/") == 2, patches
    expect(row(page, product).locator(".stock")).to_have_text("9")

    page.get_by_text("Numbers").click()
    servers = page.locator("#race-rows .server")
    expect(servers).to_have_text([re.compile(f"^{it}") for it in servers_in_turn(name, 5)])
    page.screenshot(path=PICTURES / "race-of-two-servers.png")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save this race").click()
    picture = PICTURES / "race-of-two-servers.svg"
    saved.value.save_as(picture)
    root = xml.etree.ElementTree.parse(picture).getroot()
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "This server" in texts and name in texts, texts


def servers_in_turn(name, count):
    return [re.escape(name) if n % 2 else "This server" for n in range(count)]


def test_a_server_of_the_race_that_is_down_has_a_reason(one_of_two, open_page):
    one, other = one_of_two
    product, _ = one.product(stock=10)
    page = open_page(f"{one.url}?lang=ko")
    other.stop()
    page.locator("#race-product").select_option(str(product))
    page.locator("#race-servers").select_option("서버 2대 모두")
    page.get_by_role("button", name="요청 5개 보내기").click()
    outcome = page.locator("#race-chart .outcome")
    expect(outcome).to_have_text(re.compile("이 서버에서 이겼습니다. .*2개는 실패했습니다."))
    expect(page.locator("#race-chart .failed")).to_have_count(2)
    page.get_by_text("숫자로 보기").click()
    reason = page.locator("#race-rows tr", has_text="502: 다른 서버에 연결할 수 없습니다.")
    expect(reason).to_have_count(2)


def test_without_other_servers_there_is_no_choice(server, open_page):
    page = open_page(server.url)
    expect(page.get_by_label("Requests")).to_be_visible()
    expect(page.get_by_label("Servers")).to_have_count(0)


def test_buy_hold_confirm_and_cancel(server, open_page):
    product, name = server.product(stock=10)
    page = open_page(server.url)
    cells = row(page, product)
    cells.get_by_role("button", name="Buy").click()
    expect(status(page)).to_have_text(f"Bought 1 × {name}: 9 left.")
    expect(cells.locator(".stock")).to_have_text("9")

    cells.get_by_role("button", name="Hold").click()
    expect(cells.locator(".held")).to_have_text("1")
    expect(cells.locator(".available")).to_have_text("8")
    page.get_by_role("button", name=f"Confirm 1 × {name}").click()
    expect(status(page)).to_have_text(f"Bought 1 × {name}.")
    expect(cells.locator(".stock")).to_have_text("8")

    cells.get_by_role("button", name="Hold").click()
    page.get_by_role("button", name=f"Cancel 1 × {name}").click()
    expect(cells.locator(".held")).to_have_text("0")
    expect(page.locator("#holds")).to_be_hidden()


def test_a_sold_out_product_has_a_reason(server, open_page):
    product, _ = server.product(stock=0)
    page = open_page(server.url)
    row(page, product).get_by_role("button", name="Buy").click()
    expect(status(page)).to_contain_text("409")


def test_a_change_by_hand_is_in_the_ledger_and_the_curve(server, open_page):
    product, _ = server.product(stock=10)
    page = open_page(f"{server.url}products/{product}/")
    expect(page.locator("#curve")).to_have_attribute("aria-label", re.compile("1 entries"))
    page.get_by_label("Stock", exact=True).fill("4")
    page.get_by_role("button", name="PATCH").click()

    expect(status(page)).to_have_text("Version 2 is written.")
    newest = page.locator("#entry-rows tr").first
    expect(newest.locator(".delta")).to_have_text("−6")
    expect(page.locator("#figures .stock")).to_have_text("4")
    expect(page.locator("#curve")).to_have_attribute("aria-label", re.compile("from 10 to 4"))

    # Kept after the change.
    page.get_by_label("Stock", exact=True).fill("3")
    page.get_by_role("button", name="PATCH").click()
    expect(status(page)).to_contain_text("429")


def test_a_forced_release_shows_the_holder_and_asks(server, open_page):
    product, _ = server.product()
    assert server.call("PATCH", f"api/products/{product}/", {"stock": 1})[0] == 200
    assert server.call("PATCH", f"api/products/{product}/", {"stock": 2})[0] == 429
    page = open_page(f"{server.url}?lock=product-update-lock-{product}")
    release = lock_row(page, product).get_by_role("button", name="Release")

    release.click()
    expect(page.locator("#release-facts")).to_contain_text(f"product-update-lock-{product}")
    expect(page.locator("#release-facts")).to_contain_text("Fence")
    page.get_by_role("button", name="Cancel").click()
    expect(lock_row(page, product).locator(".state")).to_have_text("kept")

    release.click()
    page.locator("#release-dialog").get_by_role("button", name="Release").click()
    expect(status(page)).to_have_text(f"product-update-lock-{product} is released.")
    expect(lock_row(page, product).locator(".state")).to_have_text("free")
    assert server.call("PATCH", f"api/products/{product}/", {"stock": 2})[0] == 200


def test_a_page_without_a_key_that_may_write_is_read_only(start, open_page):
    keys = SCRATCH / "board-keys"
    digest = lambda secret: hashlib.sha256(secret.encode()).hexdigest()
    scopes = {"reader": "read", "writer": "write"}
    keys.write_text("".join(f"{it} {scope} sha256:{digest(it)}\n" for it, scope in scopes.items()))
    keys.chmod(0o600)
    server = start("--api-key-file", str(keys), "--no-samples")
    product, name = server.product(key="writer")
    # What the browser asks for before it shows the page.
    credentials = {"username": "", "password": "reader"}
    page = open_page(server.url, http_credentials=credentials)
    buy = row(page, product).get_by_role("button", name="Buy")
    expect(page.get_by_role("button", name="Read-only")).to_be_visible()

    buy.click()
    page.get_by_label("Secret").fill("reader")
    page.get_by_role("button", name="Use this key").click()
    expect(status(page)).to_contain_text("stays read-only")
    expect(row(page, product).locator(".stock")).to_have_text("10")

    buy.click()
    page.get_by_label("Secret").fill("writer")
    page.keyboard.press("Enter")
    expect(status(page)).to_have_text(f"Bought 1 × {name}: 9 left.")
    # In this tab only, and in no address.
    assert page.evaluate("sessionStorage.getItem('lockstock-key')") == "writer"
    assert page.evaluate("localStorage.length") == 0
    assert "writer" not in page.url
    entries = server.call("GET", f"api/products/{product}/ledger/", key="reader")[1]["results"]
    assert entries[-1]["caller"] == "writer"
