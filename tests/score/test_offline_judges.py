"""The offline measures against values worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from viscot_core.score.offline import ANLS_THRESHOLD, MEASURES, anls, normalise


@pytest.mark.parametrize(
    ("measure", "reference", "answer", "score"),
    [
        ("exact", "The Cat.", "cat", 1),
        ("exact", "42", " 42. ", 1),
        ("exact", "1.5", "15", 0),
        ("exact", "-3", "3", 0),
        ("exact", "$1,200", "1200", 1),
        ("exact", "A", "a.", 1),
        ("exact", "A", "the", 0),
        ("exact", "?", "!", 0),
        ("exact", "No", "", 0),
        ("exact", "ﬁve", "five", 1),
        ("contains", "red card", "It is the red card.", 1),
        ("contains", "red", "a credible answer", 0),
        ("contains", "10", "100", 0),
        ("vqa", "two dogs", "2 dogs", 1),
        ("vqa", "no", "yes", 0),
        ("vqa", "cat\nkitty", "Kitty", 1),  # short lists name right answers, none has to agree with others
        ("vqa", "cat\ncat\ncat", "cat", 1),
        ("vqa", "cat\nkitty", "dog", 0),
        ("vqa", "cat\n", "", 0),
        ("vqa", "cat\n" + "\n".join(["dog"] * 9), "cat", 0.3),  # ten are annotators: (9 x 1/3 + 0) / 10
        ("anls", "kitten", "kitten", 1),
        ("anls", "kitten", "sitten", 1 - 1 / 6),
        ("anls", "ab", "ac", 0),  # a similarity of exactly 0.5 counts as wrong
        ("anls", "User", "", 0),
        ("relaxed", "100", "104.9", 1),
        ("relaxed", "100", "106", 0),
        ("relaxed", "$1,200", "1190", 1),
        ("relaxed", "12.5%", "0.125", 1),
        ("relaxed", "0", "0.0001", 0),
        ("relaxed", "blue", "Blue.", 1),
    ],
)
def test_measures(measure: str, reference: str, answer: str, score: float) -> None:
    assert MEASURES[measure](reference, answer) == pytest.approx(score)


@given(st.text(), st.text())
def test_scores_stay_between_0_and_1_and_equal_texts_are_right(a: str, b: str) -> None:
    for name, measure in MEASURES.items():
        assert 0 <= measure(a, b) <= 1
        if name in ("letter", "yes-no"):
            continue  # these read one letter or one word out of a sentence
        if name != "contains" or normalise(a):
            assert measure(a, a) == 1


def edit_distance(a: str, b: str) -> int:
    """Levenshtein's distance by its definition, row by row."""
    previous = list(range(len(b) + 1))
    for i, char in enumerate(a, 1):
        current = [i]
        for j, other in enumerate(b, 1):
            current.append(min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (char != other)))
        previous = current
    return previous[-1]


@given(words := st.text("abc ß\u0130\ud800\U0001f600", max_size=12), words)
def test_anls_is_one_minus_the_edit_distance_by_its_definition(reference: str, answer: str) -> None:
    a, b = " ".join(reference.lower().split()), " ".join(answer.lower().split())
    similarity = 1.0 - edit_distance(a, b) / max(len(a), len(b)) if a or b else 1.0
    assert anls(reference, answer) == (similarity if similarity > ANLS_THRESHOLD else 0.0)
