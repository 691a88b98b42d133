"""1. Data and tokens: what the model gets to read, and what it must never see."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microgpt import load_docs, split_docs, tokenize


@pytest.mark.parametrize(
    "raw, docs",
    [
        (b"ana\nbob\n", ["ana", "bob"]),
        (b"ana\nbob", ["ana", "bob"]),  # no line end at the end
        (b"ana\r\nbob\rcy\n", ["ana", "bob", "cy"]),  # Windows, old Mac, Unix
        (b"  ana\t\n\n \nbob\n", ["ana", "bob"]),  # stripped, empty ones dropped
        (b"\xef\xbb\xbfana\n", ["ana"]),  # a byte-order mark is no character
        ("zo\u00eb\n\u3042\u3044\n".encode(), ["zo\u00eb", "\u3042\u3044"]),
        (b"a b\n", ["a b"]),  # inner space is a character
        (b"", []),
    ],
)
def test_documents_are_the_stripped_lines_of_a_utf8_file(tmp_path, raw, docs):
    path = tmp_path / "data.txt"
    path.write_bytes(raw)
    assert load_docs(path) == docs


def test_text_that_is_not_utf8_is_an_error_and_not_garbage(tmp_path):
    path = tmp_path / "data.txt"
    path.write_bytes("zo\u00eb".encode("latin-1"))
    with pytest.raises(UnicodeError):
        load_docs(path)


@pytest.mark.parametrize(
    "doc, block_size, tokens",
    [
        ("ana", 16, [2, 0, 1, 0, 2]),  # BOS at both ends
        ("ana", 4, [2, 0, 1, 0, 2]),  # 4 predictions: all fit
        ("ana", 3, [2, 0, 1, 0]),  # 3 predictions: the end is not learnt
        ("ana", 1, [2, 0]),
        ("a" * 99, 3, [2, 0, 0, 0]),
        ("n", 16, [2, 1, 2]),
    ],
)
def test_a_document_becomes_ids_between_two_bos(doc, block_size, tokens):
    assert tokenize(doc, ["a", "n"], block_size) == tokens


@given(st.text("abc", min_size=1, max_size=20), st.integers(1, 12))
def test_there_are_never_more_predictions_than_positions(doc, block_size):
    tokens = tokenize(doc, ["a", "b", "c"], block_size)
    assert len(tokens) - 1 == min(len(doc) + 1, block_size)


@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=60))
def test_no_document_is_both_trained_on_and_held_out(docs):
    train_docs, held_out = split_docs(docs)
    assert set(train_docs).isdisjoint(held_out)


def test_the_last_tenth_is_held_out_and_200_of_it_are_tested():
    docs = [str(i) for i in range(2019)]
    train_docs, held_out = split_docs(docs)
    assert train_docs == docs[:1818]
    assert held_out == docs[1818:2018]


def test_of_the_first_200_held_out_those_also_in_training_are_left_out():
    docs = [str(i) for i in range(2700)] + ["0"] * 150 + [f"x{i}" for i in range(150)]
    assert split_docs(docs)[1] == [f"x{i}" for i in range(50)]


def test_fewer_than_ten_documents_hold_out_none():
    assert split_docs(list("abcdefghi")) == (list("abcdefghi"), [])
    assert split_docs(list("abcdefghij")) == (list("abcdefghi"), ["j"])


def test_the_data_that_comes_with_the_project_is_clean(project):
    docs = load_docs(project / "input.txt")
    assert len(docs) == len(set(docs)) == 24969
    assert "".join(sorted(set("".join(docs)))) == "abcdefghijklmnopqrstuvwxyz"
    assert max(map(len, docs)) == 13  # so that a block of 16 holds each of them whole
