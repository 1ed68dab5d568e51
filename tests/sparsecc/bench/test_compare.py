"""Two processes, taking turns."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from sparsecc.bench import PORTABLE, compare
from sparsecc.errors import ArtifactError, BackendError, CalibrationError, ModelError
from sparsecc.manifest import MODEL_NAME

SHORT = 0.2


@pytest.fixture
def model(write_model, tmp_path):
    return write_model(tmp_path / "dense.onnx")


def test_a_model_of_ten_times_the_work_is_slower(artifact, write_model, tmp_path):
    heavy = write_model(tmp_path / "heavy.onnx", repeats=60)
    x = np.random.default_rng(0).normal(size=(256, 64)).astype(np.float32)
    result = compare(artifact, heavy, inputs={"x": x}, seconds=SHORT)
    assert result.ratio > 3
    assert result.ratio_low <= result.ratio <= result.ratio_high
    assert result.ours_ms < result.baseline_ms
    assert result.baseline == str(heavy)
    assert result.max_rel_difference > 0.1  # another function: information, not a failure


def test_without_a_baseline_the_portable_bodies_are_it(artifact):
    result = compare(artifact, seconds=SHORT, threads=2)
    assert result.baseline == PORTABLE
    assert result.threads == 2
    assert result.max_rel_difference == 0


def test_the_same_model_is_as_fast_as_itself(artifact, model):
    result = compare(artifact, model, seconds=0.5)
    assert 0.5 < result.ratio < 2
    assert result.rounds >= 3


def test_memory_is_that_of_the_worker_alone(artifact):
    ballast = np.ones(300 << 17)  # 300 MB in this process, which a child must not inherit
    result = compare(artifact, seconds=SHORT)
    assert ballast.nbytes > 300e6
    assert 10 < result.peak_rss_mb < 200
    assert 10 < result.baseline_peak_rss_mb < 200


def test_progress_runs_from_zero_to_one(artifact):
    seen = []
    compare(artifact, seconds=SHORT, progress=lambda step, done: seen.append((step, done)))
    fractions = [done for _, done in seen]
    assert fractions[0] == 0
    assert fractions[-1] == 1
    assert fractions == sorted(fractions)


def test_inputs_from_a_file(artifact, tmp_path):
    path = tmp_path / "inputs.npz"
    np.savez(path, x=np.ones((4, 64), np.float32))
    assert compare(artifact, inputs=path, seconds=SHORT).runs > 0


@pytest.mark.parametrize(
    "arrays",
    [
        {"z": np.ones((4, 64), np.float32)},
        {"x": np.ones((4, 63), np.float32)},
        {"x": np.ones((4, 64))},
    ],
)
def test_inputs_that_do_not_fit(artifact, arrays):
    with pytest.raises(CalibrationError, match=r"'[xz]'"):
        compare(artifact, inputs=arrays, seconds=SHORT)


def test_inputs_that_are_not_an_npz_file(artifact, tmp_path):
    path = tmp_path / "inputs.npz"
    path.write_bytes(b"junk")
    with pytest.raises(CalibrationError, match=r"inputs\.npz"):
        compare(artifact, inputs=path, seconds=SHORT)


def test_a_baseline_that_is_not_there_or_not_a_model(artifact, tmp_path):
    with pytest.raises(ModelError, match=r"nowhere\.onnx"):
        compare(artifact, tmp_path / "nowhere.onnx")
    with pytest.raises(ModelError, match="is a folder"):
        compare(artifact, tmp_path)
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"not a model at all")
    with pytest.raises(ModelError, match=r"junk\.onnx"):
        compare(artifact, junk)


@pytest.mark.parametrize(
    "inputs",
    [
        [("image", TensorProto.FLOAT, ["n", 64])],
        [("x", TensorProto.FLOAT, ["n", 64]), ("more", TensorProto.FLOAT, [1])],
        [("x", TensorProto.DOUBLE, ["n", 64])],
        [("x", TensorProto.FLOAT, ["n", 32])],
    ],
)
def test_a_baseline_with_other_inputs(artifact, write_model, tmp_path, inputs):
    other = write_model(tmp_path / "other.onnx", inputs=inputs)
    with pytest.raises(ModelError, match="other inputs"):
        compare(artifact, other)


def test_a_baseline_that_onnx_runtime_refuses(artifact, tmp_path):
    proto = onnx.load(artifact / MODEL_NAME)
    proto.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(proto, tmp_path / "refused.onnx")
    with pytest.raises(BackendError, match=r"refused\.onnx.*NoSuchOperator") as caught:
        compare(artifact, tmp_path / "refused.onnx")
    assert caught.value.exit_code == 8


def test_names_that_python_would_trip_over(write_model, artifact_of, tmp_path):
    folder = artifact_of(
        lambda path: write_model(path, inputs=[("file", TensorProto.FLOAT, ["n", 64])])
    )
    assert compare(folder, seconds=SHORT).max_rel_difference == 0


def test_an_altered_artifact(artifact):
    with (artifact / MODEL_NAME).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ArtifactError, match="altered"):
        compare(artifact)


def test_a_folder_that_is_no_artifact(tmp_path):
    with pytest.raises(ArtifactError, match="not a sparsecc artifact"):
        compare(tmp_path)
