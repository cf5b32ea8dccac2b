"""python3 FILE SCRIPT WORDS: run a script so that one process and several differ in the order of sums only.

In double precision, where that order decides nothing, and without dropout, which every process draws for
itself.
"""

import runpy
import sys
from pathlib import Path

import torch

from models.aspp import Dropout
from models.multitask import MultiTaskNet


def double(self, image):
    return single(self, image.double())


single = MultiTaskNet.forward
MultiTaskNet.forward = double
Dropout.forward = lambda self, x: x
torch.set_default_dtype(torch.float64)
sys.argv = [str(Path(__file__).parents[1] / sys.argv[1]), *sys.argv[2:]]
runpy.run_path(sys.argv[0], run_name="__main__")
