"""The same addresses as Lockstock's."""

from django.urls import include, path
from rest_framework.routers import SimpleRouter

from products.views import ProductViewSet

router = SimpleRouter()
router.register("products", ProductViewSet)

urlpatterns = [path("api/", include(router.urls))]
