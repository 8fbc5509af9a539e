"""How values are compressed: the setting `OPTIONS["COMPRESSOR"]`.

Each compressor leaves short values as they are, and reads values that are not compressed.
"""
