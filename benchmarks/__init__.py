"""How fast the parts are, each beside the obvious way of it. `python3 -m benchmarks.all` repeats a CPU's."""

import common as common  # the first of ours that a command imports: it ends here where packages are missing
