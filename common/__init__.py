"""What every room may use.

It is also the first of ours that a script imports: where packages are missing, as in a system's own Python,
the script ends here with one sentence.
"""

import importlib.util
import sys
from pathlib import Path

NEEDED = ("torch", "torchvision", "lightning_fabric", "numpy", "cv2", "yaml", "tqdm")
ROOT = Path(__file__).resolve().parents[1]


def _missing() -> str:
    """What to do about packages that are not installed; "" where all are, or where no script of ours runs."""
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    script = Path(str(getattr(sys.modules.get("__main__"), "__file__", None) or sys.argv[0])).resolve()
    if not lacking or ROOT not in script.parents:
        return ""
    activate = ROOT / ".venv" / "bin" / "activate"
    way = "" if activate.is_file() else f"`make -C {ROOT} env` makes an environment with it, then "
    return (
        f"error: {sys.executable} has no package {lacking[0]}: {way}`source {activate}`, once in a terminal, "
        "lets python3 be one that has all of them\n"
    )


if said := _missing():
    sys.stderr.write(said)
    sys.exit(2)
