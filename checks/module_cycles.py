#!/usr/bin/env python3
"""Fails if source files of a crate depend on each other in a circle, or against the layers.

A file depends on another if it names one of its items: in `use`, or by a path in the code.
An item that is re-exported counts as an item of the file that defines it. These do not count:

- `mod child;`, and a re-export of a child's items by its parent;
- a child that uses items of its parent, because both are one unit. `--strict` counts that too;
- code under `#[cfg(test)]`.

Usage: module_cycles.py [--strict] [ROOT]
"""

import pathlib
import re
import sys

CRATES = [
    "crates/lockstock",
    "crates/lockstock-fork",
    "crates/lockstock-http",
    "crates/lockstock-shop",
]

# The shop's modules from top to bottom. A module uses its own layer and those below.
LAYERS = {
    "lockstock-shop": [
        {"main", "lib"},
        {"cli", "commands", "fuzzing"},
        {"product_file"},
        {"router"},
        {"api", "board"},
        {"http", "openapi"},
        {"state", "settings"},
        {"prometheus"},
        {"access"},
        {"drf"},
        {"error", "etag", "timestamp"},
        {"live"},
        {"storage"},
        {"batch"},
        {
            "etag",
            "failpoint",
            "forwarding",
            "header_list",
            "health",
            "http_client",
            "logging",
            "private_file",
            "replicas",
            "timestamp",
            "traces",
        },
    ]
}

Path = tuple[str, ...]


class Module:
    """A source file: its declarations and the paths that it names."""

    def __init__(self, path: Path, file: pathlib.Path) -> None:
        self.path = path
        self.file = file
        code = without_tests(without_text(file.read_text()))
        self.children = set(re.findall(r"\bmod\s+(\w+)\s*;", code))
        self.imports: list[tuple[Path, str, bool]] = []
        for public, tree in re.findall(r"(\bpub(?:\([^)]*\))?\s+)?\buse\s+([^;]+);", code):
            self.imports += [(path, name, bool(public)) for path, name in flat(tree)]
        code = re.sub(r"\buse\s+[^;]+;", "", code)
        self.paths = {
            tuple(path.split("::"))
            for path in re.findall(r"(?<![\w:])[A-Za-z_]\w*(?:::[A-Za-z_]\w*)+", code)
        }


class Crate:
    """The modules of a crate, by their path."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.name = folder.name
        self.modules: dict[Path, Module] = {}
        source = folder / "src"
        self.load((), source / "lib.rs", source)
        if (source / "main.rs").exists():
            self.modules[("main",)] = Module(("main",), source / "main.rs")

    def load(self, path: Path, file: pathlib.Path, folder: pathlib.Path) -> None:
        module = self.modules[path] = Module(path, file)
        for child in module.children:
            child_file = folder / f"{child}.rs"
            if child_file.exists():
                self.load((*path, child), child_file, folder / child)

    def absolute(self, module: Module, path: Path) -> Path | None:
        """Returns the path from the crate's root; None if it leads to another crate."""
        base = module.path
        first, *rest = path
        if first == "crate":
            return tuple(rest)
        if first == "self":
            return (*base, *rest)
        if first == "super":
            while rest and rest[0] == "super":
                base, rest = base[:-1], rest[1:]
            return (*base[:-1], *rest)
        if first in module.children:
            return (*base, *path)
        return None

    def owner(self, path: Path, seen: frozenset[Path] = frozenset()) -> Path | None:
        """Returns the module that defines the item at `path`; None for a module itself."""
        if path in self.modules or path in seen:
            return None
        depth = next(n for n in range(len(path), -1, -1) if path[:n] in self.modules)
        module, item = self.modules[path[:depth]], path[depth]
        for target, name, _ in module.imports:
            target = self.absolute(module, target)
            if target is None or name not in (item, "*"):
                continue
            if name == "*":
                target = (*target, item)
                if not self.defines(target):
                    continue
            if target in self.modules:
                return self.owner((*target, *path[depth + 1 :]), seen | {path})
            return self.owner(target, seen | {path})
        return module.path

    def defines(self, path: Path) -> bool:
        module = self.modules.get(path[:-1])
        return module is not None and any(name == path[-1] for _, name, _ in module.imports)

    def uses(self, module: Module) -> dict[Path, str]:
        """Returns the modules that `module` depends on, each with one of the names used."""
        found: dict[Path, str] = {}
        named = {name: path for path, name, _ in module.imports}
        paths = list(module.paths)
        for path, name, public in module.imports:
            target = self.absolute(module, path)
            is_child = target is not None and target[: len(module.path)] == module.path
            if not (public and is_child):
                paths.append((*path, "*") if name == "*" else path)
        for path in paths:
            if path[0] in named and path[0] not in module.children:
                path = (*named[path[0]], *path[1:])
            target = self.absolute(module, path)
            owner = self.owner(target) if target else None
            if owner is not None and owner != module.path:
                found.setdefault(owner, "::".join(path))
        return found


def without_text(code: str) -> str:
    """Returns the code without comments and the contents of strings."""
    pattern = r"""//[^\n]*|/\*.*?\*/|r(#*)".*?"\1|"(?:\\.|[^"\\])*"|'(?:\\.[^']*|[^'\\])'"""
    return re.sub(pattern, lambda it: "" if it[0].startswith("/") else '""', code, flags=re.DOTALL)


def without_tests(code: str) -> str:
    """Returns the code without items under `#[cfg(test)]` and the like."""
    attribute = re.compile(r"#\[cfg\((?:all\()?(?:test|shuttle)\b[^\]]*\]")
    while found := attribute.search(code):
        end = depth = 0
        for end in range(found.end(), len(code)):
            depth += {"{": 1, "}": -1}.get(code[end], 0)
            if depth == 0 and code[end] in ";}":
                break
        code = code[: found.start()] + code[end + 1 :]
    return code


def flat(tree: str, prefix: Path = ()) -> list[tuple[Path, str]]:
    """Returns the path and the local name of each import of a `use` tree."""
    tree = " ".join(tree.split())
    head, brace, inner = tree.partition("{")
    if not brace:
        path, _, name = tree.partition(" as ")
        parts = (*prefix, *path.strip().split("::"))
        if parts[-1] == "self" and len(parts) > 1:
            parts = parts[:-1]
        if parts[-1] == "*":
            return [(parts[:-1], "*")]
        return [(parts, name.strip() or parts[-1])]
    prefix = (*prefix, *(part for part in head.strip().split("::") if part))
    found, depth, item = [], 0, ""
    for char in inner[: inner.rindex("}")] + ",":
        depth += {"{": 1, "}": -1}.get(char, 0)
        if char == "," and depth == 0:
            if item.strip():
                found += flat(item, prefix)
            item = ""
        else:
            item += char
    return found


def circles(graph: dict[Path, dict[Path, str]]) -> list[list[Path]]:
    """Returns the strongly connected components of two modules and more (Tarjan)."""
    index: dict[Path, int] = {}
    low: dict[Path, int] = {}
    stack: list[Path] = []
    found = []

    def visit(node: Path) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for node in graph:
        if node not in index:
            visit(node)
    return found


def check(folder: pathlib.Path, strict: bool) -> int:
    crate = Crate(folder)
    graph = {path: crate.uses(module) for path, module in crate.modules.items()}
    if not strict:
        graph = {
            path: {other: name for other, name in uses.items() if path[: len(other)] != other}
            for path, uses in graph.items()
        }
    problems = 0
    for circle in circles(graph):
        problems += 1
        print(f"{crate.name}: {len(circle)} files in a circle")
        for path in circle:
            for other, name in sorted(graph[path].items()):
                if other in circle:
                    print(f"    {shown(path)} -> {shown(other)}  ({name})")
    layers = LAYERS.get(crate.name, [])
    rank = {module: number for number, layer in enumerate(layers) for module in layer}
    for path, uses in graph.items():
        here = rank.get(path[0] if path else "lib", None)
        if layers and here is None:
            problems += 1
            print(f"{crate.name}: {shown(path)} is in no layer: add it to LAYERS in {__file__}")
            continue
        for other, name in sorted(uses.items()):
            if layers and here > rank.get(other[0] if other else "lib", here):
                problems += 1
                print(f"{crate.name}: {shown(path)} uses {shown(other)} of a layer above  ({name})")
    return problems


def shown(path: Path) -> str:
    return "/".join(path) + ".rs" if path else "lib.rs"


if __name__ == "__main__":
    arguments = sys.argv[1:]
    is_strict = "--strict" in arguments
    root = pathlib.Path(next((it for it in arguments if it != "--strict"), "."))
    sys.exit(1 if sum([check(root / crate, is_strict) for crate in CRATES]) else 0)
