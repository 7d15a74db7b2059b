"""What every model of this package must keep; a model's tests inherit it."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from anomalib.data import InferenceBatch
from anomalib.models.components import AnomalibModule
from torch import Tensor


class ModelContract:
    """Subclasses say how to build a small model and which arguments it has."""

    model_class: type[AnomalibModule]
    small: ClassVar[dict[str, Any]]
    """Arguments of a model that runs in no time."""
    size: ClassVar[tuple[int, int]]
    """Height and width of its images, not square."""
    variants: ClassVar[dict[str, Any]]
    """Another value for every argument of the model's own."""

    def build(self, **arguments: Any) -> AnomalibModule:
        torch.manual_seed(0)
        return self.model_class(**{**self.small, **arguments})

    def images(self, number: int = 3) -> Tensor:
        return torch.rand(number, 3, *self.size, generator=torch.Generator().manual_seed(0))

    @staticmethod
    def scores(model: AnomalibModule, images: Tensor) -> InferenceBatch:
        with torch.no_grad():
            batch = model.eval().model(images)
        assert isinstance(batch, InferenceBatch)
        return batch

    def test_shapes_and_ranges(self) -> None:
        batch = self.scores(self.build(), self.images())
        assert batch.anomaly_map is not None
        assert batch.pred_score is not None
        assert batch.anomaly_map.shape == (3, 1, *self.size)
        assert batch.pred_score.shape == (3,)
        assert batch.anomaly_map.dtype == batch.pred_score.dtype == torch.float32
        assert batch.anomaly_map.min() >= 0
        assert batch.anomaly_map.max() <= 1
        assert len(batch.pred_score.unique()) == 3

    def test_scoring_is_repeatable_and_draws_nothing(self) -> None:
        model = self.build()
        first = self.scores(model, self.images())
        state = torch.random.get_rng_state()
        again = self.scores(model, self.images())
        assert torch.equal(state, torch.random.get_rng_state())
        assert torch.equal(first.anomaly_map, again.anomaly_map)

    def test_a_batch_scores_as_its_images_one_by_one(self) -> None:
        model, images = self.build(), self.images()
        together = self.scores(model, images)
        for i in range(len(images)):
            alone = self.scores(model, images[i : i + 1])
            torch.testing.assert_close(alone.anomaly_map[0], together.anomaly_map[i])
            torch.testing.assert_close(alone.pred_score[0], together.pred_score[i])

    def test_every_argument_is_tested_here(self) -> None:
        own = set(self.build().hparams)
        assert own == set(self.variants)

    def test_a_model_is_what_its_arguments_and_weights_say(self, tmp_path: Path) -> None:
        """A checkpoint's round trip through a file, as Lightning writes and anomalib reads it."""
        from lightning.pytorch import Trainer

        model = self.build()
        trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
        trainer.strategy.connect(model)
        trainer.save_checkpoint(tmp_path / "model.ckpt")
        torch.load(tmp_path / "model.ckpt", weights_only=True)
        loaded = self.model_class.load_from_checkpoint(tmp_path / "model.ckpt", map_location="cpu")
        assert dict(loaded.hparams) == dict(model.hparams)
        assert torch.equal(
            self.scores(loaded, self.images()).anomaly_map,
            self.scores(model, self.images()).anomaly_map,
        )

    @pytest.mark.filterwarnings("ignore")  # torch.onnx and OpenVINO warn about themselves
    def test_onnx_and_openvino_score_like_torch(self, tmp_path: Path) -> None:
        model, images = self.build(post_processor=False), self.images()
        expected = self.scores(model, images)
        onnx = model.to_onnx(tmp_path, opset_version=18)
        session = onnxruntime.InferenceSession(onnx)
        names = [output.name for output in session.get_outputs()]
        # OpenVINO would choose bfloat16 by itself where the processor has it.
        compiled = openvino.compile_model(openvino.convert_model(onnx), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        for batch in (images[:1], images):
            from_onnx = dict(zip(names, session.run(None, {"input": batch.numpy()}), strict=True))
            from_openvino = compiled(batch.numpy())
            for name in ("anomaly_map", "pred_score"):
                value = getattr(expected, name)[: len(batch)].numpy()
                np.testing.assert_allclose(from_onnx[name], value, atol=1e-5)
                np.testing.assert_allclose(from_openvino[name], value, atol=1e-5)
