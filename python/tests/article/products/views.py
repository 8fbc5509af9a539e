"""Products, of which one update is accepted within the lease of a lock."""

from typing import Any

from django.core.cache import cache
from rest_framework import serializers, status, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from .models import Product


class ProductSerializer(serializers.ModelSerializer):
    class Meta:
        model = Product
        fields = ["id", "name", "stock"]


def too_many_requests() -> Response:
    message = {"error": "This product has just been changed. Try again in a moment."}
    return Response(message, status=status.HTTP_429_TOO_MANY_REQUESTS)


class ProductViewSet(viewsets.ModelViewSet):
    """Never releases the lock: it ends after 3 s. Other updates wait for it for a second."""

    queryset = Product.objects.all()
    serializer_class = ProductSerializer

    def update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        name = f"product-update-lock-{self.kwargs['pk']}"
        lock = cache.lock(name, timeout=3, blocking_timeout=1)
        if not lock.acquire(blocking=True):
            return too_many_requests()
        return super().update(request, *args, **kwargs)


class CoolDownViewSet(ProductViewSet):
    """Keeps the lock after a success, and releases it otherwise. Not with django-redis."""

    def update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        name = f"product-cool-down-lock-{self.kwargs['pk']}"
        lock = cache.lock(name, timeout=60, blocking_timeout=20)
        if not lock.acquire():
            return too_many_requests()
        try:
            # Not of the class between, which has a lock of its own.
            response = super(ProductViewSet, self).update(request, *args, **kwargs)
        except Exception:
            lock.release()
            raise
        lock.keep()
        return response
