import json
import re
import types
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
from anomalib.deploy import OpenVINOInferencer
from inspections import HEIGHT, NAMES, WIDTH, other_model, picture, run
from numpy.typing import NDArray
from openvino import opset13

from riad_anomalib import deploy
from riad_anomalib.deploy.inference import model_files


def test_numbers_are_those_of_anomalibs_inferencer(
    exported: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # the inferencer leaves a cache where it is
    inferencer = OpenVINOInferencer(exported, device="CPU", config={"INFERENCE_PRECISION_HINT": "f32"})
    requests = deploy.infer_requests(deploy.load_model(exported, "CPU", "latency", "f32"), "latency")
    images: Any = deploy.open_source(str(pictures))
    results = list(deploy.infer(requests, images))
    assert [result.name for result in results] == NAMES
    assert {result.pred_label for result in results} == {True, False}
    for result in results:
        expected: Any = inferencer.predict(pictures / result.name)
        np.testing.assert_array_equal(deploy.as_input(result.image), expected.image.transpose(0, 3, 1, 2))
        assert result.pred_score == pytest.approx(expected.pred_score.item(), abs=1e-6)
        assert result.pred_label == expected.pred_label.item()
        np.testing.assert_allclose(result.anomaly_map, expected.anomaly_map.squeeze(), atol=1e-6)
        np.testing.assert_array_equal(result.pred_mask, expected.pred_mask.squeeze())


class Requests:
    """Requests that answer with the mean of their input, in memory of their own that they use again."""

    def __init__(self, number: int) -> None:
        self.made = [Request(self) for _ in range(number)]
        self.at_work = 0
        self.most = 0


class Request:
    """As much of a request as is needed; nothing that could call back into Python, see infer."""

    def __init__(self, requests: Requests) -> None:
        self.requests = requests
        self.data = np.zeros((1, 1, 2, 2))
        self.is_at_work = False

    def start_async(self, inputs: dict[int, NDArray[Any]]) -> None:
        assert not self.is_at_work
        self.is_at_work = True
        self.data[:] = inputs[0].mean()
        self.requests.at_work += 1
        self.requests.most = max(self.requests.most, self.requests.at_work)

    def wait(self) -> None:
        assert self.is_at_work
        self.is_at_work = False
        self.requests.at_work -= 1

    def get_tensor(self, name: str) -> Any:
        assert not self.is_at_work
        return types.SimpleNamespace(data=self.data[0, 0, 0, :1] if name in {"pred_score", "pred_label"} else self.data)


def test_all_requests_are_at_work_and_results_keep_the_order() -> None:
    requests = Requests(3)
    made: Any = requests.made
    images = [(str(i), np.full((4, 4, 3), i, np.uint8)) for i in range(8)]
    results = list(deploy.infer(made, images))
    assert [result.name for result in results] == [str(i) for i in range(8)]
    for i, result in enumerate(results):
        assert round(255 * result.pred_score) == i
        np.testing.assert_allclose(255 * result.anomaly_map, i)
    assert requests.most == 3


def test_requests_that_a_run_left_behind_can_be_used_again() -> None:
    requests = Requests(3)
    made: Any = requests.made
    images = [(str(i), np.full((4, 4, 3), i, np.uint8)) for i in range(8)]
    first = deploy.infer(made, images)
    next(first)
    assert requests.at_work == 2
    first.close()  # type: ignore[attr-defined]
    assert requests.at_work == 0
    assert len(list(deploy.infer(made, images))) == 8


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 2.19 GiB"), RuntimeError("std::bad_alloc")])
@pytest.mark.parametrize("where", ["start_async", "wait"])
def test_a_picture_that_needs_more_memory_than_there_is_costs_only_itself(
    where: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = getattr(Request, where)

    def run_out(self: Request, *arguments: Any) -> None:
        if where == "wait":
            method(self)
        if (arguments[0][0] if arguments else self.data).mean() * 255 > 200:
            raise error
        if where == "start_async":
            method(self, *arguments)

    monkeypatch.setattr(Request, where, run_out)
    images = [(str(i), np.full((4, 4, 3), 250 if i in {0, 4, 5} else i, np.uint8)) for i in range(8)]
    for number in (1, 3):
        skipped: dict[str, str] = {}
        made: Any = Requests(number).made
        results = list(deploy.infer(made, images, skipped.__setitem__))
        assert [result.name for result in results] == ["1", "2", "3", "6", "7"]
        assert [round(255 * result.pred_score) for result in results] == [1, 2, 3, 6, 7]
        assert skipped == dict.fromkeys("045", "needs more memory than there is: cut it into parts")
    with pytest.raises(type(error)):
        list(deploy.infer(made, images))


def test_an_onnx_model_comes_with_the_files_that_it_names(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    names = ["weights/first.bin", "model.onnx.data", "ä" * 70]  # the last one's length has two bytes
    tensors = []
    for name in [*names, names[0]]:
        array = onnx.numpy_helper.from_array(np.ones(3, np.float32), name)
        onnx.external_data_helper.set_external_data(array, name)
        array.ClearField("raw_data")
        tensors.append(array)
        (tmp_path / name).write_bytes(np.ones(3, np.float32).tobytes())
    decoy = onnx.numpy_helper.from_array(np.frombuffer(b"\x0a\x08location\x12\x01x", np.uint8), "decoy")
    node = onnx.helper.make_node("Constant", [], ["c"], value=tensors.pop())
    graph = onnx.helper.make_graph([node], "g", [], [], [*tensors, decoy])
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    first, *others = model_files(path)
    assert first == path
    assert sorted(others) == sorted(tmp_path / name for name in names)
    (tmp_path / names[0]).unlink()
    with pytest.raises(ValueError, match=r"first\.bin does not exist: give an \.xml .*, or an \.onnx with its data"):
        model_files(path)
    path.write_bytes(path.read_bytes().replace(b"weights/first.bin", b"../eights/fir.bin"))
    with pytest.raises(ValueError, match=r"has its weights in \.\./eights/fir\.bin, outside its folder"):
        model_files(path)
    assert model_files(exported) == [exported, exported.with_suffix(".bin")]


def test_a_loaded_model_takes_one_picture_of_any_size_and_knows_all_other_sizes(exported: Path) -> None:
    """What OpenVINO needs to fuse what follows the network."""
    model = deploy.load_model(exported, "CPU", "latency", "f32")
    assert model.input().partial_shape == openvino.PartialShape([1, 3, -1, -1])
    assert {name: list(model.output(name).shape) for name in deploy.OUTPUTS} == {
        "pred_score": [1],
        "pred_label": [1],
        "anomaly_map": [1, 1, 32, 48],
        "pred_mask": [1, 1, 32, 48],
    }


def test_latency_hands_out_each_result_before_it_reads_on(exported: Path) -> None:
    read: list[str] = []

    def camera() -> Iterator[tuple[str, NDArray[Any]]]:
        for name in "abc":
            read.append(name)
            yield name, picture(0)

    requests = deploy.infer_requests(deploy.load_model(exported, "CPU", "latency", "f32"), "latency")
    for result in deploy.infer(requests, camera()):
        assert read[-1] == result.name
    assert read == ["a", "b", "c"]


def test_a_model_of_one_size_says_which_pictures_do_not_fit(
    exported: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = openvino.Core().read_model(exported)
    model.reshape([1, 3, HEIGHT, WIDTH])
    openvino.save_model(model, tmp_path / "model.xml")
    assert run(tmp_path / "model.xml", pictures) == 1
    out, err = capsys.readouterr()
    assert "skipped: line 2/large.png is (300, 400, 3), the model takes [1,3,40,56]: resize it" in err
    assert "5 frames" in out
    assert "1 skipped" in out


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_a_request_that_fails_ends_the_run_with_its_reason(
    mode: str,
    tmp_path: Path,
    pictures: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing = other_model(tmp_path / "model.xml", [1, 3, -1, -1], deploy.OUTPUTS)
    assert run(failing, pictures, "--mode", mode) == 2
    out, err = capsys.readouterr()
    assert re.fullmatch(r"error: stopped after 0 frames: .*8\.8.*\n", err)
    assert out.startswith("0 frames")


def test_precision_is_f32_unless_asked_otherwise(
    exported: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = []
    compile_model = openvino.Core.compile_model

    def record(self: openvino.Core, model: openvino.Model, device: str, config: dict[str, str]) -> Any:
        configs.append(config)
        return compile_model(self, model, device, config)

    monkeypatch.setattr(openvino.Core, "compile_model", record)
    for options in ((), ("--mode", "throughput", "--precision", "bf16"), ("--precision", "auto")):
        assert run(exported, pictures / "a.png", *options) == 0
    assert configs == [
        {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"},
        {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "bf16"},
        {"PERFORMANCE_HINT": "LATENCY"},
    ]


def test_verdicts_are_on_the_mean_over_past_frames_anew_in_every_folder() -> None:
    names = [f"{folder}/{i}" for folder, number in (("a", 4), ("b", 2)) for i in range(number)]
    own = [0.9, 0.3, 0.6, 0.3, 0.2, 0.9]
    blank: Any = np.zeros((4, 4))
    given = [
        deploy.Result(name, blank, score, score > 0.5, blank, blank) for name, score in zip(names, own, strict=True)
    ]
    judged = list(deploy.judged(deploy.average(given, 3), threshold=0.5))
    assert [result.averaged_score for result in judged] == pytest.approx([0.9, 0.6, 0.6, 0.4, 0.2, 0.55])
    assert [result.pred_label for result in judged] == [True, True, True, False, False, True]
    assert [result.pred_score for result in judged] == own
    assert list(deploy.judged(given, threshold=None)) == given


def test_a_lost_frame_is_missing_from_its_means_and_no_older_one_takes_its_place() -> None:
    blank: Any = np.zeros((4, 4))
    read = deque(["a/0", "a/1", "a/2", "a/3", "b/0", "b/1", "b/2"])
    own = {"a/0": 0.9, "a/1": 0.3, "a/3": 0.6, "b/1": 0.2, "b/2": 0.4}  # lost: a/2, b/0
    given = [deploy.Result(name, blank, score, False, blank, blank) for name, score in own.items()]
    averaged = [result.averaged_score for result in deploy.average(given, 3, read)]
    assert averaged == pytest.approx([0.9, 0.6, 0.45, 0.2, 0.3])
    assert not read
    stream = [
        deploy.Result(f"{i:06}", blank, score, False, blank, blank) for i, score in ((0, 0.9), (1, 0.3), (3, 0.6))
    ]
    assert [result.averaged_score for result in deploy.average(stream, 3)] == pytest.approx([0.9, 0.6, 0.45])


@pytest.mark.parametrize("sensitivity", [0.5, 0.3])
def test_the_threshold_is_found_in_the_graph(sensitivity: float, tmp_path: Path) -> None:
    score = opset13.parameter([1], np.float32, "input")
    verdict = opset13.greater(score, np.array(1 - sensitivity, np.float32))
    model = openvino.Model([opset13.reshape(verdict, np.array([1, 1]), special_zero=False)], [score])
    model.outputs[0].get_tensor().set_names({"pred_label"})
    openvino.save_model(model, tmp_path / "model.xml", compress_to_fp16=True)
    assert deploy.score_threshold(tmp_path / "model.xml") == pytest.approx(1 - sensitivity, abs=1e-3)


def test_a_graph_without_a_threshold_is_refused_where_means_are_judged(tmp_path: Path) -> None:
    model = other_model(tmp_path / "other.xml", [1, 3, 8, 8], deploy.OUTPUTS)
    with pytest.raises(ValueError, match=r"other.xml does not compare its score with a number.*give --threshold"):
        deploy.score_threshold(model)


def test_what_the_documents_send_to_a_server_is_what_the_model_takes_and_gives(exported: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/cluster.md").read_text(encoding="utf-8")
    request, answer = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, flags=re.DOTALL))
    types = {"FP32": openvino.Type.f32, "BOOL": openvino.Type.boolean}
    model = openvino.Core().read_model(exported)
    (given,), (taken,) = request["inputs"], model.inputs
    assert taken.names == {given["name"]}
    assert taken.element_type == types[given["datatype"]]
    assert taken.partial_shape.compatible(openvino.PartialShape(given["shape"]))
    results = openvino.compile_model(model)(np.array(given["data"], np.float32).reshape(given["shape"]))
    assert [output["name"] for output in answer["outputs"]] == [output.any_name for output in model.outputs]
    for output in answer["outputs"]:
        value = results[output["name"]]
        assert model.output(output["name"]).element_type == types[output["datatype"]]
        assert [128 if length in {32, 48} else length for length in value.shape] == output["shape"]  # its image size
        assert {type(entry) for entry in output["data"]} == {type(value.flat[0].item())}
