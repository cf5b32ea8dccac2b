"""The CPU engine against dense runtimes, on saved networks of this program.

    python3 -m benchmarks.engines FILE                   bars for batch 1 and 8, one and two threads
    python3 -m benchmarks.engines FILE FILE FILE ...     also the curve of speed against sparsity

FILE is a saved network (.pth, or .safetensors from export_net.py).
"""

from __future__ import annotations

from prune_utils.deploy.benchmark import main
from workflow import terminal

if __name__ == "__main__":
    about = "benchmarks.engines", str(__doc__)
    terminal.run(lambda: main(loader="workflow.saved:load_network", about=about))
