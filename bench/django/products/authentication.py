"""API keys, as DRF's own TokenAuthentication with the keys in the settings.

The keyword is the one that OpenAPI and OAuth know. A safe method needs a key, any other method one
whose scope is write.
"""

from django.conf import settings
from django.utils.translation import gettext_lazy as _
from rest_framework.authentication import TokenAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import SAFE_METHODS, BasePermission


class KeyAuthentication(TokenAuthentication):
    keyword = "Bearer"

    def authenticate_credentials(self, key):
        scope = settings.API_KEYS.get(key)
        if scope is None:
            raise AuthenticationFailed(_("Invalid token."))
        return (None, scope)


class HasScope(BasePermission):
    def has_permission(self, request, view):
        if request.auth is None:
            return False
        return request.method in SAFE_METHODS or request.auth == "write"
