"""How values become bytes: the setting `OPTIONS["SERIALIZER"]`."""
