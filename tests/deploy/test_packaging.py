"""Packaged models in Model API itself, and as Model Server and DL Streamer would call them: those cannot run here."""

import json
import re
import warnings
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import nncf
import numpy as np
import openvino
import pytest
import runtimes
import torch
from inspections import export, model_api, other_model, picture, run
from numpy.typing import NDArray
from openvino import opset13
from openvino.preprocess import ColorFormat, PrePostProcessor, ResizeAlgorithm

from riad_anomalib import I3ad, Riad, Ssae, deploy
from riad_anomalib.deploy import packaging

F32 = {"INFERENCE_PRECISION_HINT": "f32"}
SIZES = ((40, 56), (32, 48), (300, 170))
MODELS: dict[str, Callable[[], Any]] = {
    "riad": lambda: Riad(base_width=2, image_size=(32, 48), smoothing_size=3, region_sizes=(4, 8), calibration="none"),
    "ssae, max": lambda: Ssae(base_width=4, image_size=(32, 48), dilations=(1, 2), smoothing_size=3, image_score="max"),
    "ssae, mean": lambda: Ssae(base_width=4, image_size=(32, 48), dilations=(1, 2), smoothing_size=3),
    "i3ad": lambda: I3ad(base_width=4, image_size=(32, 48), adversarial_weight=0, iterations=1, smoothing_size=3),
}


@pytest.fixture(scope="module", params=MODELS)
def fp32(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> tuple[str, Path]:
    torch.manual_seed(0)
    ranges = {"image": (0.0, 0.5), "pixel": (0.1, 0.9)}  # not the same, as after training
    folder = tmp_path_factory.mktemp("fp32")
    return request.param, export(MODELS[request.param](), pictures, folder, ranges)


def compressed(path: Path, compression: str, folder: Path) -> Path:
    """Write what anomalib's export with a compression that needs no data writes."""
    if compression == "fp32":
        return path
    model = openvino.Core().read_model(path)
    if compression == "int8":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NNCF about itself
            model = nncf.compress_weights(model)
    openvino.save_model(model, folder / f"{compression}.xml", compress_to_fp16=compression == "fp16")
    return folder / f"{compression}.xml"


def colourful(size: tuple[int, int], number: int) -> NDArray[np.uint8]:
    """A picture whose channels differ."""
    return cv2.resize(picture(number), size[::-1], interpolation=cv2.INTER_NEAREST).astype(np.uint8)


def compiled(model: openvino.Model | Path) -> Any:
    return openvino.Core().compile_model(model, "CPU", F32)


def key(path: Path, name: str) -> str:
    return str(openvino.Core().read_model(path).get_rt_info(["model_info", name]).astype(str))


def stretched(values: NDArray[Any], image: NDArray[Any]) -> Any:
    """As Model API stretches maps and masks to the picture."""
    return cv2.resize(values, image.shape[1::-1])


@pytest.mark.parametrize("compression", ["fp32", "fp16", "int8"])
def test_model_api_says_what_the_export_says_of_rgb(fp32: tuple[str, Path], compression: str, tmp_path: Path) -> None:
    name, path = fp32
    path = compressed(path, compression, tmp_path)
    before = [file.read_bytes() for file in (path, path.with_suffix(".bin"))]
    plain = compiled(path)
    four = deploy.package(path, "model-api", tmp_path / "four")
    assert [file.read_bytes() for file in (path, path.with_suffix(".bin"))] == before
    assert four.with_suffix(".bin").stat().st_size == pytest.approx(len(before[1]), abs=64)
    has_maximum = name != "ssae, mean"
    wrapped, labels = model_api(four), set()
    for number, size in enumerate(SIZES):
        image = colourful(size, 4 * number)
        expected = plain(deploy.as_input(image))
        result = wrapped(image)
        assert result.pred_score == pytest.approx(expected["pred_score"].item(), abs=1e-4)
        assert result.pred_label == str(expected["pred_label"].item())
        assert wrapped.get_label_name(result.pred_label == "True") in {"Normal", "Anomaly"}
        labels.add(result.pred_label)
        shown = np.round(255 * expected["anomaly_map"].squeeze()).astype(np.uint8)
        assert np.abs(result.anomaly_map.astype(int) - stretched(shown, image)).max() <= 1
        mask = stretched(expected["pred_mask"].squeeze().astype(np.uint8), image)
        assert (result.pred_mask != mask).mean() < 0.002  # a value may lie on the threshold
        if not has_maximum or number:  # one size is enough: what comes before the graph is the same for all
            continue
        one = model_api(deploy.package(path, "dlstreamer", tmp_path / "one", size=size))
        alone = one(image)
        assert alone.pred_label == wrapped.get_label_name(result.pred_label == "True")
        # Model API gives the score of a normal picture as 1 - score where it sees the map alone.
        score = alone.pred_score if result.pred_label == "True" else 1 - alone.pred_score
        assert score == pytest.approx(expected["pred_score"].item(), abs=1e-4)
        assert (alone.pred_mask != mask).mean() < 0.002
    if not has_maximum:
        with pytest.raises(ValueError, match=r"takes the maximum .* the mean of its map .*image_score: max"):
            deploy.package(path, "dlstreamer", tmp_path / "one", size=SIZES[0])
        assert not (tmp_path / "one").exists()


def first_channel(path: Path, is_drawn_otherwise: bool = False) -> Path:
    """A model whose map is the first channel of the picture, or something else than what it scores."""
    image = opset13.parameter([-1, 3, -1, -1], np.float32, "input")
    values = opset13.gather(image, np.array([0]), np.array(1))
    drawn = opset13.sigmoid(values) if is_drawn_otherwise else opset13.relu(values)
    score = opset13.reduce_max(values if is_drawn_otherwise else drawn, np.array([1, 2, 3]), keep_dims=False)
    outputs = (score, opset13.greater(score, np.float32(0.5)), drawn, opset13.greater(drawn, np.float32(0.5)))
    for output, name in zip(outputs, deploy.OUTPUTS, strict=True):
        output.output(0).get_tensor().set_names({name})
    model = openvino.Model([opset13.result(output) for output in outputs], [image])
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


@pytest.mark.parametrize(("runtime", "size"), [("model-api", None), ("model-api", (6, 8)), ("dlstreamer", (6, 8))])
def test_red_is_red_and_blue_is_blue(runtime: str, size: tuple[int, int] | None, tmp_path: Path) -> None:
    packaged = deploy.package(first_channel(tmp_path / "red.xml"), runtime, tmp_path / "packaged", size=size)
    wrapped = model_api(packaged)
    image = np.zeros((6, 8, 3), np.uint8)
    image[..., 0], image[:3, :, 2] = 10, 200  # OpenCV's order: blue everywhere, red above
    result = wrapped(image)
    assert result.pred_score == pytest.approx(200 / 255)
    assert result.pred_label == ("True" if runtime == "model-api" else "Anomaly")
    np.testing.assert_array_equal(result.pred_mask, image[..., 2] > 0)
    np.testing.assert_array_equal(result.anomaly_map, image[..., 2])


@pytest.mark.skipif(
    "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
    reason="this processor computes nothing in bfloat16, so OpenVINO's own choice is float32",
)
def test_verdicts_are_the_same_in_the_precision_that_openvino_chooses(exported: Path, tmp_path: Path) -> None:
    plain = compiled(exported)
    wrapped = model_api(deploy.package(exported, "model-api", tmp_path / "packaged"), {})
    for number, size in enumerate(SIZES):
        image = colourful(size, 4 * number)
        expected = plain(deploy.as_input(image))
        if abs(expected["pred_score"].item() - 0.5) > 0.02:
            assert wrapped(image).pred_label == str(expected["pred_label"].item())


def test_an_onnx_file_packages_as_an_ir_does(pictures: Path, tmp_path: Path) -> None:
    onnx = export(MODELS["ssae, max"](), pictures, tmp_path, {"image": (0, 1), "pixel": (0, 2)}, "onnx")
    image = colourful(SIZES[2], 4)
    expected = compiled(onnx)(deploy.as_input(image))["pred_score"]
    packaged = deploy.package(onnx, "model-api", tmp_path / "packaged")
    assert model_api(packaged)(image).pred_score == pytest.approx(expected.item(), abs=1e-4)
    assert deploy.package(onnx, "dlstreamer", tmp_path / "one", size=SIZES[0]).is_file()


def as_dlstreamer_reads(model: openvino.Model, image: NDArray[Any], backend: str) -> openvino.Model:
    """What openvino_image_inference.cpp (August 2026) puts before a model with an input of one picture."""
    processor = PrePostProcessor(model)
    tensor = processor.input().tensor().set_element_type(openvino.Type.u8)
    if backend == "opencv":
        tensor.set_layout(openvino.Layout("NCHW"))
    else:
        tensor.set_color_format(ColorFormat.BGRX).set_layout(openvino.Layout("NHWC"))
        processor.input().preprocess().convert_color(ColorFormat.BGR)
        tensor.set_spatial_static_shape(*image.shape[:2])
        if model.input().partial_shape.get_min_shape()[1:3] != openvino.Shape(image.shape[:2]):
            processor.input().preprocess().resize(ResizeAlgorithm.RESIZE_LINEAR)
    built = processor.build()
    openvino.set_batch(built, 1)
    return built


@pytest.mark.parametrize("backend", ["ie", "opencv"])
def test_dl_streamers_own_steps_before_the_graph_change_nothing(backend: str, exported: Path, tmp_path: Path) -> None:
    image = colourful((72, 100), 3)
    expected = compiled(exported)(deploy.as_input(image))
    path = deploy.package(exported, "dlstreamer", tmp_path / "packaged", size=(72, 100))
    model = as_dlstreamer_reads(openvino.Core().read_model(path), image, backend)
    if backend == "opencv":
        given = image.transpose(2, 0, 1)[None]
    else:
        given = np.concatenate([image, np.zeros_like(image[..., :1])], axis=2)[None]
    outputs = compiled(model)(given)
    assert len(outputs) == 1
    (values,) = outputs.values()
    assert values.dtype == np.float32
    assert values.shape == (1, 1, 32, 48)
    # detection_anomaly.cpp: clamp, maximum, label, score
    score = values.clip(0, 1).max()
    assert score == pytest.approx(expected["pred_score"].item(), abs=1e-4)
    assert (score > float(key(path, "image_threshold"))) == expected["pred_label"].item()
    assert (score - float(key(path, "image_threshold"))) / float(key(path, "normalization_scale")) + 0.5 == (
        pytest.approx(score)
    )
    assert key(path, "task") == "classification"
    assert key(path, "labels").split() == ["Normal", "Anomaly"]
    assert key(path, "model_type") == "AnomalyDetection"


def test_a_model_of_any_size_does_not_build_in_dl_streamer_so_a_size_is_asked_for(
    exported: Path, tmp_path: Path
) -> None:
    path = deploy.package(exported, "model-api", tmp_path / "packaged")
    with pytest.raises(RuntimeError, match=r"(?i)resize"):
        as_dlstreamer_reads(openvino.Core().read_model(path), picture(0), "ie")


def test_keys_of_the_map_alone_act_and_those_of_four_outputs_do_not(exported: Path, tmp_path: Path) -> None:
    image = colourful(SIZES[0], 4)
    for runtime, acts in (("dlstreamer", True), ("model-api", False)):
        path = deploy.package(exported, runtime, tmp_path / runtime, size=SIZES[0])
        verdicts = set()
        for threshold in ("-5", "5"):
            model = openvino.Core().read_model(path)
            model.set_rt_info(threshold, ["model_info", "image_threshold"])
            openvino.save_model(model, tmp_path / f"{runtime}{threshold}.xml", compress_to_fp16=False)
            verdicts.add(model_api(tmp_path / f"{runtime}{threshold}.xml")(image).pred_label)
        assert (len(verdicts) == 2) == acts


def test_a_server_finds_the_model_by_name_and_version_and_decodes_pictures_for_it(
    exported: Path, tmp_path: Path
) -> None:
    path = deploy.package(exported, "model-server", tmp_path / "served", name="screws")
    assert path == tmp_path / "served/screws/1/model.xml"
    (served,) = json.loads((tmp_path / "served/config.json").read_text())["model_config_list"]
    assert (tmp_path / "served" / served["config"]["base_path"]) == path.parents[1]
    assert served["config"]["name"] == "screws"
    model = openvino.Core().read_model(path)
    # tensor_conversion.hpp: a four-dimensional input, channels last, takes what cv2.imdecode gives, in its own size
    assert model.input().partial_shape == openvino.PartialShape([-1, -1, -1, 3])
    assert openvino.layout_helpers.get_layout(model.input()) == openvino.Layout("[N,H,W,C]")
    image: Any = cv2.imdecode(cv2.imencode(".jpg", colourful(SIZES[2], 5))[1], cv2.IMREAD_COLOR)
    expected, answer = compiled(exported)(deploy.as_input(image)), compiled(model)(image[None])
    for name in deploy.OUTPUTS:
        np.testing.assert_allclose(answer[name].astype(float), expected[name].astype(float), atol=1e-4)

    text = (Path(__file__).parents[2] / "docs/deploy.md").read_text(encoding="utf-8")
    (request,) = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, flags=re.DOTALL))
    (given,) = request["inputs"]
    assert model.input().names == {given["name"]}
    assert given["datatype"] == "UINT8"
    assert model.input().element_type == openvino.Type.u8
    assert compiled(model)(np.array(given["data"], np.uint8))["pred_score"].shape == (1,)


class Server(BaseHTTPRequestHandler):
    """As much of Model Server as its documents promise: after the JSON a picture, before it its length in 4 bytes."""

    model: Any
    asked: list[str]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        length = int(self.headers["Inference-Header-Content-Length"])
        (given,) = json.loads(body[:length])["inputs"]
        data = body[length:]
        assert (given["name"], given["shape"], given["datatype"]) == ("input", [1], "BYTES")
        assert given["parameters"]["binary_data_size"] == len(data) == 4 + int.from_bytes(data[:4], "little")
        image: Any = cv2.imdecode(np.frombuffer(data[4:], np.uint8), cv2.IMREAD_COLOR)
        results = self.model(image[None])
        outputs = [{"name": name, "data": results[name].ravel().tolist()} for name in deploy.OUTPUTS]
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"outputs": outputs}).encode())

    def log_message(self, *_: object) -> None:
        pass


def test_the_python_of_the_page_asks_both_runtimes(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("model_api")
    text = (Path(__file__).parents[2] / "docs/deploy.md").read_text(encoding="utf-8")
    for_model_api, for_server = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    path = deploy.package(exported, "model-server", tmp_path / "served", name="screws")
    cv2.imwrite(str(tmp_path / "picture.png"), colourful(SIZES[2], 5))
    cv2.imwrite(str(tmp_path / "picture.jpg"), colourful(SIZES[2], 5))
    expected = {}
    for kind in ("png", "jpg"):
        image: Any = cv2.imread(str(tmp_path / f"picture.{kind}"))
        outputs = compiled(exported)(deploy.as_input(image))
        expected[kind] = outputs["pred_score"].item(), bool(outputs["pred_label"].item())

    code = for_model_api.replace("packaged/model.xml", str(path)).replace("picture.png", str(tmp_path / "picture.png"))
    exec(code, {})  # noqa: S102
    score, label = capsys.readouterr().out.split()
    assert float(score) == pytest.approx(expected["png"][0], abs=1e-4)
    assert label == ("Anomaly" if expected["png"][1] else "Normal")

    Server.model, Server.asked = compiled(path), []
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.handle_request, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        code = for_server.replace("localhost:8000", address).replace("picture.jpg", str(tmp_path / "picture.jpg"))
        exec(code, {})  # noqa: S102
    score, label = capsys.readouterr().out.split()
    assert float(score) == pytest.approx(expected["jpg"][0], abs=1e-4)
    assert label == str(expected["jpg"][1])
    assert Server.asked == ["/v2/models/screws/infer"]


@pytest.fixture
def bad(exported: Path, tmp_path: Path) -> dict[str, Path]:
    fixed = openvino.Core().read_model(exported)
    fixed.reshape([1, 3, 40, 56])
    openvino.save_model(fixed, tmp_path / "fixed.xml", compress_to_fp16=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("keep me")
    (tmp_path / "file").write_text("text")
    return {
        "model": exported,
        "scores": other_model(tmp_path / "scores.xml", [1, 3, 8, 8], ("anomaly_map", "pred_score")),
        "other": other_model(tmp_path / "other.xml", [1, 3, 8, 8], deploy.OUTPUTS),
        "eight": other_model(tmp_path / "eight.xml", [1, 3, -1, -1], deploy.OUTPUTS),
        "packaged": deploy.package(exported, "model-api", tmp_path / "before"),
        "map": deploy.package(exported, "dlstreamer", tmp_path / "map", size=(8, 9)),
        "fixed": tmp_path / "fixed.xml",
        "full": tmp_path / "full",
        "under a file": tmp_path / "file" / "output",
        "file": tmp_path / "file",
    }


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        ("none.xml", (), r"model file none.xml does not exist"),
        ("scores", (), r"\S*scores.xml has no pred_label, pred_mask: .* with its post-processor"),
        ("packaged", (), r"\S*model.xml is packaged for another runtime already: give the file that anomalib exported"),
        ("map", (), r"\S*model.xml is packaged for another runtime already"),
        ("other", ("--for", "dlstreamer"), r"\S*other.xml: DL Streamer takes the maximum .* score is no such maximum"),
        (
            "model",
            ("--for", "dlstreamer"),
            r"\S*model.xml takes pictures of any size, .* --size 1080 1920",
        ),
        ("fixed", ("--size", "41", "56"), r"\S*fixed.xml was exported for pictures of 40x56, not 41x56: leave size"),
        ("model", ("--size", "0", "56"), r"size is \(0, 56\): give height and width in pixels"),
        ("eight", ("--size", "40", "56"), r"\S*eight.xml cannot be packaged for model-api: .*"),
        ("model", ("--name", "screws"), r"name 'screws' is what a server calls the model: leave it out"),
        ("model", ("--for", "model-server", "--name", "../up"), r"name '../up' becomes a folder .*: give letters"),
        ("model", ("--output", "full"), r"output \S*full exists and is not empty: give a new folder"),
        ("model", ("--output", "file"), r"output \S*file exists and is not empty: give a new folder"),
        ("model", ("--output", "under a file"), r"output \S*output cannot be written \(Not a directory\): give"),
    ],
)
def test_a_mistake_ends_in_one_line_that_says_what_to_do_and_writes_nothing(
    model: str, words: tuple[str, ...], message: str, bad: dict[str, Path], tmp_path: Path, capfd: Any
) -> None:
    files = sorted(tmp_path.rglob("*"))
    given = {"--for": "model-api", "--output": tmp_path / "new"}
    options: list[object] = [bad.get(word, word) for word in words]
    for option, value in given.items():
        if option not in words:
            options += [option, value]
    assert run("package", bad.get(model, Path(model)), *options) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(rf"error: {message}.*\n", err), err
    assert sorted(tmp_path.rglob("*")) == files


def test_an_unknown_runtime_is_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown runtime 'triton': give one of model-api, model-server, dlstreamer"):
        deploy.package(exported, "triton", tmp_path / "new")
    with pytest.raises(SystemExit, match="2"):
        run("package", exported, "--for", "triton", "--output", tmp_path / "new")


def test_what_inspects_pictures_refuses_a_packaged_model(
    exported: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = deploy.package(exported, "model-api", tmp_path / "packaged")
    assert run(path, pictures) == 2
    assert "model.xml is packaged for another runtime already" in capsys.readouterr().err


@pytest.mark.parametrize("error", [RuntimeError("No space left on device"), OSError(28, "No space left on device")])
def test_a_full_disk_leaves_nothing_behind(
    error: Exception, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(_: openvino.Model, path: Path, **__: Any) -> None:
        path.write_text("half")
        raise error

    monkeypatch.setattr(openvino, "save_model", save)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="No space left on device"):
        deploy.package(exported, "model-api", tmp_path / "empty")
    assert [*tmp_path.iterdir()] == [tmp_path / "empty"]
    assert not [*(tmp_path / "empty").iterdir()]


def test_the_command_says_what_to_type_next(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    for runtime, words in (("model-server", "ovms"), ("dlstreamer", "gst-launch-1.0"), ("model-api", "create_model")):
        output = tmp_path / "empty" if runtime == "model-api" else tmp_path / runtime
        assert run("package", exported, "--for", runtime, "--output", output, "--size", 40, 56) == 0
        out = capsys.readouterr().out
        assert f"packaged: {output}" in out
        assert words.replace("ovms", "openvino/model_server") in out
    monkeypatch.setattr(packaging, "find_spec", lambda _: None)
    assert run("package", exported, "--for", "model-api", "--output", tmp_path / "again") == 0
    assert "pip install openvino-model-api" in capsys.readouterr().out


def test_a_score_that_is_the_maximum_of_another_map_is_refused(tmp_path: Path) -> None:
    """As of models that draw another map than they score."""
    path = first_channel(tmp_path / "model.xml", is_drawn_otherwise=True)
    with pytest.raises(ValueError, match="the maximum of something else"):
        deploy.package(path, "dlstreamer", tmp_path / "one", size=(8, 8))


def test_the_benchmark_finds_no_difference(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("model_api")
    for number, kind in enumerate(("good", "good", "bad", "bad")):
        (tmp_path / "test" / kind).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "test" / kind / f"{number}.png"), colourful((40, 56), 4 * number))
    monkeypatch.setattr("sys.argv", ["runtimes.py", str(exported), "--root", str(tmp_path), "--seconds", "1"])
    runtimes.main()
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].strip("|").split("|")]
    _, ours, theirs, difference, verdicts, megabytes, packaged, *rates = cells
    assert ours == theirs
    assert float(difference) < 1e-4
    assert verdicts == "0"
    assert float(packaged) == pytest.approx(float(megabytes), rel=0.1)
    assert min(map(float, rates)) > 0
