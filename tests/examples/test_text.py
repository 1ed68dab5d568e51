from __future__ import annotations

from examples._text import sentences, split_of


def test_splits_are_disjoint_and_large_enough() -> None:
    calibration, test = sentences("calibration"), sentences("test")
    assert len(calibration) > 1500
    assert len(test) > 700
    assert not {text.lower() for text in calibration} & {text.lower() for text in test}


def test_sentences_are_plain_english_of_the_asked_length() -> None:
    for text in sentences("test", shortest=12, longest=15):
        assert 12 <= len(text.split()) <= 15
        assert text[0].isupper()
        assert text.endswith(".")
        assert text.replace(",", "").replace("'", "").replace(" ", "")[:-1].isalpha()


def test_a_split_ignores_case() -> None:
    assert split_of("Some Words") == split_of("SOME WORDS")
