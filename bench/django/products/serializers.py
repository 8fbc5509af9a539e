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
        # Without changes the version stays the same, so that caches and `If-Match` stay valid.
        if not validated_data:
            return instance
        instance.version += 1
        return super().update(instance, validated_data)
