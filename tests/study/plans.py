"""A small study for tests."""

from study.plan import Study, parse_methods


def study(dest, methods="snip,rigl", ratios=(90.0,), seeds=(0, 1)):
    return Study(
        "nyuv2", dest, tuple(parse_methods(methods)), ratios, seeds, ("--device", "cpu"), ("--lr", "1")
    )
