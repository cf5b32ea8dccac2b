"""States are sums: of batches, and of nothing else until they are added up over processes."""

import subprocess
import sys
from pathlib import Path

import torch

from tasks.metric import Metric

ROOT = Path(__file__).resolve().parents[2]


class Total(Metric):
    """The sum and number of what it was given, and a constant beside them."""

    total: torch.Tensor
    number: torch.Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor(2.0))
        self.add_state("total", torch.zeros(2, dtype=torch.float64))
        self.add_state("number", torch.zeros((), dtype=torch.int64))

    def update(self, values):
        self.total += values
        self.number = self.number + 1

    def compute(self):
        return (self.scale * self.total / self.number).tolist()


def test_states_are_added_to_and_begin_anew():
    metric = Total()
    metric.update(torch.tensor([1.0, 2.0]))
    metric.update(torch.tensor([3.0, 5.0]))
    kept = metric.total
    metric.add_up()  # one process: nothing to add
    assert metric.compute() == [4.0, 7.0]
    assert set(metric.states) == {"total", "number"} and metric.states["total"] is metric.total
    metric.reset()
    assert metric.total.tolist() == [0, 0] and metric.number == 0 and metric.scale == 2
    assert metric.total.dtype == torch.float64 and kept.tolist() == [4, 7]
    assert all(state.is_meta for state in metric.to("meta").states.values())


def test_tasks_and_data_sets_import_neither_torchvision_nor_scipy():
    code = (
        "import sys, dataloaders.check, tasks.sums; from tasks import builder;"
        "[builder(name) for name in ('seg', 'sn', 'depth', 'keypoint', 'edge')];"
        "slow = {'torchmetrics', 'torchvision', 'scipy', 'torch._dynamo'} & set(sys.modules);"
        "sys.exit(str(sorted(slow) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.stderr.strip() == ""
