#!/usr/bin/env python3
"""Fails if a vendored file differs from its digest in a vendor.toml, or is not listed there.

With --fetch, first gets the files from the npm registry with `npm pack`, and fails if these
differ from the digests.

Usage: vendored_files.py [--fetch]
"""

import hashlib
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import tomllib

LISTS = ["crates/lockstock-shop/web/vendor/vendor.toml"]


def fetch(package: dict, folder: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        name = f"{package['npm']}@{package['version']}"
        subprocess.run(["npm", "pack", "--silent", name], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
        (archive,) = pathlib.Path(scratch).glob("*.tgz")
        with tarfile.open(archive) as files:
            for target, source in package["files"].items():
                content = files.extractfile(f"package/{source['path']}")
                assert content is not None, f"{name} has no {source['path']}"
                (folder / target).write_bytes(content.read())


def check(package: dict, folder: pathlib.Path) -> list[str]:
    problems = []
    for target, source in package["files"].items():
        file = folder / target
        digest = hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else "missing"
        if digest != source["sha256"]:
            problems.append(f"{file}: {digest}, and not {source['sha256']}")
    return problems


def main() -> int:
    problems = []
    for path in map(pathlib.Path, LISTS):
        packages = tomllib.loads(path.read_text())["package"]
        listed = {path.name}
        for package in packages:
            if "--fetch" in sys.argv:
                fetch(package, path.parent)
            problems += check(package, path.parent)
            listed |= set(package["files"])
        others = {file.name for file in path.parent.iterdir()} - listed
        problems += [f"{path.parent / name}: not in {path.name}" for name in sorted(others)]
    print("\n".join(problems) or "vendored files: as listed")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
