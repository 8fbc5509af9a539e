"""Several interpreters in one process."""

from __future__ import annotations

from programs import finished


def test_a_second_interpreter_is_refused(redis_url: str) -> None:
    text = finished("subinterpreters", redis_url)
    assert "several interpreters" in text
    assert "WSGIApplicationGroup %{GLOBAL}" in text
