"""The training job's own part: a small fully connected network on scikit-learn's handwritten digits. No tuning in here.

    data = load_data()
    training = Training(data, DEFAULTS, seed=0)
    training.run_epoch()
    training.accuracy(data.validation)      # a share in [0, 1]

The 1797 images of 8 x 8 pixels are split once and for all, stratified by digit: 50 % to train on, 20 % to choose settings
by (validation), 30 % to judge the chosen settings by (test). A training is a pure function of its settings and its seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

PIXELS: Final = 64
DIGITS: Final = 10
_BRIGHTEST: Final = 16.0
_SPLIT_SEED: Final = 0

_ACTIVATIONS: Final[Mapping[str, type[nn.Module]]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the data."""

    images: Tensor  # (n, 64) float32, in [0, 1]
    labels: Tensor  # (n,) int64, 0 to 9

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Data:
    """The digits, split."""

    train: Part
    validation: Part
    test: Part


def load_data() -> Data:
    """The digits, split the same way each time: 897 to train, 360 to validate, 540 to test."""
    images, labels = load_digits(return_X_y=True)
    images = images / _BRIGHTEST

    def split(images: Any, labels: Any, share: float) -> Any:
        return train_test_split(images, labels, test_size=share, stratify=labels, random_state=_SPLIT_SEED)

    images, test_images, labels, test_labels = split(images, labels, 0.3)
    train_images, val_images, train_labels, val_labels = split(images, labels, 2 / 7)

    def part(images: Any, labels: Any) -> Part:
        return Part(torch.as_tensor(images, dtype=torch.float32), torch.as_tensor(labels, dtype=torch.int64))

    return Data(part(train_images, train_labels), part(val_images, val_labels), part(test_images, test_labels))


class Training:
    """A network in training.

    settings: learning_rate, weight_decay, layers, width, dropout, batch_size, activation (relu, gelu, tanh), optimizer
        (sgd, adam, adamw) and, for sgd, momentum.
    """

    def __init__(self, data: Data, settings: Mapping[str, Any], seed: int) -> None:
        torch.manual_seed(seed)
        self._train = data.train
        self._batch_size = int(settings["batch_size"])
        self._network = _network(settings)
        self._optimizer = _optimizer(self._network, settings)
        self._loss = nn.CrossEntropyLoss()

    def run_epoch(self) -> None:
        """Trains on each training image once, in random order."""
        self._network.train()
        for batch in torch.split(torch.randperm(len(self._train)), self._batch_size):
            self._optimizer.zero_grad()
            loss = self._loss(self._network(self._train.images[batch]), self._train.labels[batch])
            loss.backward()
            self._optimizer.step()

    @torch.no_grad()
    def accuracy(self, part: Part) -> float:
        """The share of images that are read right, in [0, 1]."""
        self._network.eval()
        guesses = self._network(part.images).argmax(dim=1)
        return float((guesses == part.labels).double().mean())


def _network(settings: Mapping[str, Any]) -> nn.Sequential:
    widths = [PIXELS] + [int(settings["width"])] * int(settings["layers"])
    blocks: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        blocks += [nn.Linear(inputs, outputs), _ACTIVATIONS[settings["activation"]](), nn.Dropout(settings["dropout"])]
    return nn.Sequential(*blocks, nn.Linear(widths[-1], DIGITS))


def _optimizer(network: nn.Module, settings: Mapping[str, Any]) -> torch.optim.Optimizer:
    common = {"lr": settings["learning_rate"], "weight_decay": settings["weight_decay"]}
    match settings["optimizer"]:
        case "sgd":
            return torch.optim.SGD(network.parameters(), momentum=settings["momentum"], **common)
        case "adam":
            return torch.optim.Adam(network.parameters(), **common)
        case "adamw":
            return torch.optim.AdamW(network.parameters(), **common)
        case other:
            raise ValueError(f"optimizer {other!r} is not one of sgd, adam, adamw")
