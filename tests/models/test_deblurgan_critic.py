import pytest
import torch
import torch.nn.functional as F

from models.deblurgan.critic import ArticlePatchGAN, PatchGAN
from models.deblurgan.norm import InstanceNorm2d
from tests.models.helpers import image, lively

CRITICS = {
    **{f"published-{norm}": lambda norm=norm: PatchGAN(8, norm=norm) for norm in ("instance", "none")},
    **{f"article-{norm}": lambda norm=norm: ArticlePatchGAN(8, norm=norm) for norm in ("instance", "none")},
}
every_critic = pytest.mark.parametrize("critic", CRITICS.values(), ids=list(CRITICS))


def test_published_names_and_shapes():
    network = PatchGAN()
    weights = {0: (64, 3), 2: (128, 64), 5: (256, 128), 8: (512, 256), 11: (1, 512)}
    expected = {f"model.{i}.weight": (*widths, 4, 4) for i, widths in weights.items()}
    expected |= {f"model.{i}.bias": (widths[0],) for i, widths in weights.items()}
    for i, width in ((3, 128), (6, 256), (9, 512)):
        expected |= {f"model.{i}.running_mean": (width,), f"model.{i}.running_var": (width,), f"model.{i}.num_batches_tracked": ()}
    assert {name: tuple(t.shape) for name, t in network.state_dict().items()} == expected
    assert sum(p.numel() for p in network.parameters()) == 2_764_737
    assert PatchGAN(norm="none").state_dict().keys() == {name for name in expected if name.endswith(("weight", "bias"))}


def test_computes_the_published_formula():
    network, x = lively(PatchGAN(4)), 2 * image(48, 40, count=2) - 1
    state = network.state_dict()

    def conv(y, i, stride):
        return F.conv2d(y, state[f"model.{i}.weight"], state[f"model.{i}.bias"], stride=stride, padding=2)

    y = F.leaky_relu(conv(x, 0, 2), 0.2)
    for i, stride in ((2, 2), (5, 2), (8, 1)):
        y = conv(y, i, stride)
        y = (y - y.mean((2, 3), keepdim=True)) / (y.var((2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()
        y = F.leaky_relu(y, 0.2)
    with torch.no_grad():
        torch.testing.assert_close(network(x), conv(y, 11, 1), atol=2e-5, rtol=1e-5)


def test_layers_and_sigmoid():
    x = 2 * image(64, 64) - 1
    five = lively(PatchGAN(4, layers=5))
    assert [m.out_channels for m in five.modules() if isinstance(m, torch.nn.Conv2d)] == [4, 8, 16, 32, 32, 32, 1]
    plain = lively(PatchGAN(4))
    squeezed = PatchGAN(4, sigmoid=True).eval()
    squeezed.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert PatchGAN()(x.expand(1, 3, 64, 64)).shape == (1, 1, 11, 11)
        torch.testing.assert_close(squeezed(x), plain(x).sigmoid())


def test_article_critic():
    network = ArticlePatchGAN()
    convs = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [m.out_channels for m in convs] == [64, 128, 256, 512, 1024, 1]
    assert [m.kernel_size[0] for m in convs] == [7, 4, 4, 4, 3, 1]
    assert sum(isinstance(m, InstanceNorm2d) for m in network.modules()) == 4
    with torch.no_grad():
        assert network(2 * image(64, 96) - 1).shape == (1, 1, 4, 6)


@every_critic
def test_gradient_penalty_reaches_every_weight(critic):
    network, x = lively(critic()).train(), (2 * image(48, 48, count=2) - 1).requires_grad_()
    gradient = torch.autograd.grad(network(x).sum(), x, create_graph=True)[0]
    penalty = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
    penalty.backward()
    assert torch.isfinite(penalty)
    weights = {name: p.grad for name, p in network.named_parameters() if name.endswith("weight")}
    assert all(torch.isfinite(g).all() for g in weights.values())
    assert all(g.abs().max() > 0 for g in weights.values())


@every_critic
def test_penalty_gradient_is_the_slope_of_the_penalty(critic):
    network = lively(critic()).double().train()
    x = (2 * image(32, 32, count=2).double() - 1).requires_grad_()
    weight = next(network.parameters())

    def penalty():
        gradient = torch.autograd.grad(network(x).sum(), x, create_graph=True)[0]
        return (gradient.flatten(1).norm(dim=1) - 1).square().mean()

    slope = torch.autograd.grad(penalty(), weight)[0]
    step = 1e-6 * slope / slope.norm()
    with torch.no_grad():
        weight.add_(step)
    above = penalty().detach()
    with torch.no_grad():
        weight.sub_(2 * step)
    measured = (above - penalty().detach()) / 2e-6
    assert float(measured) == pytest.approx(float(slope.norm()), rel=1e-3)


def test_normalisation_has_second_derivatives():
    norm = InstanceNorm2d(2).double()
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradgradcheck(norm, (x,))
