"""Source distributions from PyPI: the tests of other projects, which are not part of this one."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

__all__ = ["WORK", "unpacked"]

# Removed by `cargo clean`, like everything else that is built.
WORK = Path(__file__).resolve().parents[3] / "target" / "python"


def unpacked(project: str) -> Path:
    """Returns the folder of the sources of a project, in the version that is installed here.

    They are downloaded once.
    """
    version = importlib.metadata.version(project)
    folder = WORK / "sdists" / f"{project}-{version}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as part:
            archive = _downloaded(f"{project}=={version}", Path(part))
            with tarfile.open(archive) as tar:
                top = tar.getnames()[0].split("/")[0]
                tar.extractall(part, filter="data")
            # Last, so that an interrupted download is repeated.
            (Path(part) / top).rename(folder)
    return folder


def _downloaded(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*command, "--dest", str(folder), requirement], check=True)
    return next(folder.glob("*.tar.gz"))
