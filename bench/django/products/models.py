"""A product and its stock."""

from django.db import models


class Product(models.Model):
    name = models.CharField(max_length=200)
    description = models.TextField(blank=True, default="")
    # In minor units, because a float cannot represent money.
    price = models.PositiveIntegerField()
    stock = models.PositiveIntegerField(default=0)
    # Not editable, so that the serializer makes it read-only.
    version = models.PositiveBigIntegerField(default=1, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["id"]
