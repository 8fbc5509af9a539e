#!/usr/bin/env python3
"""Writes the licence texts of the crates that are linked into a crate of this workspace.

Packages have the file beside the licences of this project. Crates with the same text share it.
Needs no network: the texts are in the sources that cargo has downloaded.

Usage: third_party_licenses.py CRATE OUTPUT [--features FEATURES]
"""

import argparse
import pathlib
import re
import sys

from linked_crates import linked_crates

# Files of a crate that have a licence or a notice, also of C sources in a folder below.
NAME = re.compile(r"(^|\.)(licen[sc]e|copying|copyright|notice)", re.IGNORECASE)
# Sources in these folders are not linked.
UNUSED = {"benches", "examples", "tests", "test", "fuzz"}
LINE = "=" * 80


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("crate")
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--features", default="")
    options = parser.parse_args()
    by_text: dict[str, list[str]] = {}
    without = []
    for crate in linked_crates(options.crate, options.features):
        files = licence_files(crate.folder)
        if crate.is_own:
            # Of scripts and styles in the binary, which are in folders of their own.
            for file in files:
                if file.parent != crate.folder:
                    title = f"{crate.name}: {file.relative_to(crate.folder)}"
                    by_text.setdefault(normalized(file), []).append(title)
            continue
        texts = [normalized(file) for file in files]
        title = f"{crate.name} {crate.version} ({crate.licence})"
        if not texts:
            without.append(title)
        for text in texts:
            by_text.setdefault(text, []).append(title)
    if not by_text:
        sys.exit("no licence texts: are the crates downloaded?")
    parts = ["The binary of this package contains these crates, scripts and styles.\n"]
    if without:
        parts.append("Without a text in their sources: " + ", ".join(without) + ".\n")
    for text, titles in sorted(by_text.items(), key=lambda item: item[1]):
        parts.append(f"{LINE}\n" + "\n".join(sorted(set(titles))) + f"\n{LINE}\n\n{text}\n")
    options.output.write_text("\n".join(parts))
    print(f"{options.output}: {len(by_text)} texts; crates without one: {len(without)}")


def licence_files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and NAME.search(path.name)
        and path.suffix not in (".rs", ".html")
        and not UNUSED & set(path.relative_to(folder).parts)
    )


def normalized(file: pathlib.Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(line.rstrip() for line in lines).strip()


if __name__ == "__main__":
    main()
