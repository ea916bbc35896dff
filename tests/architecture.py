"""What the structure promises, checked on the source itself: `python -m tests.architecture` prints what breaks it.

Imports form no circle and only go down, files and functions stay short, and public functions document their parameters.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("jaxconv", "torch_backend")
# The storeys of the house from the ground up. A module imports from its own room and from rooms below.
ROOMS = (
    "torch_backend", "version", "errors", "storage", "file_errors", "json_files", "checkpoint", "safetensors_header",
    "shard_index", "arguments", "activation", "consumers", "environment", "sources", "readers", "layouts", "families",
    "quantisation", "adapter", "merge", "text", "pictures", "models", "backends", "head", "tokens", "presets", "model",
    "model_warnings", "plan", "distributed", "writer", "bundle", "inspection", "pairs", "scoring", "verification", "upload",
    "conversion", "live", "__init__", "cli", "__main__",
)  # fmt: skip
MAX_FILE, MAX_FUNCTION = 300, 50


@dataclass(frozen=True)
class Module:
    """One source file."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def room(self) -> str:
        """The file or directory of the package that the module lies in."""
        parts = self.name.split(".")
        return parts[0] if parts[0] == "torch_backend" else (parts[1] if len(parts) > 1 else "__init__")


def modules() -> list[Module]:
    """All modules of the packages."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [Module(_name(path), path, ast.parse(path.read_text("utf-8"))) for path in paths]


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(module: Module, names: set[str]) -> Iterator[str]:
    """The modules of the packages that a module imports anywhere in its code."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            targets = [target if target in names else node.module for target in submodules]
        else:
            continue
        yield from (target for target in targets if target in names)


def climbing_imports(found: list[Module]) -> Iterator[str]:
    """Imports that go up, and rooms without a storey."""
    by_name = {module.name: module for module in found}
    for module in found:
        if module.room not in ROOMS:
            yield f"{module.name}: the room {module.room} has no place in ROOMS"
            continue
        for target in imports(module, set(by_name)):
            other = by_name[target].room
            if other in ROOMS and ROOMS.index(other) > ROOMS.index(module.room):
                yield f"{module.name} imports {target}, which is above it"


def circles(found: list[Module]) -> Iterator[str]:
    """Modules that import each other, directly or through others; an import of the own package does not count."""
    names = {module.name for module in found}
    graph = {
        module.name: {target for target in imports(module, names) if not module.name.startswith(f"{target}.")}
        for module in found
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> Iterator[str]:
        if name in path:
            yield " -> ".join((*path[path.index(name) :], name))
        elif name not in done:
            for target in sorted(graph[name]):
                yield from visit(target, (*path, name))
            done.add(name)

    for name in sorted(graph):
        yield from visit(name, ())


def long_files(found: list[Module]) -> Iterator[str]:
    """Files above the limit."""
    for module in found:
        lines = len(module.path.read_text("utf-8").splitlines())
        if lines > MAX_FILE:
            yield f"{module.name} has {lines} lines"


def long_functions(found: list[Module]) -> Iterator[str]:
    """Functions whose body, without signature and docstring, is above the limit."""
    for module in found:
        for function in _functions(module.tree):
            body = function.body[1:] if ast.get_docstring(function) else function.body
            length = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            if length > MAX_FUNCTION:
                yield f"{module.name}.{function.name} has {length} lines"


Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(tree: ast.AST) -> list[Function]:
    return [node for node in ast.walk(tree) if isinstance(node, Function)]


def undocumented(found: list[Module]) -> Iterator[str]:
    """Public functions and methods without a docstring, or with a parameter that it does not name."""
    for module in found:
        if module.room == "cli":  # the help of each option is its documentation
            continue
        scopes: list[ast.AST] = [module.tree, *(node for node in module.tree.body if isinstance(node, ast.ClassDef))]
        for scope in scopes:
            if isinstance(scope, ast.ClassDef) and scope.name.startswith("_"):
                continue
            for function in (node for node in getattr(scope, "body", ()) if isinstance(node, Function)):
                if not function.name.startswith("_"):
                    yield from _undocumented(module.name, function, scope)


def _undocumented(module: str, function: Function, scope: ast.AST) -> Iterator[str]:
    docstring = ast.get_docstring(function)
    where = f"{module}.{scope.name}.{function.name}" if isinstance(scope, ast.ClassDef) else f"{module}.{function.name}"
    if docstring is None:
        yield f"{where} has no docstring"
        return
    arguments = function.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        if argument.arg not in ("self", "cls") and not re.search(rf"\b{argument.arg}\b", docstring):
            yield f"{where} does not document {argument.arg}"


CHECKS = {
    "imports that climb": climbing_imports,
    "circles of imports": circles,
    "long files": long_files,
    "long functions": long_functions,
    "undocumented parameters": undocumented,
}


def main() -> int:
    """Prints every finding; 1 if there is one."""
    source, failed = modules(), False
    for title, check in CHECKS.items():
        findings = list(check(source))
        failed |= bool(findings)
        print(f"{title}: {len(findings) or 'none'}")
        print("".join(f"  {finding}\n" for finding in findings), end="")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
