"""The routes: the same products with two kinds of locks."""

from django.urls import include, path
from rest_framework.routers import DefaultRouter

from products.views import CoolDownViewSet, ProductViewSet

router = DefaultRouter()
router.register("products", ProductViewSet)
router.register("cool-down/products", CoolDownViewSet, basename="cool-down")

urlpatterns = [path("api/", include(router.urls))]
