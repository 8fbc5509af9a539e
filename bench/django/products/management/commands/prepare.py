"""Creates the table and fills it: `python manage.py prepare --count 1000`.

What was there is dropped first, and ids start at 1, so that every run starts alike.
"""

from django.core.management.base import BaseCommand
from django.db import connection

from products.models import Product


class Command(BaseCommand):
    help = "Creates an empty product table and loads --count products into it."

    def add_arguments(self, parser):
        parser.add_argument("--count", type=int, default=0)
        parser.add_argument("--stock", type=int, default=1000)

    def handle(self, *, count, stock, **options):
        # One table that is made anew each time needs no history of migrations.
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
