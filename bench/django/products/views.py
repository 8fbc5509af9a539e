"""The usual DRF viewset with a lock in Redis, which allows one update of a product at a time.

Three properties make it a fair reference and a fair peer: errors keep their status, the lock
is released if nothing was written, and with `SHOP_AFTER_UPDATE=release` it is always
released.
"""

from contextlib import contextmanager, suppress

from django.conf import settings
from django.core.cache import cache
from redis.exceptions import LockError
from rest_framework import pagination, renderers, status, viewsets
from rest_framework.exceptions import APIException

from .models import Product
from .serializers import ProductSerializer

NUMBER_LOOKUPS = ["exact", "gt", "gte", "lt", "lte"]


class Pages(pagination.PageNumberPagination):
    page_size = 20
    page_size_query_param = "page_size"
    max_page_size = 100


class ProblemRenderer(renderers.JSONRenderer):
    media_type = "application/problem+json"
    format = "problem"


class Busy(APIException):
    status_code = status.HTTP_429_TOO_MANY_REQUESTS
    default_detail = {"error": "3초에 한 번만 수정할 수 있습니다."}


@contextmanager
def update_lock(pk, keep):
    lock = cache.lock(f"product-update-lock-{pk}", timeout=3, blocking_timeout=1)
    if not lock.acquire():
        raise Busy
    written = False
    try:
        yield
        written = True
    finally:
        if not (written and keep):
            # Fails if the lock has expired.
            with suppress(LockError):
                lock.release()


# No docstring, because DRF publishes it as the description in its response to OPTIONS.
class ProductViewSet(viewsets.ModelViewSet):
    queryset = Product.objects.all()
    serializer_class = ProductSerializer
    pagination_class = Pages
    # With only one renderer DRF would not send `Vary: Accept`.
    renderer_classes = [renderers.JSONRenderer, ProblemRenderer]
    search_fields = ["name", "description"]
    # All fields except the description, which has no useful order.
    ordering_fields = [f for f in ProductSerializer.Meta.fields if f != "description"]
    filterset_fields = {"price": NUMBER_LOOKUPS, "stock": NUMBER_LOOKUPS}

    # Handles PATCH too, because DRF's partial_update calls update.
    def update(self, request, *args, **kwargs):
        with update_lock(self.kwargs["pk"], keep=settings.AFTER_UPDATE == "keep"):
            return super().update(request, *args, **kwargs)

    # Never kept, because no product remains to protect.
    def destroy(self, request, *args, **kwargs):
        with update_lock(self.kwargs["pk"], keep=False):
            return super().destroy(request, *args, **kwargs)

    def finalize_response(self, request, response, *args, **kwargs):
        response = super().finalize_response(request, response, *args, **kwargs)
        # Lists, errors and responses to OPTIONS have no version.
        if isinstance(response.data, dict) and "version" in response.data:
            response["ETag"] = f'"{response.data["version"]}"'
        return response
