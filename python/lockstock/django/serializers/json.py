"""Values as JSON, with Django's dates, times, decimals and UUIDs as strings."""

from __future__ import annotations

import json
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder

from .base import BaseSerializer

__all__ = ["JSONSerializer"]


class JSONSerializer(BaseSerializer):
    """JSON. Tuples come back as lists."""

    encoder_class: type[json.JSONEncoder] = DjangoJSONEncoder

    def dumps(self, value: Any) -> bytes:
        return json.dumps(value, cls=self.encoder_class).encode()

    def loads(self, value: bytes) -> Any:
        return json.loads(value)
