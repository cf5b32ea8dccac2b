"""From result files to tables and verdicts one can trust. Reads JSON only: no torch, no networks."""

import common as common  # the first of ours that a command imports: it ends here where packages are missing
