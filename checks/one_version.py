#!/usr/bin/env python3
"""Checks that all crates and the Python package have one version number.

The Python package has the version of its crate, so pyproject.toml must not have another one.

Usage: one_version.py
"""

import json
import pathlib
import subprocess
import sys

METADATA = ["cargo", "metadata", "--locked", "--no-deps", "--format-version", "1"]
PYPROJECT = pathlib.Path("python/pyproject.toml")


def main() -> None:
    output = subprocess.run(METADATA, check=True, stdout=subprocess.PIPE).stdout
    packages = json.loads(output)["packages"]
    version = packages[0]["version"]
    faults = []
    for package in packages:
        if package["version"] != version:
            faults.append(f"{package['name']} is {package['version']}, not {version}")
        # A dependency on a crate of the workspace, unless it is for tests only.
        for dependency in package["dependencies"]:
            required = dependency["req"]
            if dependency.get("path") and required not in ("*", f"^{version}"):
                faults.append(f"{package['name']} requires {dependency['name']} {required}")
    lines = PYPROJECT.read_text().splitlines()
    if 'dynamic = ["version"]' not in lines or any(line.startswith("version") for line in lines):
        faults.append(f"{PYPROJECT} has a version of its own")
    if faults:
        sys.exit("\n".join(faults))
    print(f"{version}, of {len(packages)} crates and the Python package")


if __name__ == "__main__":
    main()
