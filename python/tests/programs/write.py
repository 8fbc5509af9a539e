"""Writes a value to a cache: `write.py URL PREFIX KEY VALUE`."""

from __future__ import annotations

import sys

from caches import cache_at


def main() -> None:
    url, prefix, key, value = sys.argv[1:]
    cache_at(url, prefix).set(key, value)


if __name__ == "__main__":
    main()
