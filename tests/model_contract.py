"""What every torch model and its exports must keep; a model's tests inherit it."""

import copy
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from anomalib.data import ImageBatch, ImageItem, InferenceBatch, VideoBatch
from half_precision import HalfPrecisionRuntime
from lightning.pytorch import Trainer
from torch import Tensor, nn

from riad_anomalib.components.calibration import Calibration
from riad_anomalib.host.quantization import compress_weights, halve_weights, quantize

UNATTACHED = "ignore:You are trying to `self.log"
"""Of a training step without a trainer."""

RANDOM_ON_CUDA = (
    *("AdaptiveAvgPool", "AdaptiveMaxPool", "AvgPool3D", "FractionalMaxPool", "GridSampler", "MaxUnpool"),
    *("ReflectionPad", "UpsampleBicubic", "UpsampleBilinear", "UpsampleLinear", "UpsampleTrilinear"),
)
"""Operations whose gradient CUDA sums in any order, as torch.use_deterministic_algorithms lists them."""

PRECISIONS = {"fp32": 1e-3, "fp16": 0.01, "int8": 0.05, "int8_ptq": 0.15, "bf16": 0.05, "emulated bf16": 0.05}
"""How far a score may lie from torch's, as a share of the range of scores."""


def quantized(model: openvino.Model) -> set[str]:
    """Return the types of operations that 8-bit values go into."""
    return {
        target.get_node().get_type_name()
        for operation in model.get_ops()
        if operation.get_type_name() == "FakeQuantize"
        for target in operation.output(0).get_target_inputs()
    }


class EveryScore(nn.Module):
    """A torch model's scores by every score function and calibration, of one pass through its network."""

    remember: Callable[[Tensor], None]

    def __init__(self, model: Any, scorings: Sequence[tuple[str, str]], reconstructs: str, normal: Tensor) -> None:
        super().__init__()
        self.model, self.reconstructs, self.calibrations = model, reconstructs, nn.ModuleList()
        self.scorers: list[Any] = []  # the same modules again
        made: list[Tensor] = [getattr(model, reconstructs)(normal)]

        def remember(values: Tensor) -> None:  # export refuses a list that changes, not what a function holds
            made[0] = values

        self.remember = remember
        for score_function, kind in scorings:
            scorer = copy.copy(model)
            scorer.__dict__["_modules"] = dict(model._modules)
            setattr(scorer, reconstructs, lambda _image: made[0])
            scorer.score_function = score_function
            scorer.calibration = Calibration(kind, ("none", "pixel", "avgmap"))
            scorer.calibration.set_statistics(*scorer.calibration.statistics(scorer.dissimilarity_map(normal)))
            self.calibrations.append(scorer.calibration)
            self.scorers.append(scorer)

    def forward(self, image: Tensor) -> Tensor:
        """Return scores, ``(N, S)``."""
        self.remember(getattr(self.model, self.reconstructs)(image))
        return torch.stack([scorer(image).pred_score for scorer in self.scorers], dim=1)


MASK = str(Path(__file__).parents[1] / "docs" / "reconstruction.jpg")
"""A region of interest: any picture that is white here and black there."""


class Contract:
    """Subclasses say how to build a small model and which arguments it has."""

    model_class: type[Any]
    small: ClassVar[dict[str, Any]]
    """Arguments of a model that runs in no time."""
    size: ClassVar[tuple[int, int]]
    """Height and width of its images, not square."""
    variants: ClassVar[dict[str, Any]]
    """Another value for every argument of the model's own."""
    needs: ClassVar[dict[str, dict[str, Any]]] = {}
    """What an argument needs of others to matter."""
    idle: ClassVar[frozenset[str]] = frozenset()
    """Arguments that are to leave results as they are."""
    scorings: ClassVar[Sequence[tuple[str, str]]] = (("", "none"), ("", "pixel"))
    """Every score function with every calibration."""
    reconstructs: ClassVar[str] = "reconstruction"
    """The torch model's method behind them all."""
    random_on_cuda: ClassVar[set[str]] = set()
    """Gradients of the training step that CUDA sums in any order."""
    rounding: ClassVar[float] = 1e-5
    """How far an export's results may lie from torch's."""

    def build(self, **arguments: Any) -> Any:
        """Build a model; a calibrated one with statistics, which training would have gathered."""
        torch.manual_seed(0)
        model = self.model_class(**{**self.small, **arguments})
        if model.model.calibration.needs_statistics:
            generator = torch.Generator().manual_seed(2)
            mean, std = (scale * torch.rand(1, *model.image_size, generator=generator) for scale in (0.2, 0.1))
            model.model.calibration.set_statistics(mean, std)
        if model.model.registration.needs_statistics:
            model.model.registration.gather(self.images(6))
        return model

    def images(self, number: int = 3) -> Tensor:
        return torch.rand(number, 3, *self.size, generator=torch.Generator().manual_seed(0))


class ModelContract(Contract):
    """Shapes, repeatable scores, checkpoints, parity of exports, every argument matters."""

    @staticmethod
    def scores(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return anomaly map and score."""
        with torch.no_grad():
            batch = model.eval().model(images)
        assert isinstance(batch, InferenceBatch)
        assert batch.anomaly_map is not None
        assert batch.pred_score is not None
        return batch.anomaly_map, batch.pred_score

    def test_shapes_and_ranges(self) -> None:
        anomaly_map, pred_score = self.scores(self.build(), self.images())
        assert anomaly_map.shape == (3, 1, *self.size)
        assert pred_score.shape == (3,)
        assert anomaly_map.dtype == pred_score.dtype == torch.float32
        assert anomaly_map.min() >= 0
        assert anomaly_map.max() <= 1
        assert len(pred_score.unique()) == 3

    def test_scoring_is_repeatable_and_draws_nothing(self) -> None:
        model = self.build()
        first, _ = self.scores(model, self.images())
        state = torch.random.get_rng_state()
        again, _ = self.scores(model, self.images())
        assert torch.equal(state, torch.random.get_rng_state())
        assert torch.equal(first, again)

    def test_a_batch_scores_as_its_images_one_by_one(self) -> None:
        model, images = self.build(), self.images()
        maps, pred_scores = self.scores(model, images)
        for i in range(len(images)):
            anomaly_map, pred_score = self.scores(model, images[i : i + 1])
            torch.testing.assert_close(anomaly_map[0], maps[i])
            torch.testing.assert_close(pred_score[0], pred_scores[i])

    @pytest.mark.filterwarnings(UNATTACHED)
    def test_every_argument_matters(self) -> None:
        assert set(self.build().hparams) == set(self.variants)
        outcome = self.outcome()
        assert self.outcome() == outcome
        for name, value in self.variants.items():
            needed = self.needs.get(name, {})
            is_same = self.outcome(**needed, **{name: value}) == (self.outcome(**needed) if needed else outcome)
            assert is_same == (name in self.idle), name

    def outcome(self, **arguments: Any) -> tuple[float, float, float]:
        """The means of maps, and of scores as those of a video, after one training step, and a threshold of these."""
        model = self.build(**arguments)
        images = model.pre_processor(self.images())
        optimizer = torch.optim.SGD(model.parameters(), lr=model.hparams["lr"])
        torch.manual_seed(1)
        batch = ImageBatch(image=images)
        model.train().on_train_batch_start(batch, 0)
        model.training_step(batch, 0)["loss"].backward()
        optimizer.step()
        anomaly_map, _ = self.scores(model, images)
        clip = VideoBatch(image=images, video_path=["clip"] * len(images), frames=torch.arange(len(images))[:, None])
        with torch.no_grad():
            pred_score = model.test_step(clip, 0).pred_score
        clip.gt_label = torch.arange(len(images)) == 0
        model.post_processor.on_validation_batch_end(None, None, clip)
        model.post_processor.on_validation_epoch_end(None, None)
        threshold = model.post_processor.image_threshold
        return anomaly_map.double().mean().item(), pred_score.double().mean().item(), threshold.item()

    @pytest.mark.filterwarnings(UNATTACHED)
    def test_a_training_step_has_a_gradient_that_repeats_on_cuda(self) -> None:
        """As Lightning's ``deterministic`` asks for; torch knows another way for replicated borders, not for these."""
        torch.manual_seed(0)
        loss = self.build().train().training_step(ImageBatch(image=self.images()), 0)["loss"]
        found, nodes = set(), [loss.grad_fn]
        while nodes:
            node = nodes.pop()
            if node is not None and node not in found:
                found.add(node)
                nodes += [next_node for next_node, _ in node.next_functions]
        assert len(found) > 3
        assert {node.name() for node in found if node.name().startswith(RANDOM_ON_CUDA)} == self.random_on_cuda

    @pytest.mark.filterwarnings(UNATTACHED)
    def test_flat_images_train_and_score(self) -> None:
        for grey in (0.0, 1.0):
            model, images = self.build(), torch.full((2, 3, *self.size), grey)
            model.train().training_step(ImageBatch(image=images), 0)["loss"].backward()
            gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            assert gradients
            assert all(gradient.isfinite().all() for gradient in gradients)
            assert self.scores(model, images)[0].isfinite().all()

    def test_maps_are_in_float32_under_mixed_precision_and_in_a_model_of_bfloat16(self) -> None:
        model, images = self.build(), self.images()
        expected, _ = self.scores(model, images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed, _ = self.scores(model, images)
        low, _ = self.scores(model.bfloat16(), images.bfloat16())
        for values in (mixed, low):
            assert values.dtype == torch.float32
            torch.testing.assert_close(values, expected, atol=0.03, rtol=0)

    def test_images_of_another_shape_are_refused(self) -> None:
        model, (height, width) = self.build(), self.size
        for shape in ((3, height, width), (1, 1, height, width), (1, 3, width, height)):
            with pytest.raises(ValueError, match=rf"built for \(N, 3, {height}, {width}\): resize them"):
                model.model(torch.rand(shape))

    def test_a_model_is_what_its_arguments_and_weights_say(self, tmp_path: Path) -> None:
        """A checkpoint's round trip through a file, as Lightning writes and anomalib reads it."""
        model = self.build()
        trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
        trainer.strategy.connect(model)
        trainer.save_checkpoint(tmp_path / "model.ckpt")
        torch.load(tmp_path / "model.ckpt", weights_only=True)
        loaded = self.model_class.load_from_checkpoint(tmp_path / "model.ckpt", map_location="cpu")
        assert dict(loaded.hparams) == dict(model.hparams)
        assert torch.equal(self.scores(loaded, self.images())[0], self.scores(model, self.images())[0])

    @pytest.fixture(scope="class")
    def exported(self, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
        """Return a model with all that there is to export, and its export, which takes longer than all else here."""
        model = self.build(post_processor=False, calibration="pixel")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.onnx about itself
            return model, model.eval().to_onnx(tmp_path_factory.mktemp("exported"))

    @pytest.mark.filterwarnings("ignore")  # OpenVINO about itself
    def test_onnx_and_openvino_score_like_torch(self, exported: tuple[Any, Path]) -> None:
        self.check_parity(*exported)

    def check_export(self, tmp_path: Path, **arguments: Any) -> None:
        model = self.build(post_processor=False, **arguments).eval()
        self.check_parity(model, model.to_onnx(tmp_path))

    def check_parity(self, model: Any, onnx: Path) -> None:
        images = self.images(8)
        expected = dict(zip(("anomaly_map", "pred_score"), self.scores(model, images), strict=True))
        session = onnxruntime.InferenceSession(onnx)
        names = [output.name for output in session.get_outputs()]
        # OpenVINO would choose bfloat16 by itself where the processor has it.
        compiled = openvino.compile_model(openvino.convert_model(onnx), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        for batch in (images[:1], images):
            from_onnx = dict(zip(names, session.run(None, {"input": batch.numpy()}), strict=True))
            from_openvino = compiled(batch.numpy())
            for name, value in expected.items():
                np.testing.assert_allclose(from_onnx[name], value[: len(batch)].numpy(), atol=self.rounding)
                np.testing.assert_allclose(from_openvino[name], value[: len(batch)].numpy(), atol=self.rounding)

    @pytest.mark.filterwarnings("ignore")  # OpenVINO about itself
    def test_an_export_shrinks_large_images_as_the_engine_does(self, exported: tuple[Any, Path]) -> None:
        model, onnx = exported
        height, width = self.size
        large = torch.rand(2, 3, 4 * height + 5, 3 * width, generator=torch.Generator().manual_seed(0))
        pre_processor: Any = model.pre_processor
        small = pre_processor.transform(large)
        expected, _ = self.scores(model, small)
        with torch.no_grad():
            torch.testing.assert_close(model(large).anomaly_map, expected, atol=self.rounding, rtol=0)
        converted = openvino.convert_model(onnx)
        compiled = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        np.testing.assert_allclose(compiled(large.numpy())["anomaly_map"], expected.numpy(), atol=self.rounding)

        # OpenVINO does what it is told only where the processor has bfloat16, and stays in float32 elsewhere.
        rounded = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})

        def lost(images: Tensor) -> float:
            maps = (runtime(images.numpy())["anomaly_map"] for runtime in (compiled, rounded))
            return float(np.abs(np.subtract(*maps)).max())

        assert lost(large) <= 3 * lost(small)
        even = torch.full_like(large, 0.7)
        assert lost(even) <= 2 * lost(pre_processor.transform(even)) + 1e-4

    @pytest.mark.filterwarnings("ignore")  # torch.onnx, OpenVINO, NNCF, and a training step without a trainer
    def test_every_precision_keeps_the_verdicts_of_every_score(self) -> None:
        """Of 40 pictures with defects of every strength, but for those within the tolerance of the threshold."""
        model, normal, images = self.build(), self.stripes(torch.zeros(16)), self.stripes(torch.linspace(0, 1, 40))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(20):
            optimizer.zero_grad()
            model.train().training_step(ImageBatch(image=normal), 0)["loss"].backward()
            optimizer.step()
        with torch.no_grad():
            scorer = EveryScore(model.eval().model, self.scorings, self.reconstructs, normal).eval()
            expected = scorer(images)
            with HalfPrecisionRuntime(torch.bfloat16):
                actual = {"emulated bf16": scorer(images).numpy()}
        plain = openvino.convert_model(scorer, example_input=images)  # traced: through ONNX it takes minutes
        exports = {
            "fp16": halve_weights(plain.clone()),
            "int8": compress_weights(plain.clone()),
            "int8_ptq": quantize(plain.clone(), [ImageItem(image=image) for image in normal[:8]]),  # type: ignore[arg-type]
        }
        assert {"Convolution"} <= quantized(exports["int8_ptq"]) <= {"Convolution", "ConvolutionBackpropData", "Concat"}
        for name, export in {"fp32": plain, **exports, "bf16": plain}.items():  # without it, OpenVINO stays in float32
            compiled = openvino.compile_model(
                export, "CPU", {"INFERENCE_PRECISION_HINT": "bf16" if name == "bf16" else "f32"}
            )
            actual[name] = compiled(images.numpy())[0]
        lowest, highest = expected.numpy().min(axis=0), expected.numpy().max(axis=0)
        threshold = np.quantile(expected.numpy(), 0.5, axis=0)
        for name, tolerance in PRECISIONS.items():
            error = np.abs(actual[name] - expected.numpy()) / (highest - lowest)
            clear = np.abs(expected.numpy() - threshold) > tolerance * (highest - lowest)
            assert clear.mean() > 0.3
            verdicts = (actual[name] > threshold) == (expected.numpy() > threshold)
            assert verdicts[clear].all(), (name, error.max(axis=0))

    def stripes(self, strength: Tensor) -> Tensor:
        """Return a bright pattern that repeats, with noise, and in each picture a defect of its strength."""
        generator = torch.Generator().manual_seed(len(strength))
        height, width = self.size
        pattern = 0.75 + 0.2 * torch.sin(torch.arange(width) / 3) * torch.ones(3, height, 1)
        images = pattern + 0.01 * torch.randn(len(strength), 3, height, width, generator=generator)
        for image, share in zip(images, strength, strict=True):
            row, column = (int(torch.randint(side - 8, (), generator=generator)) for side in self.size)
            image[:, row : row + 8, column : column + 8] *= 1 - share
        return images.clamp(0, 1)
