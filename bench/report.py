"""The results of a bench: a table, JSON lines, and the machine that it ran on.

    report = Report("patch")
    report.add("requests", "1/s", 5012.0, {"django": 492.0}, must=ratio(10), aim=ratio(15))
    report.finish(as_json=False)

A ratio is how many times better Lockstock is than the peer: more per second, or fewer ms or MB.
"""

import json
import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import version

from servers import ROOT, postgres_program, run
from shops import LOCKSTOCK

OURS = "lockstock"
# Units of which less is better.
LESS_IS_BETTER = ("ms", "MB", "KiB", "µs")


def progress(text):
    """Prints to standard error, because standard output is for the results."""
    print(text, file=sys.stderr, flush=True)


def common_options(parser, benches):
    """Adds the options that all benches have."""
    parser.add_argument(
        "--idle-timeout",
        type=int,
        default=20,
        help="maximum seconds to wait before each round until the machine is idle (20)",
    )
    parser.add_argument(
        "--only", choices=benches, action="append", help="run only this bench; may be repeated"
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of the table")


@dataclass(frozen=True)
class Bound:
    """A bound that must be met, or an aim."""

    kind: str
    value: float

    def __str__(self):
        if self.kind == "ratio":
            return f"≥ {self.value:g} ×"
        return f"≥ {self.value:g}" if self.kind == "at least" else f"≤ {self.value:g}"

    def met(self, value, ratio):
        if self.kind == "ratio":
            return ratio is not None and ratio >= self.value
        return value >= self.value if self.kind == "at least" else value <= self.value


def ratio(value):
    """At least `value` times better than the peer."""
    return Bound("ratio", value)


def at_most(value):
    """At most `value`, independent of the peer."""
    return Bound("at most", value)


def at_least(value):
    """At least `value`, independent of the peer."""
    return Bound("at least", value)


class Report:
    def __init__(self, bench):
        self.bench = bench
        self.lines = []
        self._notes = []
        self._rows = [("", "", OURS, "peer", "", "ratio", "must", "aim", "")]

    def add(self, metric, unit, ours, peers, *, must=None, aim=None):
        """Adds one metric of Lockstock and of each peer by name. A bound is the same for all
        peers, or a dict of bounds by the names of peers."""
        self._line(OURS, metric, ours, unit, None)
        for peer, value in peers.items():
            better = times_better(ours, value, unit)
            self._line(peer, metric, value, unit, better)
            bounds = [each.get(peer) if isinstance(each, dict) else each for each in (must, aim)]
            self._row(metric, unit, ours, peer, value, better, *bounds)
        if not peers:
            self._row(metric, unit, ours, "", None, None, must, aim)

    def note(self, text):
        """Adds a line below the table."""
        self._notes.append(text)

    def _line(self, peer, metric, value, unit, better):
        line = {"bench": self.bench, "peer": peer, "metric": metric, "value": round(value, 3)}
        line |= {"unit": unit, "ratio": None if better is None else round(better, 3)}
        self.lines.append(line)

    def _row(self, metric, unit, ours, peer, value, better, must, aim):
        verdict = ""
        if must or aim:
            verdict = "met" if not must or must.met(ours, better) else "MISSED"
            if verdict == "met" and aim:
                verdict = "aim met" if aim.met(ours, better) else "met, below aim"
        self._rows.append(
            (
                metric,
                unit,
                figure(ours),
                "" if value is None else figure(value),
                peer,
                "" if better is None else f"{better:.2f} ×",
                str(must or ""),
                str(aim or ""),
                verdict,
            )
        )

    def finish(self, *, as_json=False):
        """Writes target/bench/NAME.jsonl, and prints the results as JSON lines or as a table."""
        folder = ROOT / "target/bench"
        folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(line, ensure_ascii=False) for line in self.lines]
        (folder / f"{self.bench}.jsonl").write_text("".join(f"{line}\n" for line in lines))
        if as_json:
            print("\n".join(lines))
            return
        print()
        print(table(self._rows))
        print("\n".join(["", *self._notes, environment()]))


def times_better(ours, peer, unit):
    above, below = (peer, ours) if unit in LESS_IS_BETTER else (ours, peer)
    return above / below if below else None


def figure(value):
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def table(rows):
    """Aligns words to the left and numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    left = (0, 1, 4, 8)
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if n in left else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def environment():
    """Returns the machine and the versions, without which figures cannot be compared."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    cores = len(os.sched_getaffinity(0))
    machine = f"{cores} cores of {models[0] if models else platform.machine()}, {memory:.0f} GiB"
    redis = os.environ.get("LOCKSTOCK_REDIS_SERVER", "redis-server")
    versions = {
        "lockstock": run([LOCKSTOCK, "--version"]).split()[-1] if LOCKSTOCK.exists() else "none",
        "rustc": run(["rustc", "--version"]).split()[1],
        "python": platform.python_version(),
    }
    for package in ("django", "djangorestframework", "django-redis", "hiredis", "psycopg"):
        versions[package] = version(package)
    versions |= {"redis-py": version("redis"), "gunicorn": version("gunicorn")}
    versions["redis"] = run([redis, "--version"]).split("v=")[1].split()[0]
    versions["postgres"] = run([postgres_program("postgres"), "--version"]).split()[2]
    named = ", ".join(f"{name} {number}" for name, number in versions.items())
    return f"machine: {machine}, Linux {platform.release()}\nversions: {named}"
