"""What the server of processes loads first: it is no part of our process group, and ends with us.

Ctrl-C, a closed terminal and batch systems signal every process of a group. The server must outlive that, as
it tells us how our scripts end. While it is still loading libraries it would also outlive us for seconds.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # see man prctl

if hasattr(os, "setsid"):
    os.setsid()
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
