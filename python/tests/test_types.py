"""The types of the package: what mypy and stubtest find."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import django.core.cache
import pytest

import lockstock
from lockstock.django import typed
from lockstock.django.cache import RedisCache

_TESTS = Path(__file__).parent


def checked(*arguments: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_stub_describes_the_native_module(tmp_path: Path) -> None:
    checked("mypy.stubtest", "lockstock._core", folder=tmp_path)


def test_the_package_passes_mypy_strict(tmp_path: Path) -> None:
    # Outside site-packages, whose other packages would be checked too.
    shutil.copytree(Path(lockstock.__file__).parent, tmp_path / "lockstock")
    config = tmp_path / "mypy.ini"
    # These have no types.
    config.write_text("[mypy]\n[mypy-msgpack.*,redis.*]\nignore_missing_imports = True\n")
    checked("mypy", "--strict", f"--config-file={config}", "lockstock", folder=tmp_path)


@pytest.mark.parametrize("file", ["shop.py", "views.py"])
def test_a_project_passes_mypy_strict(file: str, tmp_path: Path) -> None:
    # In a folder of its own, so that the installed package with its py.typed is used.
    shutil.copy(_TESTS / "example" / file, tmp_path)
    checked("mypy", "--strict", file, folder=tmp_path)


WRONG = {
    "store": 'import lockstock\n\nlockstock.Store("redis://x").lock("a", timeout="3")\n',
    "cache": 'from lockstock.django.typed import cache\n\ncache.lock("a", timeout="3")\n',
}


@pytest.mark.parametrize("of", WRONG)
def test_wrong_types_are_found(of: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(WRONG[of])
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "wrong.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "arg-type" in done.stdout, done.stdout + done.stderr


def test_the_typed_caches_are_those_of_django() -> None:
    assert typed.cache is django.core.cache.cache
    assert typed.caches is django.core.cache.caches


def test_each_method_of_the_backend_is_documented() -> None:
    own = {name: value for name, value in inspect.getmembers(RedisCache, inspect.isfunction)}
    # The others are Django's.
    own = {name: value for name, value in own.items() if value.__module__.startswith("lockstock.")}
    assert {"get", "aget", "ttl", "attl", "zadd", "lock"} <= set(own)
    assert not [name for name, value in own.items() if name[0] != "_" and not value.__doc__]
