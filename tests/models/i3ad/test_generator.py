import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from torch.utils.flop_counter import FlopCounterMode

from riad_anomalib.models.i3ad.discriminator import Discriminator
from riad_anomalib.models.i3ad.generator import Generator


def build(*, attention: bool = True, coarse: bool = True) -> Generator:
    torch.manual_seed(0)
    return Generator(3, 8, attention=attention, coarse=coarse)


@pytest.mark.parametrize("coarse", [True, False])
def test_what_is_removed_is_not_looked_at(coarse: bool) -> None:
    generator = build(coarse=coarse)
    image, removed = torch.rand(2, 3, 32, 48), torch.rand(2, 1, 32, 48) < 0.4
    other = torch.where(removed, torch.nan, image)
    for made, expected in zip(generator(other, removed), generator(image, removed), strict=True):
        assert torch.equal(made, expected)
    # What is visible is, and so is what was removed where.
    assert not torch.equal(generator(1 - image, removed)[-1], generator(image, removed)[-1])
    assert not torch.equal(generator(0 * image, removed)[-1], generator(0 * image, ~removed)[-1])


def test_the_fine_stage_sees_the_coarse_result_in_the_holes_and_the_image_elsewhere() -> None:
    generator = build()
    image, removed = torch.rand(2, 3, 32, 48), torch.rand(2, 1, 32, 48) < 0.4
    coarse, fine = generator(image, removed)
    seen = torch.cat([torch.where(removed, coarse, image), (~removed).float()], dim=1)
    torch.testing.assert_close(torch.sigmoid(generator.stages[1](seen)), fine)


def test_a_mask_over_everything_paints_and_one_over_nothing_too() -> None:
    generator = build()
    for removed in (torch.ones(1, 1, 32, 48, dtype=torch.bool), torch.zeros(1, 1, 32, 48, dtype=torch.bool)):
        made = generator(torch.rand(1, 3, 32, 48), removed)[-1]
        assert made.isfinite().all()
        assert 0 < made.min() < made.max() < 1


def test_every_weight_learns_once_attention_does() -> None:
    generator = build()
    image, removed = torch.rand(2, 3, 32, 48), torch.rand(2, 1, 32, 48) < 0.4

    def idle() -> set[str]:
        generator.zero_grad()
        sum(F.l1_loss(made, image) for made in generator(image, removed)).backward()  # type: ignore[union-attr]
        return {name for name, weight in generator.named_parameters() if weight.grad is None or not weight.grad.any()}

    assert all(".query." in name or ".key." in name or ".value." in name for name in idle())
    for module in generator.modules():
        if hasattr(module, "gamma"):
            torch.nn.init.ones_(module.gamma)  # type: ignore[arg-type]
    # All keys may move together: a softmax does not see it.
    assert all(name.endswith("key.bias") for name in idle())


def test_the_initial_result_has_five_times_the_contrast_that_pytorchs_initial_weights_leave() -> None:
    generator = build()
    image, removed = torch.rand(4, 3, 64, 64), torch.zeros(4, 1, 64, 64, dtype=torch.bool)
    contrast = [stage.std(dim=(2, 3)).mean() for stage in generator(image, removed)]
    for module in generator.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.reset_parameters()
    for stage, before in zip(generator(image, removed), contrast, strict=True):
        assert before > 5 * stage.std(dim=(2, 3)).mean()


def test_the_discriminator_judges_patches_and_no_filter_amplifies() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(3, 12).train()
    image, removed = torch.rand(2, 3, 128, 192), torch.rand(2, 1, 128, 192) < 0.4
    for _ in range(50):  # every call makes the estimate of the norms better
        judged = discriminator(image, removed)
    assert judged.shape == (2, 64, 2, 3)
    for layer in discriminator.layers:
        if hasattr(layer, "weight"):
            norm = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)  # type: ignore[operator]
            assert norm.item() == pytest.approx(1, abs=0.02)
    discriminator.eval()
    assert not torch.equal(discriminator(image, ~removed), discriminator(image, removed))


@pytest.mark.parametrize(
    ("base_width", "coarse", "parameters", "gflop"),
    [
        (48, True, 3.12, {256: 45.2, 128: 10.6}),
        (48, False, 1.49, {256: 23.4, 128: 5.17}),
        (16, True, 0.349, {256: 6.12, 128: 1.30}),
        (16, False, 0.167, {256: 3.56, 128: 0.66}),
    ],
)
def test_the_generator_costs_what_the_results_say(
    base_width: int, coarse: bool, parameters: float, gflop: dict[int, float]
) -> None:
    generator = Generator(3, base_width, attention=True, coarse=coarse).to("meta")
    assert sum(weight.numel() for weight in generator.parameters()) / 1e6 == pytest.approx(parameters, rel=5e-3)
    for side, expected in gflop.items():
        removed = torch.zeros(1, 1, side, side, dtype=torch.bool, device="meta")
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            generator(torch.zeros(1, 3, side, side, device="meta"), removed)
        assert counter.get_total_flops() / 1e9 == pytest.approx(expected, rel=5e-3)
