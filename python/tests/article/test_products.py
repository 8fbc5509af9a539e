"""Five updates of one product at once: one is accepted."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.conf import settings
from django.db import connection
from django.test import Client

from products.models import Product

RUNS = int(os.environ.get("SHOP_RUNS", "1"))


@pytest.fixture
def product() -> Product:
    return Product.objects.create(name="lamp", stock=10)


def patch(path: str, product: Product, stock: object = None) -> tuple[int, float]:
    """Returns the status of an update, and the seconds that it took."""
    stock = product.stock - 1 if stock is None else stock
    began = time.monotonic()
    try:
        response = Client().patch(
            f"/api/{path}/{product.pk}/",
            {"stock": stock},
            content_type="application/json",
        )
    finally:
        connection.close()
    return response.status_code, time.monotonic() - began


def slowest_loser(replies: list[tuple[int, float]]) -> float:
    return max(seconds for status, seconds in replies if status == 429)


@pytest.mark.parametrize("run", range(RUNS))
@pytest.mark.django_db(transaction=True)
def test_one_of_five_updates_is_accepted(product: Product, run: int) -> None:
    with ThreadPoolExecutor() as executor:
        replies = list(executor.map(patch, ["products"] * 5, [product] * 5))
    assert sorted(status for status, _ in replies) == [200, 429, 429, 429, 429]
    print(f"the slowest loser waited for {slowest_loser(replies) * 1000:.0f} ms")
    product.refresh_from_db()
    assert product.stock == 9


needs_keep = pytest.mark.skipif(
    "django_redis" in settings.CACHES["default"]["BACKEND"],
    reason="django-redis cannot keep a lock",
)


@needs_keep
@pytest.mark.parametrize("run", range(RUNS))
@pytest.mark.django_db(transaction=True)
def test_losers_of_a_kept_lock_do_not_wait(product: Product, run: int) -> None:
    with ThreadPoolExecutor() as executor:
        replies = list(executor.map(patch, ["cool-down/products"] * 5, [product] * 5))
    assert sorted(status for status, _ in replies) == [200, 429, 429, 429, 429]
    print(f"the slowest loser waited for {slowest_loser(replies) * 1000:.0f} ms")
    # Without the cool-down they would wait for 20 s.
    assert slowest_loser(replies) < 5


@needs_keep
@pytest.mark.parametrize("run", range(RUNS))
@pytest.mark.django_db(transaction=True)
def test_a_rejected_update_starts_no_cool_down(product: Product, run: int) -> None:
    statuses = [patch("cool-down/products", product, stock)[0] for stock in ("many", 8, 7)]
    assert statuses == [400, 200, 429]
    product.refresh_from_db()
    assert product.stock == 8
