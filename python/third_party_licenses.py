#!/usr/bin/env python3
"""Writes the licence texts of the crates that are linked into the native module.

maturin puts the file into the wheel, beside the licences of this project. Crates with the same text
share it. Needs no network: the texts are in the sources that cargo has downloaded.

Usage: third_party_licenses.py
"""

import json
import pathlib
import re
import subprocess
import sys

FOLDER = pathlib.Path(__file__).parent
OUTPUT = FOLDER / "LICENSE-THIRD-PARTY"
CRATE = "lockstock-python"
# Files of a crate that have a licence or a notice, also of C sources in a folder below.
NAME = re.compile(r"^(licen[sc]e|copying|copyright|notice)", re.IGNORECASE)
# Sources in these folders are not linked.
UNUSED = {"benches", "examples", "tests", "test", "fuzz"}
LINE = "=" * 80


def main() -> None:
    by_text: dict[str, list[str]] = {}
    without = []
    for name, version, folder, expression in linked_crates():
        texts = [normalized(file) for file in licence_files(folder)]
        title = f"{name} {version} ({expression})"
        if not texts:
            without.append(title)
        for text in texts:
            by_text.setdefault(text, []).append(title)
    if not by_text:
        sys.exit("no licence texts: are the crates downloaded?")
    parts = ["The native module of this package contains these crates under these licences.\n"]
    if without:
        parts.append("Without a text in their sources: " + ", ".join(without) + ".\n")
    for text, titles in sorted(by_text.items(), key=lambda item: item[1]):
        parts.append(f"{LINE}\n" + "\n".join(sorted(set(titles))) + f"\n{LINE}\n\n{text}\n")
    OUTPUT.write_text("\n".join(parts))
    print(f"{OUTPUT.name}: {len(by_text)} texts; crates without one: {len(without)}")


def linked_crates() -> list[tuple[str, str, pathlib.Path, str]]:
    """Returns name, version, folder and licence of each crate, except those of this project."""
    # For the machine that builds, without what only the compiler runs.
    tree = cargo("tree", "--package", CRATE, "--edges", "normal,no-proc-macro", "--prefix", "none")
    linked = {tuple(line.split()[:2]) for line in tree.splitlines()}
    packages = json.loads(cargo("metadata", "--format-version", "1"))["packages"]
    return [
        (each["name"], each["version"], pathlib.Path(each["manifest_path"]).parent, each["license"])
        for each in packages
        if each["source"] and (each["name"], f"v{each['version']}") in linked
    ]


def cargo(command: str, *arguments: str) -> str:
    manifest = ["--locked", "--manifest-path", str(FOLDER / "Cargo.toml")]
    done = subprocess.run(
        ["cargo", command, *manifest, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def licence_files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and NAME.match(path.name)
        and path.suffix not in (".rs", ".html")
        and not UNUSED & set(path.relative_to(folder).parts)
    )


def normalized(file: pathlib.Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(line.rstrip() for line in lines).strip()


if __name__ == "__main__":
    main()
