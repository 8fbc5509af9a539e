"""The cache libraries that `bench cache` measures: how they are built and started."""

import json

from lock_clients import RUST, RUST_TARGET, call, locked_version
from process import Failed
from report import progress
from servers import run

CLIENT = RUST_TARGET / "release/cache-clients"

# The crate of each library.
CRATES = {
    "raw": "redis",
    "cache-aio": "redis",
    "cached": "cached",
    "moka": "moka",
    "quick_cache": "quick_cache",
}


def build():
    progress("cache     building the Rust clients")
    command = ["cargo", "build", "--release", "--locked", "--quiet", "--target-dir", RUST_TARGET]
    command += ["--manifest-path", RUST / "Cargo.toml", "--bin", "cache-clients"]
    call([*command, "--features", "cache"])


def play(*words):
    """Runs all rounds of some libraries. Returns the rounds of each."""
    rounds = {}
    for line in run([CLIENT, *words]).splitlines():
        seen = json.loads(line)
        rounds.setdefault(seen.pop("library"), []).append(seen)
    if not rounds:
        raise Failed("the clients have printed no result")
    return rounds


def versions(libraries):
    """Returns the versions of the crates of these libraries."""
    crates = sorted({CRATES[library] for library in libraries if library in CRATES})
    return {crate: locked_version(crate) for crate in crates}
