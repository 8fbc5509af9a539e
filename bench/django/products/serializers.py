"""A product as JSON."""

from rest_framework import serializers

from .models import Product


class ProductSerializer(serializers.ModelSerializer):
    class Meta:
        model = Product
        fields = [
            "id",
            "name",
            "description",
            "price",
            "stock",
            "version",
            "created_at",
            "updated_at",
        ]

    def update(self, instance, validated_data):
        # Nothing to write is not a new version: caches and `If-Match` go on being right.
        if not validated_data:
            return instance
        instance.version += 1
        return super().update(instance, validated_data)
