"""The encoder with a window: what the window means, and that it is found."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch, to whoever exports


def test_a_window_as_wide_as_the_text_hides_nothing_and_a_narrow_one_is_found() -> None:
    import sparsecc
    from examples.long_text.compare import embed, texts
    from examples.long_text.encoder import WindowEncoder
    from examples.sentence_embeddings.encoder import tokenize, trained

    try:
        whole = trained()
    except RuntimeError as error:
        pytest.skip(str(error))
    feed = tokenize(texts(2, 40), 256)
    wide, narrow = WindowEncoder(whole, 256, 256), WindowEncoder(whole, 16, 700)
    np.testing.assert_allclose(embed(wide, feed), embed(whole, feed), rtol=0, atol=1e-6)

    example = {name: torch.from_numpy(value) for name, value in feed.items()}
    auto = torch.export.Dim.AUTO
    shapes = {name: {0: auto, 1: auto} for name in example}
    compiled = sparsecc.compile(narrow, example_inputs=example, dynamic_shapes=shapes)
    rows = [row for row in compiled.report.rows if row.kernel == "attention"]
    assert [row.pattern for row in rows] == ["window 16+16"] * 6
    for length in (60, 600):  # padded, and beyond the positions that the encoder was trained for
        given = tokenize(texts(2, length // 20), length)
        got = next(iter(compiled.run(given).values()))
        np.testing.assert_allclose(got, embed(narrow, given), rtol=0, atol=1e-5)
