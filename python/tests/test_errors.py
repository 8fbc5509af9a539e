"""Errors, and their relation to those of redis-py."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import redis.exceptions as theirs

from lockstock import errors

CLASSES = [
    errors.Error,
    errors.Invalid,
    errors.Unavailable,
    errors.TimedOut,
    errors.ResponseError,
    errors.Malformed,
    errors.LockError,
    errors.LockNotOwnedError,
]


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_is_shown(cls: type[errors.Error]) -> None:
    failure = errors.error(cls, "the reason")
    assert str(failure) == "the reason"
    assert repr(failure) == f"{cls.__name__}('the reason')"


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_is_pickled_and_copied(cls: type[errors.Error]) -> None:
    failure = errors.error(cls, "the reason")
    if isinstance(failure, errors.LockError):
        failure.lock_name = "name"
    for restored in (pickle.loads(pickle.dumps(failure)), copy.copy(failure)):
        assert type(restored) is type(failure)
        assert restored.args == failure.args
        assert vars(restored) == vars(failure)


def test_an_error_of_an_application_is_pickled() -> None:
    restored = pickle.loads(pickle.dumps(Refined("the reason")))
    assert type(restored) is Refined
    assert restored.args == ("the reason",)


class Refined(errors.Unavailable):
    pass


def test_errors_are_caught_as_those_of_redis_py() -> None:
    with pytest.raises(theirs.ConnectionError):
        raise errors.error(errors.Unavailable, "down")
    with pytest.raises(theirs.TimeoutError):
        raise errors.error(errors.TimedOut, "late")
    with pytest.raises(theirs.ResponseError):
        raise errors.error(errors.Malformed, "no integer")
    with pytest.raises(theirs.LockNotOwnedError):
        raise errors.error(errors.LockNotOwnedError, "lost")
    failure = errors.error(errors.Unavailable, "down")
    assert failure.error_type is theirs.ExceptionType.NETWORK


def test_redis_py_is_not_imported_for_an_error() -> None:
    program = (
        "import sys, lockstock.errors as errors\n"
        "failure = errors.error(errors.Unavailable, 'down')\n"
        "assert type(failure) is errors.Unavailable\n"
        "assert 'redis' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
