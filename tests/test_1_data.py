"""1. Data and tokens: how a file becomes documents, and a document becomes ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microgpt import build_vocab, load_docs, require, split_docs, tokenize


def test_a_requirement_that_is_not_met_raises_its_message():
    require([1], "there is one")
    for nothing in (False, 0, [], ""):
        with pytest.raises(ValueError, match="^there is none$"):
            require(nothing, "there is none")


# ---- documents -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw, docs",
    [
        (b"ana\nbob\n", ["ana", "bob"]),
        (b"ana\nbob", ["ana", "bob"]),  # the last line has no line end
        (b"ana\r\nbob\rcy\n", ["ana", "bob", "cy"]),  # Windows, old Mac, Unix
        (b"  ana\t\n\n \nbob\n", ["ana", "bob"]),  # white space and empty lines
        (b"\xef\xbb\xbfana\n", ["ana"]),  # a byte-order mark is not a character
        ("zo\u00eb\n\u3042\u3044\n".encode(), ["zo\u00eb", "\u3042\u3044"]),
        ("\u3000a\u2028b\u00a0\n".encode(), ["a\u2028b"]),  # only \n and \r end lines
        (b"a b\n", ["a b"]),  # a space inside a document is a character
        (b"", []),
    ],
)
def test_documents_are_the_stripped_lines_of_a_utf8_file(tmp_path, raw, docs):
    path = tmp_path / "data.txt"
    path.write_bytes(raw)
    assert load_docs(path) == docs


def test_text_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "data.txt"
    path.write_bytes("zo\u00eb".encode("latin-1"))
    with pytest.raises(UnicodeError):
        load_docs(path)


def test_the_data_of_the_project_is_clean(project):
    docs = load_docs(project / "input.txt")
    assert len(docs) == len(set(docs)) == 24969
    assert "".join(build_vocab(docs)) == "abcdefghijklmnopqrstuvwxyz"
    assert max(map(len, docs)) == 13  # each fits into a block of 16


# ---- training and held-out documents -------------------------------------------------


@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=60))
def test_no_document_is_both_trained_on_and_held_out(docs):
    train_docs, held_out = split_docs(docs)
    assert set(train_docs).isdisjoint(held_out)


def test_the_last_tenth_is_held_out_and_its_first_200_documents_are_tested():
    docs = [str(i) for i in range(2019)]
    train_docs, held_out = split_docs(docs)
    assert train_docs == docs[:1818]
    assert held_out == docs[1818:2018]


def test_held_out_documents_that_are_also_in_training_are_left_out():
    docs = [str(i) for i in range(2700)] + ["0"] * 150 + [f"x{i}" for i in range(150)]
    assert split_docs(docs)[1] == [f"x{i}" for i in range(50)]


def test_with_fewer_than_ten_documents_none_is_held_out():
    assert split_docs(list("abcdefghi")) == (list("abcdefghi"), [])
    assert split_docs(list("abcdefghij")) == (list("abcdefghi"), ["j"])


# ---- tokens --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "docs, chars",
    [
        (["nana", "bob"], ["a", "b", "n", "o"]),
        (["b", "a", "b"], ["a", "b"]),
        (["zo\u00eb", "A b"], [" ", "A", "b", "o", "z", "\u00eb"]),  # by code point
        (["\U0001f600a"], ["a", "\U0001f600"]),  # one character, two in UTF-16
        ([], []),
    ],
)
def test_the_vocabulary_is_the_sorted_characters_of_all_documents(docs, chars):
    assert build_vocab(docs) == chars


@pytest.mark.parametrize(
    "doc, block_size, tokens",
    [
        ("ana", 16, [2, 0, 1, 0, 2]),  # BOS at both ends
        ("ana", 4, [2, 0, 1, 0, 2]),  # four predictions, and all of them fit
        ("ana", 3, [2, 0, 1, 0]),  # three predictions: the end is cut off
        ("ana", 1, [2, 0]),
        ("a" * 99, 3, [2, 0, 0, 0]),
        ("n", 16, [2, 1, 2]),
        ("", 16, [2, 2]),
    ],
)
def test_a_document_becomes_ids_between_two_bos(doc, block_size, tokens):
    assert tokenize(doc, ["a", "n"], block_size) == tokens


@given(st.text("abc", min_size=1, max_size=20), st.integers(1, 12))
def test_there_are_never_more_predictions_than_positions(doc, block_size):
    tokens = tokenize(doc, ["a", "b", "c"], block_size)
    assert len(tokens) - 1 == min(len(doc) + 1, block_size)


@given(st.text("ab \u00eb\u03bc\u3042\U0001f600"))
def test_the_ids_of_a_document_give_its_characters_back(doc):
    chars = build_vocab([doc, "other"])
    bos, *ids, end = tokenize(doc, chars, len(doc) + 1)
    assert bos == end == len(chars)
    assert "".join(chars[i] for i in ids) == doc


@pytest.mark.parametrize(
    "doc, unknown",
    [
        ("anx", "x"),
        ("\u039c", "\u039c"),  # a Greek Mu, which looks like a Latin M
        ("\U0001f600", "\U0001f600"),
        ("A", "A"),  # capital letters are other characters
        ("n" * 40 + "x", "x"),  # also in the part that would be cut off
    ],
)
def test_unknown_characters_are_refused(doc, unknown):
    with pytest.raises(ValueError, match="unknown") as error:
        tokenize(doc, ["a", "n"], 16)
    assert unknown in str(error.value)
