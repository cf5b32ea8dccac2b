"""How fast the parts are, each beside the obvious way of it. `python3 -m benchmarks.all` repeats all."""
