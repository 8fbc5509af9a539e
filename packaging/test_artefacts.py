#!/usr/bin/env python3
"""Installs each package of the server into something clean, and runs the race with it.

Usage: test_artefacts.py ARTEFACTS TOOLS [NAME...]
ARTEFACTS has the packages, TOOLS the environment of packaging/requirements.txt. Without a NAME,
runs all tests.
"""

import json
import os
import pathlib
import pty
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable

from served import TIMEOUT_S, Server, output_of

ARTEFACTS = pathlib.Path(sys.argv[1]).resolve()
TOOLS = pathlib.Path(sys.argv[2]).resolve() / "bin"
REPOSITORY = pathlib.Path(__file__).parents[1]
# A new Debian, unpacked for each run.
DEBIAN = REPOSITORY / "target/tools/debian-bookworm.tar"
# What `manylinux2014` promises.
GLIBC = (2, 17)
# dpkg's own notes, and what changes without the package.
OF_DPKG = ("var/lib/dpkg/", "var/log/", "var/cache/", "proc/", "sys/", "dev/", "tmp/", "work/")

NOT_BUILT = "aarch64, musl, macOS, Windows: only x86-64 with glibc is built; the container image"


class NotTested(Exception):
    """A reason why a package cannot be tested here."""


def only(pattern: str) -> pathlib.Path:
    found = list(ARTEFACTS.glob(pattern))
    if not found:
        raise NotTested(f"there is no {pattern}")
    (file,) = found
    return file


def environment(*folders: pathlib.Path | str, **variables: str) -> dict[str, str]:
    """Returns an environment with nothing but a PATH of these folders."""
    return {"PATH": ":".join(map(str, folders)), "LC_ALL": "C.UTF-8"} | variables


def checksums(_: pathlib.Path) -> None:
    output_of(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=ARTEFACTS)
    listed = {line.split()[1] for line in (ARTEFACTS / "SHA256SUMS").read_text().splitlines()}
    assert listed | {"SHA256SUMS"} == {file.name for file in ARTEFACTS.iterdir()}


def binary(folder: pathlib.Path) -> None:
    """Requires no later glibc, names no folder of this machine, and is the same in all packages."""
    archive = zipfile.ZipFile(only("lockstock_server-*.whl"))
    (name,) = (name for name in archive.namelist() if name.endswith("/scripts/lockstock"))
    file = pathlib.Path(archive.extract(name, folder))
    symbols = output_of(["objdump", "-T", file])
    found = re.findall(r"GLIBC_([\d.]+)", symbols)
    latest = max(tuple(map(int, version.split("."))) for version in found)
    assert latest <= GLIBC, latest
    needed = re.findall(r"NEEDED\s+(\S+)", output_of(["objdump", "-p", file]))
    print(f"   glibc {'.'.join(map(str, latest))} or later; needs {' '.join(needed)}")
    content = file.read_bytes()
    for path in (REPOSITORY, pathlib.Path.home() / ".cargo"):
        assert bytes(path) not in content, f"the binary names {path}"
    with tarfile.open(only("lockstock-linux-x64-*.tgz")) as package:
        assert package.extractfile("package/bin/lockstock").read() == content
    output_of(["dpkg-deb", "--extract", only("lockstock_*.deb"), folder])
    assert (folder / "usr/bin/lockstock").read_bytes() == content


def bill_of_materials(_: pathlib.Path) -> None:
    """Valid, and has each crate whose licence is in the packages."""
    file = only("*.cdx.json")
    document = json.loads(file.read_text())
    program = (
        "import sys; from cyclonedx.schema import SchemaVersion as V;"
        "from cyclonedx.validation.json import JsonStrictValidator as Validator;"
        "fault = Validator(V[sys.argv[1]]).validate_str(open(sys.argv[2]).read());"
        "sys.exit(fault and str(fault))"
    )
    version = "V" + document["specVersion"].replace(".", "_")
    output_of([TOOLS / "python", "-c", program, version, file])
    listed = {f"{each['name']} {each['version']}" for each in document["components"]}
    licences = only("LICENSE-THIRD-PARTY").read_text()
    without_text = re.search(r"^Without a text in their sources: (.*)\.$", licences, re.MULTILINE)
    titles = re.findall(r"^(\S+ \d\S+) \(.+\)$", licences, re.MULTILINE)
    titles += re.findall(r"(\S+ \d\S+) \(", without_text[1] if without_text else "")
    missing = set(titles) - listed
    assert titles and not missing, f"in no bill of materials: {sorted(missing)}"
    print(f"   {len(listed)} components, the licences of {len(set(titles))} crates")


def wheel(folder: pathlib.Path) -> None:
    file = only("lockstock_server-*.whl")
    assert file.name.endswith("-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"), file
    venv = folder / "venv"
    output_of([sys.executable, "-m", "venv", venv])
    install = ["-m", "pip", "install", "--quiet", "--no-index", "--disable-pip-version-check"]
    output_of([venv / "bin/python", *install, file])
    for command in ("lockstock", "lockstock-server"):
        with Server([str(venv / "bin" / command)], folder, environment(venv / "bin")):
            pass
    (metadata,) = venv.glob("lib/*/site-packages/lockstock_server-*.dist-info")
    names = {each.name for each in (metadata / "licenses").iterdir()}
    assert names == {"LICENSE-APACHE", "LICENSE-MIT", "LICENSE-THIRD-PARTY"}, names
    materials = metadata / "sboms/lockstock-server.cdx.json"
    assert materials.read_bytes() == only("*.cdx.json").read_bytes()


def pipx(folder: pathlib.Path) -> None:
    own = environment(TOOLS, "/usr/bin", "/bin", HOME=str(folder), PIP_NO_INDEX="1")
    own |= {"PIPX_HOME": str(folder), "PIPX_BIN_DIR": str(folder / "bin")}
    output_of([TOOLS / "pipx", "install", only("lockstock_server-*.whl")], env=own)
    with Server([str(folder / "bin/lockstock-server")], folder, environment(folder / "bin")):
        pass
    output_of([TOOLS / "pipx", "uninstall", "lockstock-server"], env=own)
    assert not list((folder / "bin").iterdir())


def uvx(folder: pathlib.Path) -> None:
    own = environment(TOOLS, "/usr/bin", "/bin", HOME=str(folder), UV_CACHE_DIR=str(folder / "uv"))
    source = ["--offline", "--quiet", "--from", str(only("lockstock_server-*.whl"))]
    with Server([str(TOOLS / "uvx"), *source, "lockstock-server"], folder, own):
        pass


def npm(folder: pathlib.Path) -> None:
    if not shutil.which("npm"):
        raise NotTested("there is no npm here")
    node = pathlib.Path(shutil.which("node")).parent
    own = environment(node, "/usr/bin", "/bin", HOME=str(folder))
    shim, platform = only("lockstock-[0-9]*.tgz"), only("lockstock-linux-x64-*.tgz")
    output_of(["npm", "install", "--offline", shim, platform], cwd=folder, env=own)
    command = folder / "node_modules/.bin/lockstock"
    with Server([str(command)], folder, own):
        pass
    assert ctrl_c([str(command), "--listen", "127.0.0.1:0"], folder, own) == 0
    # npm ends by the signal.
    ctrl_c(["npx", "--offline", "lockstock", "--listen", "127.0.0.1:0"], folder, own)
    # A signal for a group arrives twice under npm: the server gets it once.
    twice = Server([str(command)], folder, own)
    twice.process.send_signal(signal.SIGTERM)
    twice.stop()
    invalid = subprocess.run([command, "--listen", "8000"], env=own, capture_output=True, text=True)
    assert invalid.returncode == 2 and "127.0.0.1:8000" in invalid.stderr, invalid
    killed = Server([str(command)], folder, own)
    (child,) = children(killed.process.pid)
    os.kill(child, signal.SIGKILL)
    assert killed.process.wait(TIMEOUT_S) == -signal.SIGKILL
    mac = "Object.defineProperty(process, 'platform', {value: 'darwin'});"
    elsewhere = f"{mac} require('{command}')"
    refused = subprocess.run(["node", "-e", elsewhere], env=own, capture_output=True, text=True)
    assert refused.returncode == 1 and "no binary for darwin" in refused.stderr, refused
    shutil.rmtree(folder / "node_modules/lockstock-linux-x64")
    missing = subprocess.run([command], env=own, capture_output=True, text=True)
    assert missing.returncode == 1 and "lockstock-linux-x64 is missing" in missing.stderr, missing


def children(process: int) -> list[int]:
    listed = pathlib.Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(child) for child in listed.split()]


def ctrl_c(command: list[str], folder: pathlib.Path, own: dict[str, str]) -> int:
    """Presses Ctrl-C on a terminal. Fails unless the server then finishes its requests."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execvpe(command[0], command, own)
    shown = b""
    while b"race" not in shown:
        shown += os.read(terminal, 4096)
    os.write(terminal, b"\x03")
    try:
        while more := os.read(terminal, 4096):
            shown += more
    except OSError:
        # The terminal has no process any more.
        pass
    _, status = os.waitpid(process, 0)
    assert b"stopped" in shown, shown.decode()
    return os.waitstatus_to_exitcode(status)


def debian(folder: pathlib.Path) -> None:
    package = only("lockstock_*.deb")
    if os.geteuid():
        raise NotTested("a new Debian needs root")
    output_of(["lintian", "--fail-on", "error,warning", "--allow-root", package])
    if not DEBIAN.exists():
        make = ["mmdebstrap", "--quiet", "--variant=essential", "bookworm", DEBIAN]
        if subprocess.run(make).returncode:
            DEBIAN.unlink(missing_ok=True)
            raise NotTested("mmdebstrap cannot make a Debian here")
    root = folder / "root"
    root.mkdir()
    output_of(["tar", "--extract", "--file", DEBIAN, "--directory", root])
    shutil.copy(package, root / "tmp")
    chroot, own = ["chroot", str(root)], environment("/usr/sbin", "/usr/bin", "/sbin", "/bin")
    before = files(root)
    output_of([*chroot, "dpkg", "--install", f"/tmp/{package.name}"], env=own)
    for file in ("man/man1/lockstock-race.1.gz", "bash-completion/completions/lockstock"):
        assert (root / "usr/share" / file).is_file(), file
    configuration = root / "etc/lockstock/lockstock.toml"
    assert configuration.read_bytes() == (REPOSITORY / "deploy/lockstock.toml").read_bytes()
    options = ["--config", "/etc/lockstock/lockstock.toml"]
    options += ["--database", "sqlite:///tmp/shop.sqlite3"]
    with Server([*chroot, "lockstock"], folder, own, options):
        pass
    configuration.write_text("max-requests = 512\n")
    output_of([*chroot, "dpkg", "--install", f"/tmp/{package.name}"], env=own)
    assert configuration.read_text() == "max-requests = 512\n", "an upgrade keeps changes"
    output_of([*chroot, "dpkg", "--remove", "lockstock"], env=own)
    assert configuration.exists(), "only a purge removes the configuration"
    output_of([*chroot, "dpkg", "--purge", "lockstock"], env=own)
    assert files(root) == before, files(root) ^ before


def files(root: pathlib.Path) -> set[str]:
    names = {str(path.relative_to(root)) for path in root.rglob("*")}
    return {name for name in names if not name.startswith(OF_DPKG)}


def main() -> None:
    tests: list[Callable[[pathlib.Path], None]] = [
        checksums,
        binary,
        bill_of_materials,
        wheel,
        pipx,
        uvx,
        npm,
        debian,
    ]
    names = sys.argv[3:] or [test.__name__ for test in tests]
    skipped = []
    for test in (test for test in tests if test.__name__ in names):
        print(f"-- {test.__name__}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            try:
                test(pathlib.Path(folder))
            except NotTested as reason:
                skipped.append(f"{test.__name__}: {reason}")
    for reason in [*skipped, NOT_BUILT]:
        print(f"NOT TESTED: {reason}")


if __name__ == "__main__":
    main()
