"""The API reference: every public name says what it is, examples are run, pages can be built."""

import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys

import pytest

import prune_utils

# what needs a package that not everybody has is left to its own tests
MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(prune_utils.__path__, "prune_utils.")
    if not name.startswith(("prune_utils.deploy", "prune_utils.integrations"))
]
KINDS = {name: getattr(prune_utils, name) for name in prune_utils.__all__}


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if inspect.isroutine(kind)])
def test_a_function_says_what_it_is_and_raises(name):
    said = inspect.getdoc(KINDS[name])
    assert said
    if "raise ValueError" in inspect.getsource(KINDS[name]):
        assert re.search(r"Raises \w*Error", said)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if inspect.isclass(kind)])
def test_a_class_and_its_public_members_say_what_they_are(name):
    kind = KINDS[name]
    assert kind.__doc__
    assert not kind.__doc__.startswith(f"{name}(")  # a dataclass's own signature says nothing
    for member, of in vars(kind).items():
        if not member.startswith("_") and (inspect.isfunction(of) or isinstance(of, property)):
            assert inspect.getdoc(getattr(kind, member)), f"{name}.{member}"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_what_it_is_and_its_examples_hold(name):
    module = importlib.import_module(name)
    assert module.__doc__
    kept = {registry: dict(getattr(prune_utils, registry)) for registry in ("CRITERIA", "METHODS")}
    try:
        assert doctest.testmod(module).failed == 0
    finally:  # what the examples register is gone again
        for registry, rows in kept.items():
            now = getattr(prune_utils, registry)
            for added in set(now) - set(rows):
                del now[added]


def test_there_are_examples_of_the_main_ones():
    main = "sparsify coverage choose rank_fractions keep_count erk_budget geometric_keeps register"
    for name in main.split():
        assert ">>> " in inspect.getdoc(KINDS[name])


@pytest.mark.slow
def test_the_pages_hold_every_public_name_with_its_text(tmp_path):
    pytest.importorskip("pdoc")
    words = [sys.executable, "-m", "pdoc", "-o", tmp_path, "prune_utils", *MODULES]
    subprocess.run(words, check=True, capture_output=True)
    page = (tmp_path / "prune_utils.html").read_text()
    for name in KINDS:
        assert f'id="{name}"' in page, name
    homes = "".join(path.read_text() for path in (tmp_path / "prune_utils").glob("*.html"))
    for name, kind in KINDS.items():
        if not inspect.isclass(kind) and not inspect.isroutine(kind):  # a table or a type
            assert re.search(rf'id="{name}".{{0,30000}}?class="docstring"', homes, re.DOTALL), name
