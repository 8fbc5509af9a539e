"""Creates and fills the product table: `python manage.py prepare --count 1000`.

An existing table is dropped, and ids start at 1, so that all runs start from the same state.
"""

from django.core.management.base import BaseCommand
from django.db import connection

from products.models import Product


class Command(BaseCommand):
    help = "Creates an empty product table and inserts --count products."

    def add_arguments(self, parser):
        parser.add_argument("--count", type=int, default=0)
        parser.add_argument("--stock", type=int, default=1000)

    def handle(self, *, count, stock, **options):
        # The table is created again each time, so it needs no migrations.
        with connection.cursor() as cursor:
            cursor.execute(f"DROP TABLE IF EXISTS {Product._meta.db_table}")
        with connection.schema_editor() as editor:
            editor.create_model(Product)
        Product.objects.bulk_create(
            (
                Product(name=f"Product {n}", price=100 + n, stock=stock)
                for n in range(1, count + 1)
            ),
            batch_size=1000,
        )
        self.stdout.write(f"{count} products")
