"""The crates that are linked into a crate of this workspace."""

import json
import pathlib
import subprocess
from dataclasses import dataclass

MANIFEST = pathlib.Path(__file__).parents[1] / "Cargo.toml"


@dataclass(frozen=True, order=True)
class Crate:
    name: str
    version: str
    # Of the sources that cargo has downloaded.
    folder: pathlib.Path
    licence: str
    # Of this workspace.
    is_own: bool


def linked_crates(crate: str, features: str) -> list[Crate]:
    """Returns the crate itself and those below it, for the machine that builds."""
    # Without what only the compiler runs.
    edges = ["--edges", "normal,no-proc-macro", "--prefix", "none"]
    tree = cargo("tree", "--package", crate, "--features", features, *edges)
    linked = {tuple(line.split()[:2]) for line in tree.splitlines()}
    packages = json.loads(cargo("metadata", "--format-version", "1"))["packages"]
    crates = [
        Crate(
            package["name"],
            package["version"],
            pathlib.Path(package["manifest_path"]).parent,
            # The older form of an expression.
            package["license"].replace("/", " OR "),
            package["source"] is None,
        )
        for package in packages
        if (package["name"], f"v{package['version']}") in linked
    ]
    return sorted(crates)


def cargo(command: str, *arguments: str) -> str:
    manifest = ["--locked", "--manifest-path", str(MANIFEST)]
    done = subprocess.run(
        ["cargo", command, *manifest, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout
