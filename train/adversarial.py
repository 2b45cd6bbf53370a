"""Adversarial training: a critic learns to tell restored images from sharp ones, and the network learns to please it.

The default is DeblurGAN's (Kupyn et al., CVPR 2018): a PatchGAN critic under the Wasserstein distance with gradient penalty (WGAN-GP,
Gulrajani et al., NeurIPS 2017). The alternatives are cross-entropy (Goodfellow et al., 2014; the form that does not saturate) and
squared error (LSGAN, Mao et al., ICCV 2017).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from models.deblurgan.critic import ArticlePatchGAN, PatchGAN
from train.config_losses import Adversarial


class PatchAdversary:
    """A critic of patches, its loss and the network's adversarial term; a ``train.adversary.Adversary``.

    Images are in [0, 1] here; the critic is given them in [-1, 1].

    Args:
        config: kind, weights and size.
    """

    def __init__(self, config: Adversarial) -> None:
        self.config = config
        wide = config.critic == "article"
        self.critic: nn.Module = ArticlePatchGAN(config.channels) if wide else PatchGAN(config.channels, config.layers)
        self.steps, self.lr, self.betas = config.steps, config.lr, config.betas

    def loss(self, network: nn.Module, lq: Tensor, gt: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The critic's loss on a batch, float32 [N, 3, H, W] in [0, 1], and its parts; the network gets no gradient."""
        with torch.no_grad():
            fake = _signed(network(lq))
        real = _signed(gt)
        of_fake, of_real = self.critic(fake), self.critic(real)
        if self.config.kind == "gan":
            return 0.5 * (F.softplus(of_fake).mean() + F.softplus(-of_real).mean()), {}
        if self.config.kind == "lsgan":
            return 0.5 * (of_fake.square().mean() + (of_real - 1).square().mean()), {}
        distance = of_real.mean() - of_fake.mean()
        penalty = gradient_penalty(self.critic, real, fake, self.config.penalty_over)
        return self.config.penalty * penalty - distance, {"distance": distance, "penalty": penalty}

    def network_term(self, output: Tensor) -> Tensor:
        """The adversarial term of the network's loss on its ``output``, [N, 3, H, W] in [0, 1]; the critic gets no gradient."""
        weights = {name: parameter.detach() for name, parameter in self.critic.named_parameters()}
        scores: Tensor = functional_call(self.critic, weights, (_signed(output),))
        if self.config.kind == "gan":
            return F.softplus(-scores).mean()
        if self.config.kind == "lsgan":
            return (scores - 1).square().mean()
        return -scores.mean()


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, over: str = "pixel") -> Tensor:
    """Mean of (|gradient of the critic| - 1)² at random points between sharp and restored images.

    Args:
        critic: its scores of all patches are summed before they are differentiated.
        real: sharp images in the critic's own range, [N, 3, H, W].
        fake: restored ones, alike.
        over: "pixel" takes the norm over the colours of each pixel and one random point per batch, as DeblurGAN's code does; "image"
            takes it over each whole image and one point per image, as in the WGAN-GP paper.
    """
    points = torch.rand(1 if over == "pixel" else len(real), 1, 1, 1, device=real.device, dtype=real.dtype)
    between = (points * real + (1 - points) * fake).detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    norm = torch.linalg.vector_norm(gradient, dim=1 if over == "pixel" else (1, 2, 3))
    error: Tensor = (norm - 1).square().mean()
    return error


def _signed(image: Tensor) -> Tensor:
    return 2 * image - 1
