"""The wheel in an environment that has nothing but Django: no compiler, no cargo, no index."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

import lockstock

_REPOSITORY = Path(__file__).resolve().parents[2]
_WHEELS = _REPOSITORY / "target" / "wheels" / "debug"
_PROGRAM = """
import sys
from django.conf import settings
BACKEND = "lockstock.django.cache.RedisCache"
settings.configure(CACHES={"default": {"BACKEND": BACKEND, "LOCATION": sys.argv[1]}})
from django.core.cache import cache
cache.set("product", {"stock": 3}, timeout=60)
with cache.lock("product-42", timeout=3, blocking_timeout=1) as lock:
    print(cache.get("product"), lock.locked())
print(lock.locked())
"""


@pytest.fixture(scope="session")
def wheel() -> Path:
    """The wheel that the other tests use too: it has been installed from there."""
    (found,) = _WHEELS.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def django_wheels() -> Path:
    """A folder with the wheels of Django and of its dependencies, downloaded once."""
    requirement = f"Django=={importlib.metadata.version('Django')}"
    # What Django requires depends on the Python.
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = _REPOSITORY / "target" / "python" / "wheels" / f"{requirement}-python{python}"
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.{os.getpid()}")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input"]
        command += ["--disable-pip-version-check", "--only-binary", ":all:"]
        subprocess.run([*command, "--dest", str(part), requirement], check=True)
        # Last, so that an interrupted download is repeated.
        part.rename(folder)
    return folder


def finished(command: Sequence[str], folder: Path) -> str:
    """Runs a command without any program on its PATH. Returns its output."""
    empty = folder / "empty"
    empty.mkdir(exist_ok=True)
    done = subprocess.run(
        command,
        cwd=folder,
        env={"PATH": str(empty), "HOME": str(folder), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_wheel_and_django_are_all_that_a_project_needs(
    wheel: Path, django_wheels: Path, redis_url: str, tmp_path: Path
) -> None:
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = str(environment / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--isolated", "--python", python]
    install = [*pip, "install", "--quiet", "--no-compile", "--no-index"]
    install += ["--find-links", str(wheel.parent), "--find-links", str(django_wheels)]
    finished([*install, "lockstock[django]"], tmp_path)
    assert "No broken requirements" in finished([*pip, "check"], tmp_path)

    output = finished([python, "-c", _PROGRAM, redis_url], tmp_path)

    assert output.splitlines() == ["{'stock': 3} True", "False"]
    listed = finished([*pip, "list", "--format", "freeze"], tmp_path)
    names = {line.partition("==")[0].lower() for line in listed.splitlines()}
    assert names - {"typing_extensions"} == {"asgiref", "django", "lockstock", "sqlparse"}


def test_an_import_starts_no_thread_and_loads_no_large_module() -> None:
    program = "import lockstock, os, sys; print(len(os.listdir('/proc/self/task')), *sys.modules)"
    # -S: no module that the environment imports by itself.
    folder = str(Path(lockstock.__file__).parents[1])
    command = [sys.executable, "-S", "-c", program]
    output = subprocess.run(
        command, env={"PYTHONPATH": folder}, check=True, capture_output=True, text=True
    ).stdout
    threads, *modules = output.split()
    assert threads == "1"
    large = {"asyncio", "collections", "dataclasses", "django", "functools", "json", "pickle"}
    large |= {"redis", "re", "threading", "typing"}
    assert not large & set(modules)


def test_the_wheel_has_the_version_of_the_crates(wheel: Path) -> None:
    manifest = (_REPOSITORY / "Cargo.toml").read_text()
    found = re.search(r'^version = "(.+)"$', manifest, re.MULTILINE)
    assert found
    assert wheel.name.split("-")[1] == importlib.metadata.version("lockstock") == found[1]


def test_the_wheel_has_the_licences_and_the_types(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    names = archive.namelist()
    for file in ("LICENSE-APACHE", "LICENSE-MIT", "LICENSE-THIRD-PARTY"):
        assert any(name.endswith(f".dist-info/licenses/{file}") for name in names), names
    (third_party,) = (name for name in names if name.endswith("/LICENSE-THIRD-PARTY"))
    texts = archive.read(third_party).decode()
    # zstd-sys has the C sources of Zstandard.
    for crate in ("pyo3", "redis", "ring", "rustls", "tokio", "zstd-sys"):
        assert re.search(rf"^{crate} [0-9.]+\S* \(.+\)$", texts, re.MULTILINE), crate
    assert {"lockstock/py.typed", "lockstock/_core.pyi"} <= set(names)
    # Neither tests nor sources of the native module.
    assert not [name for name in names if "tests" in name or name.endswith(".rs")]


def test_the_source_distribution_can_be_built_alone(tmp_path: Path) -> None:
    if not shutil.which("cargo"):
        pytest.skip("no cargo here, and the wheel was built elsewhere")
    build = [sys.executable, "-m", "maturin", "sdist", "--out", str(tmp_path)]
    build += ["--manifest-path", str(_REPOSITORY / "python" / "Cargo.toml")]
    subprocess.run(build, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path, filter="data")
    folder = archive.with_name(archive.name.removesuffix(".tar.gz"))
    # Not --locked: crates that are not in the archive are in its Cargo.lock.
    cargo = ["cargo", "metadata", "--format-version", "1", "--manifest-path"]
    resolved = subprocess.run(
        [*cargo, folder / "python" / "Cargo.toml"], check=True, stdout=subprocess.PIPE
    ).stdout
    packages = {(each["name"], each["version"]) for each in json.loads(resolved)["packages"]}
    assert packages <= locked(_REPOSITORY / "Cargo.lock")
    assert ("lockstock-python", importlib.metadata.version("lockstock")) in packages
    for file in ("LICENSE-APACHE", "LICENSE-MIT", "PKG-INFO", "README.md", "pyproject.toml"):
        assert (folder / file).is_file(), file


def locked(file: Path) -> set[tuple[str, str]]:
    """Reads names and versions from a Cargo.lock."""
    found = re.findall(r'^name = "(.+)"\nversion = "(.+)"$', file.read_text(), re.MULTILINE)
    return set(found)
