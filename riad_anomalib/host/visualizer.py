"""A picture of what a model saw and what it made of it."""

from pathlib import Path
from typing import Any

from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from anomalib.visualization.image.functional import (
    add_text_to_image,
    create_image_grid,
    visualize_anomaly_map,
    visualize_image,
)
from lightning.pytorch import Trainer


class ReconstructionVisualizer(ImageVisualizer):
    """anomalib's pictures, and beside them input, reconstruction and anomaly map side by side.

    The pictures go to ``reconstructions/`` next to anomalib's
    ``images/``. The network runs once more for every image, so testing and predicting take about twice as long. The
    arguments are those of anomalib's ``ImageVisualizer``.
    """

    def on_test_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any) -> None:  # noqa: ANN401
        """Write the pictures of a batch; prediction ends here too.

        Raises:
            TypeError: If the model has no reconstruction to show.
        """
        if not hasattr(pl_module.model, "reconstruction"):
            msg = (
                f"ReconstructionVisualizer shows what a model reconstructs, and {pl_module.name}'s torch model has no "
                "reconstruction(image): use anomalib's ImageVisualizer"
            )
            raise TypeError(msg)
        super().on_test_batch_end(trainer, pl_module, outputs, batch, *args)
        reconstructions = pl_module.model.reconstruction(batch.image)  # (N, C, H, W)
        datamodule = getattr(trainer, "datamodule", None)
        for item, reconstruction in zip(batch, reconstructions, strict=True):
            panels = {
                "Image": visualize_image(item.image),
                "Reconstruction": visualize_image(reconstruction),
                "Anomaly Map": visualize_anomaly_map(item.anomaly_map, colormap=True),
            }
            titled = [add_text_to_image(panel.resize(self.field_size), title) for title, panel in panels.items()]
            filename = generate_output_filename(
                input_path=item.image_path or "",
                output_path=Path(trainer.default_root_dir) / "reconstructions",
                dataset_name=getattr(datamodule, "name", None),
                category=getattr(datamodule, "category", None),
            )
            create_image_grid(titled, nrow=len(titled)).save(filename)
