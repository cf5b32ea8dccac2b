"""How far the tasks want the same weights: masks, curves, the watershed, files and figures."""

import common as common  # the first of ours that a command imports: it ends here where packages are missing
