"""The lock libraries that `bench lock` measures: how each is installed and started.

The clients of all languages follow the protocol in `peers-rust/src/main.rs`. Everything is
installed under `target`.
"""

import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

from process import Failed
from report import progress
from servers import ROOT

RUST, PYTHON, NODE = (ROOT / f"bench/peers-{name}" for name in ("rust", "python", "node"))
# Independent of the environment variables of other builds.
RUST_TARGET, NODE_TARGET = ROOT / "target/peers-rust", ROOT / "target/peers-node"
CLIENT = RUST_TARGET / "release/lock-clients"

# The language of each library. The raw ones are the plain commands without a library.
LANGUAGES = {
    "lockstock": "rust",
    "raw-delete": "rust",
    "raw-script": "rust",
    "rslock": "rust",
    "redis-py": "python",
    "python-redis-lock": "python",
    # The Python package of this repository, which `bench django` installs.
    "lockstock-python": "python",
    "redlock": "node",
    "redis-semaphore": "node",
}


def install(libraries):
    """Installs these libraries. Returns those that cannot be installed, each with the reason."""
    languages = {LANGUAGES[library] for library in libraries}
    if "rust" in languages:
        progress("lock      building the Rust clients")
        build = ["cargo", "build", "--release", "--locked", "--quiet", "--target-dir", RUST_TARGET]
        call([*build, "--manifest-path", RUST / "Cargo.toml"])
    if "python" in languages:
        install_python()
    if "node" in languages and not (shutil.which("node") and shutil.which("npm")):
        why = "node and npm are not installed; on Debian: apt-get install nodejs npm"
        return {library: why for library in libraries if LANGUAGES[library] == "node"}
    if "node" in languages:
        install_node()
    return {}


def install_python():
    """Installs the Python libraries into the environment of this program."""
    wanted = PYTHON / "requirements.txt"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input"]
    pip += ["--disable-pip-version-check", "-r", wanted]
    # The stamp is inside the environment, so that they are removed together.
    once(Path(sys.prefix) / ".peers-python", [wanted], lambda: call(pip))


def install_node():
    NODE_TARGET.mkdir(parents=True, exist_ok=True)
    # The client must be beside its packages for node to find them.
    for file in NODE.iterdir():
        shutil.copy(file, NODE_TARGET)
    npm = ["npm", "ci", "--silent", "--no-audit", "--no-fund", "--no-update-notifier"]
    wanted = [NODE / "package.json", NODE / "package-lock.json"]
    once(NODE_TARGET / ".stamp", wanted, lambda: call(npm, cwd=NODE_TARGET))


def once(stamp, files, action):
    """Runs `action` unless it has run for the same files before."""
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    progress(f"lock      installing {files[0].relative_to(ROOT)}")
    action()
    # Last, so that an interrupted installation runs again.
    stamp.write_text(digest)


def call(command, **more):
    try:
        subprocess.run(
            [str(word) for word in command],
            check=True,
            stdin=subprocess.DEVNULL,
            # Standard output is for the results.
            stdout=sys.stderr,
            **more,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise Failed(f"{command[0]}: {error}") from None


def versions(libraries):
    """Returns the installed version of each library."""
    found = {}
    for library in libraries:
        if LANGUAGES[library] == "python":
            name = {"redis-py": "redis"}.get(library, library)
            found[library] = importlib.metadata.version(name)
        elif LANGUAGES[library] == "node":
            package = NODE_TARGET / "node_modules" / library / "package.json"
            found[library] = json.loads(package.read_text())["version"]
        elif library == "rslock":
            found[library] = locked_version(library)
        elif library.startswith("raw"):
            found["redis-rs"] = locked_version("redis")
    return found


def locked_version(crate):
    lines = (RUST / "Cargo.lock").read_text().splitlines()
    at = lines.index(f'name = "{crate}"')
    return lines[at + 1].split('"')[1]


def command(library, url, lease_ms, process, shape, file):
    """Returns the command of process number `process`."""
    first = process * shape.tasks
    match LANGUAGES[library]:
        case "rust":
            arguments = [CLIENT, "work", library, url, lease_ms, shape.tasks, first, shape.names]
        case "python":
            name = f"lock-bench-{process % shape.names}"
            arguments = [sys.executable, PYTHON / "client.py", library, url, lease_ms, name]
        case "node":
            client = NODE_TARGET / "client.js"
            arguments = ["node", client, library, url, lease_ms, shape.tasks, shape.names]
    return [*arguments, Path(file)]
