"""The types of the package: what mypy and stubtest find."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import lockstock

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


def test_a_project_passes_mypy_strict(tmp_path: Path) -> None:
    example = _TESTS / "example"
    # In a folder of its own, so that the installed package with its py.typed is used.
    for file in example.iterdir():
        if file.suffix == ".py":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    checked("mypy", "--strict", "shop.py", folder=tmp_path)


def test_wrong_types_are_found(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(
        'import lockstock\n\nlockstock.Store("redis://x").lock("a", timeout="3")\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "wrong.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "arg-type" in done.stdout, done.stdout + done.stderr
