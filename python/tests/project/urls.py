"""The URLs of the project."""

from django.urls import path

from . import views

urlpatterns = [
    path("<int:number>", views.add),
    path("async/<int:number>", views.add_asynchronously),
    path("calls", views.calls),
]
