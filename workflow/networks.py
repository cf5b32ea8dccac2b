"""The networks of an experiment: made anew, written to files, read from files of every known form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from configs.load import as_tree
from models.imagenet import IMAGENET, download, trunk_state
from models.multitask import MultiTaskNet
from models.published import from_published, is_published
from training.checkpoint import (
    FORMAT,
    check_fields,
    check_tensors,
    is_own,
    load_state,
    read_file,
    versions,
    write_file,
)


@dataclass(frozen=True)
class Saved:
    """A network read from a file. Own files carry everything; published ones weights and masks only."""

    path: Path
    network: MultiTaskNet
    mask: dict[str, Tensor] | None
    content: dict


class Networks:
    """The part of an Experiment that makes, writes and reads networks; see there for its attributes."""

    def new_network(self) -> MultiTaskNet:
        """A freshly initialised network, the same for the same seed, with the trunk that the settings name.

        ValueError or OSError where the trunk's weights do not fit or cannot be had.
        """
        network, source = self._network(), self.config.model.backbone_weights
        if source:
            if source == IMAGENET:
                with self.fabric.rank_zero_first(local=True):
                    state = download(self.config.model.backbone)
            else:
                state = check_tensors(read_file(Path(source)), source)
            try:
                network.load_state_dict(trunk_state(state, network.state_dict()), strict=False)
            except ValueError as error:
                raise ValueError(f"{source}: {error}") from None
        return network

    def _network(self) -> MultiTaskNet:
        channels = {name: task.channels for name, task in self.tasks.items()}
        model, run = self.config.model, self.config.run
        last = run.channels_last if run.channels_last is not None else self.fabric.device.type == "cpu"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            return MultiTaskNet(channels, model.backbone, model.width, model.branch_after, last)

    def save_network(self, path: Path, network: MultiTaskNet, **fields) -> Path:
        """Write a network of this experiment; fields: mask, certificate, step (None, None, 0)."""
        mask = fields.get("mask")
        content = {
            "format": FORMAT,
            "name": self.name,
            "method": self.method,
            "network": network.description,
            "state": {name: value.detach().cpu() for name, value in network.state_dict().items()},
            "mask": None if mask is None else {name: kept.cpu() for name, kept in mask.items()},
            "certificate": fields.get("certificate"),
            "config": as_tree(self.config),
            "step": fields.get("step", 0),
            "versions": versions(),
        }
        return write_file(path, content)

    def load_network(self, path: Path, content: dict | None = None) -> Saved:
        """A network that fits this experiment, from an own file, a dense state dict or a published one.

        content: of the file, if it was read before. ValueError names what does not fit.
        """
        content = read_file(path) if content is None else content
        network = self._network()
        if is_own(content):
            check_fields(content, path)
            _require_same(network.description, content["network"], path)
            load_state(network, content["state"], path)
            return Saved(path, network, content["mask"], content)
        state = check_tensors(content, path)
        mask = None
        if is_published(state):
            try:
                state, mask = from_published(state, network.state_dict(), network.tasks)
            except ValueError as error:
                raise ValueError(f"{path} does not fit: {error}") from None
        load_state(network, state, path)
        return Saved(path, network, mask, {"certificate": None, "step": None, "config": None})


def _require_same(ours: dict, theirs: dict, path: Path) -> None:
    for field, value in ours.items():
        if theirs.get(field) != value:
            raise ValueError(
                f"{path} holds a network with {field} {theirs.get(field)}, the settings ask for {value}: "
                "give this command the same --config and flags as the one that made the file"
            )
