"""Which package may import which: read off the source, not off the running program."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# package -> packages of ours that it may import besides itself
MAY_IMPORT = {
    "prune_utils": set(),
    "common": {"prune_utils"},
    "configs": {"common"},
    "models": {"common"},
    "tasks": {"common"},
    "dataloaders": {"common", "configs", "tasks"},
    "training": {"common", "tasks"},
    "comparison": {"common", "configs", "prune_utils", "workflow"},
    "workflow": {"common", "configs", "dataloaders", "models", "prune_utils", "tasks", "training"},
    "agreement": {"common", "configs", "models", "prune_utils", "training", "workflow"},
    "study": {"common", "comparison", "configs", "prune_utils"},
}
FILES = {package: sorted((ROOT / package).rglob("*.py")) for package in MAY_IMPORT}
# whatever else stands at the top level: scripts, and packages that put the parts together
OURS = {path.stem for path in ROOT.glob("*.py")} | {
    path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))
}


def imported(path):
    """Top-level names that the file imports, anywhere in it; relative imports stay in their package."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                yield node.module.split(".")[0]
            else:
                home = path.parents[node.level - 1].relative_to(ROOT)
                assert home.parts, f"{path} leaves its package by a relative import"


def test_the_rules_cover_real_packages():
    assert set(MAY_IMPORT) <= OURS
    assert all(FILES.values())


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_package_imports_only_what_it_may(package):
    allowed = MAY_IMPORT[package] | {package}
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in FILES[package]
        for name in imported(path)
        if name in OURS - allowed
    }
    assert not wrong


def test_nothing_in_the_product_imports_the_tests():
    files = [path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] in OURS - {"tests"}]
    assert not [path for path in files if "tests" in set(imported(path))]


def modules():
    """Dotted name -> file, of everything of ours but the tests."""
    files = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] in OURS - {"tests"}:
            files[".".join(parts).removesuffix(".__init__")] = path
    return files


def targets(name, path, known):
    """Modules of ours that a module names in its imports, those inside functions included."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            home = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, (home, node.module)))
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                if inner in known:
                    yield inner
                elif base in known:
                    yield base


def circle(graph):
    """Some modules that import each other in a ring; None where there is no ring."""
    done, path = set(), []

    def visit(name):
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return None
        path.append(name)
        found = next(filter(None, map(visit, sorted(graph[name]))), None)
        path.pop()
        done.add(name)
        return found

    return next(filter(None, map(visit, sorted(graph))), None)


def test_a_ring_is_found_and_a_diamond_is_none():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert circle({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) is None


def test_no_modules_import_each_other_not_even_inside_functions():
    known = modules()
    graph = {name: set(targets(name, path, known)) - {name} for name, path in known.items()}
    assert circle(graph) is None


def test_every_room_has_its_wall():
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms - {"tests", "benchmarks", "examples"} == set(MAY_IMPORT)
