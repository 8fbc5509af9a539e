#!/usr/bin/env python3
"""Checks that all crates and packages have one version number.

A Python package has the version of its crate, so pyproject.toml must not have another one.

Usage: one_version.py
"""

import json
import pathlib
import subprocess
import sys

METADATA = ["cargo", "metadata", "--locked", "--no-deps", "--format-version", "1"]
PYPROJECTS = [pathlib.Path("python/pyproject.toml"), pathlib.Path("packaging/server/pyproject.toml")]
NPM = pathlib.Path("packaging/npm")


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
    for file in PYPROJECTS:
        lines = file.read_text().splitlines()
        if 'dynamic = ["version"]' not in lines or any(line.startswith("version") for line in lines):
            faults.append(f"{file} has a version of its own")
    for file in sorted(NPM.glob("*/package.json")):
        package = json.loads(file.read_text())
        named = {package["name"]: package["version"]} | package.get("optionalDependencies", {})
        for name, found in named.items():
            if found != version:
                faults.append(f"{file}: {name} is {found}, not {version}")
    if faults:
        sys.exit("\n".join(faults))
    print(f"{version}, of {len(packages)} crates and all packages")


if __name__ == "__main__":
    main()
