#!/usr/bin/env python3
"""Writes the bill of materials of a binary: CycloneDX, with the crates that are linked into it.

maturin can write one, but with the crates of every platform and the paths of this machine.

Usage: bill_of_materials.py CRATE OUTPUT [--features FEATURES]
"""

import argparse
import json
import pathlib
import re

from linked_crates import MANIFEST, Crate, linked_crates

CHECKSUM = re.compile(r'name = "(.+)"\nversion = "(.+)"\nsource = .+\nchecksum = "(.+)"')


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("crate")
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--features", default="")
    options = parser.parse_args()
    lock = MANIFEST.with_name("Cargo.lock").read_text()
    checksums = {(name, version): checksum for name, version, checksum in CHECKSUM.findall(lock)}
    crates = linked_crates(options.crate, options.features)
    (own,) = (crate for crate in crates if crate.name == options.crate)
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": component("application", own, {})},
        "components": [component("library", each, checksums) for each in crates if each != own],
    }
    options.output.write_text(json.dumps(document, indent=1) + "\n")
    print(f"{options.output}: {len(document['components'])} components")


def component(kind: str, crate: Crate, checksums: dict[tuple[str, str], str]) -> dict[str, object]:
    url = f"pkg:cargo/{crate.name}@{crate.version}"
    found = {
        "type": kind,
        "bom-ref": url,
        "name": crate.name,
        "version": crate.version,
        "licenses": [{"expression": crate.licence}],
        "purl": url,
    }
    checksum = checksums.get((crate.name, crate.version))
    if checksum:
        found["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return found


if __name__ == "__main__":
    main()
