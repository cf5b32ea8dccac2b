"""Every setting is read by the program: section and field, not only a word that looks like it."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

from configs.load import settings
from configs.schema import Config

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("prune_utils", "tasks", "models", "dataloaders", "training", "workflow")
SECTIONS = {section: type(getattr(Config(), section)).__name__ for section, _, _ in settings()}
CLASSES = {name: section for section, name in SECTIONS.items()}


def sections_in(node: ast.AST) -> set[str]:
    """The sections that an expression takes from a configuration: {"optim"} for `config.optim`."""
    found = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)} & set(SECTIONS)
    inner = {
        part.value.attr
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Attribute)
    }
    return found - inner  # `config.optim.lr` is a number and no section


def handed_over(trees: list[ast.Module]) -> dict[tuple[str, str], set[str]]:
    """(function, parameter) -> the sections that some call passes there by position."""
    parameters = {
        node.name: [one.arg for one in node.args.args if one.arg != "self"]
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    given: dict[tuple[str, str], set[str]] = defaultdict(set)
    for tree in trees:
        for call in ast.walk(tree):
            if isinstance(call, ast.Call):
                name = getattr(call.func, "attr", getattr(call.func, "id", ""))
                for parameter, value in zip(parameters.get(name, ()), call.args, strict=False):
                    if isinstance(value, ast.Attribute) and value.attr in SECTIONS:
                        given[name, parameter].add(value.attr)
    return given


def reads(sources: list[str]) -> set[tuple[str, str]]:
    """(section, field) of every setting that the sources read."""
    trees = [ast.parse(source) for source in sources]
    given, found = handed_over(trees), set()
    for tree in trees:
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef | ast.Module):
                continue
            names: dict[str, set[str]] = defaultdict(set)
            if isinstance(function, ast.FunctionDef):
                for one in function.args.args + function.args.kwonlyargs:
                    names[one.arg] |= given.get((function.name, one.arg), set())
                    if isinstance(one.annotation, ast.Name) and one.annotation.id in CLASSES:
                        names[one.arg].add(CLASSES[one.annotation.id])
                    if one.annotation is None and one.arg in SECTIONS:
                        names[one.arg].add(one.arg)
            for node in ast.walk(function):
                if isinstance(node, ast.Assign):
                    for target in node.targets:
                        pairs = (
                            zip(target.elts, node.value.elts, strict=False)
                            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                            else [(target, node.value)]
                        )
                        for left, right in pairs:
                            if isinstance(left, ast.Name):
                                names[left.id] |= sections_in(right)
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr":
                    owner, field = node.args[:2]
                    if isinstance(owner, ast.Name) and isinstance(field, ast.Constant):
                        found |= {(section, field.value) for section in names[owner.id]}
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    if isinstance(node.value, ast.Attribute) and node.value.attr in SECTIONS:
                        found.add((node.value.attr, node.attr))
                    elif isinstance(node.value, ast.Name):
                        found |= {(section, node.attr) for section in names[node.value.id]}
    return found


def program() -> list[str]:
    files = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    return [path.read_text(encoding="utf-8") for path in files]


def test_every_setting_is_read():
    known = {(section, field) for section, field, _ in settings()}
    assert not known - reads(program())


def test_a_setting_that_nothing_reads_is_seen():
    found = reads(program())
    assert ("run", "seed") in found and ("optim", "seed") not in found
    assert ("data", "batch_size") in found and ("dynamic", "batch_size") not in found


def test_reads_are_told_by_section():
    source = """
def plan(config, kind, run: Run):
    length = {"full": config.optim, "finetune": config.finetune}[kind]
    config.dynamic.until = 3
    return length.iterations, run.seed, use(config.prune), config.model.width

def use(chosen):
    return chosen.ratio, other.scope, getattr(chosen, "voters", None)
"""
    assert reads([source]) == {
        ("optim", "iterations"),
        ("finetune", "iterations"),
        ("run", "seed"),
        ("prune", "ratio"),
        ("prune", "voters"),
        ("model", "width"),
    }
