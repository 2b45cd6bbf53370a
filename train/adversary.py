"""Adversarial training: what an adversary is, and its critic's side of a step.

Before every optimizer step of the network, the critic makes ``steps`` optimizer steps of its own on the same batch, all of its
accumulated parts. The two sides never meet in a gradient: the critic sees the network's output as a constant, and while the network's
loss is computed the critic's weights take no gradients, so that a term of that loss may simply run the critic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from train.determinism import set_seeds
from train.gradients import average, norm_of
from train.step import lay_out

if TYPE_CHECKING:
    from lightning.fabric import Fabric

Part = tuple[Tensor, Tensor]
"""(lq, gt), float32 [N, 3, H, W] in [0, 1], on the device of the training."""


class Adversary(Protocol):
    """A critic and how it is trained.

    Its plain attributes (numbers, words, tuples of them, pydantic models) are its settings: a checkpoint is continued only where they
    and the critic's shapes agree.
    """

    critic: nn.Module
    """Trained beside the network, in train mode; the loop moves it to the device. Not one of the loss's ``extra_modules``."""
    steps: int
    """Optimizer steps of the critic before each one of the network, at least 1."""
    lr: float
    """The critic's peak learning rate; it follows the shape of the network's schedule."""
    betas: tuple[float, float]
    """Of the critic's Adam."""

    def loss(self, network: nn.Module, lq: Tensor, gt: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """(what the critic minimises, scalars to log as "critic_<name>"), means over the batch.

        Args:
            network: ``network(lq)`` gives the restored images, float32, without gradients, whatever the precision of the training; it
                is computed once per part and remembered for the critic's other steps. Nothing else of the network can be asked for.
            lq: blurred, float32 [N, 3, H, W] in [0, 1].
            gt: sharp, likewise.

        Called in float32, outside of autocast, so that a gradient penalty may differentiate twice.
        """


class Remembered(nn.Module):
    """A network's outputs, computed once per input, without gradients and without touching its running statistics.

    Args:
        network: as it is, in train mode.
        autocast: a context for its forward pass: the precision of the training.
    """

    def __init__(self, network: nn.Module, autocast: Any) -> None:
        super().__init__()
        self._network = (network, autocast)  # in a tuple, else the network would be registered
        self._outputs: dict[int, tuple[Tensor, Tensor]] = {}  # the inputs are kept, so that no other takes over an id

    @torch.no_grad()
    def forward(self, lq: Tensor) -> Tensor:
        """The restored images, float32, shaped like ``lq``."""
        if id(lq) not in self._outputs:
            network, autocast = self._network
            before = [b.clone() for b in network.buffers()]
            with autocast():
                output = network(lq)
            for buffer, value in zip(network.buffers(), before, strict=True):
                buffer.copy_(value)
            self._outputs[id(lq)] = lq, output.float()
        return self._outputs[id(lq)][1]


class CriticTraining:
    """The critic's side of a training.

    In several processes the critic is a plain module: its gradients are averaged by hand after the last accumulated part.
    DistributedDataParallel would do so inside of every backward pass, also the one that a gradient penalty differentiates.

    Args:
        adversary: its critic is moved to the fabric's device and put into train mode, its weights are the first process's.
        fabric: launched.
        layout: memory layout of the critic's weights.
    """

    def __init__(self, adversary: Adversary, fabric: Fabric, layout: torch.memory_format) -> None:
        self.adversary, self.fabric, self.critic = adversary, fabric, adversary.critic
        if fabric.world_size > 1:
            self.critic.load_state_dict(fabric.broadcast({n: t.cpu() for n, t in self.critic.state_dict().items()}))
        lay_out(self.critic.to(fabric.device).train(), layout)
        self.parameters = [p for p in self.critic.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=adversary.lr, betas=adversary.betas, fused=True)

    def step(self, network: nn.Module, parts: Sequence[Part], share: float, seeds: tuple[int, int]) -> dict[str, float]:
        """The critic's optimizer steps before one of the network.

        Args:
            network: what the adversary judges; its weights, gradients and buffers are left as they are.
            parts: all accumulated parts of the batch of this process.
            share: the network's learning rate over its peak; the critic's is the same share of its own.
            seeds: (seed of the training, step): what random numbers follow from, with the process, part and critic's step.

        Returns:
            The scalars, means over parts and critic's steps: critic_loss, critic_norm (of the gradient), critic_<name>.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.adversary.lr * share
        outputs, sums = Remembered(network, self.fabric.autocast), dict[str, float]()
        for step in range(self.adversary.steps):
            for name, value in self._one(outputs, parts, (*seeds, step)).items():
                sums[f"critic_{name}"] = sums.get(f"critic_{name}", 0.0) + value / self.adversary.steps
        return sums

    def _one(self, outputs: nn.Module, parts: Sequence[Part], seeds: tuple[int, int, int]) -> dict[str, float]:
        sums: dict[str, float] = {}
        for part, (lq, gt) in enumerate(parts):
            set_seeds("critic", *seeds, part, self.fabric.global_rank)
            loss, scalars = self.adversary.loss(outputs, lq, gt)
            torch.autograd.backward(loss / len(parts), inputs=self.parameters)
            for name, value in {"loss": loss, **scalars}.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / len(parts)
        average(self.fabric, self.parameters)
        sums["norm"] = float(norm_of(self.parameters))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return sums

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """What is computed inside the block leaves no gradients in the critic."""
        for parameter in self.parameters:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self.parameters:
                parameter.requires_grad_(True)

    def state(self, finished: bool) -> dict[str, Any]:
        """What a checkpoint keeps of the critic."""
        return {"weights": self.critic.state_dict(), "optimizer": None if finished else self.optimizer.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state`` gave."""
        self.critic.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])


def describe(adversary: Adversary) -> str:
    """The adversary's kind, settings and the shapes of its critic, as one line that is the same in every process."""
    names = {*vars(adversary)} if hasattr(adversary, "__dict__") else {*getattr(adversary, "__slots__", ())}
    public = {n for n in names | {"steps", "lr", "betas"} if not n.startswith("_")}
    plain = sorted((n, repr(getattr(adversary, n))) for n in public if _is_plain(getattr(adversary, n)))
    shapes = [(n, tuple(t.shape)) for n, t in adversary.critic.state_dict().items()]
    return f"{type(adversary).__qualname__} {plain} {shapes}"


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(item) for item in value)
    return isinstance(value, (int, float, str, BaseModel))
