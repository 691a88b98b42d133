"""3. Parameters: their number, their shapes, and the order in which they are drawn."""

import random

import pytest

from microgpt import Model, Value, matrix

LETTERS = list("abcdefghijklmnopqrstuvwxyz")


def test_the_default_model_has_4192_parameters():
    assert len(Model(LETTERS, random.Random(42)).params) == 4192


def test_the_matrices_have_the_names_shapes_and_order_of_the_convention():
    model = Model(LETTERS, random.Random(1), 6, n_layer=2, n_head=3, block_size=5)
    assert [(name, len(w), len(w[0])) for name, w in model.state_dict.items()] == [
        ("wte", 27, 6),
        ("wpe", 5, 6),
        ("lm_head", 27, 6),
        ("layer0.attn_wq", 6, 6),
        ("layer0.attn_wk", 6, 6),
        ("layer0.attn_wv", 6, 6),
        ("layer0.attn_wo", 6, 6),
        ("layer0.mlp_fc1", 24, 6),
        ("layer0.mlp_fc2", 6, 24),
        ("layer1.attn_wq", 6, 6),
        ("layer1.attn_wk", 6, 6),
        ("layer1.attn_wv", 6, 6),
        ("layer1.attn_wo", 6, 6),
        ("layer1.mlp_fc1", 24, 6),
        ("layer1.mlp_fc2", 6, 24),
    ]
    assert all(len({len(row) for row in w}) == 1 for w in model.state_dict.values())


def test_a_matrix_is_drawn_row_by_row_with_standard_deviation_008():
    rng, same = random.Random(7), random.Random(7)
    assert [[p.data for p in row] for row in matrix(3, 2, rng)] == [
        [same.gauss(0, 0.08), same.gauss(0, 0.08)] for _ in range(3)
    ]


def test_the_parameters_are_drawn_in_the_order_of_the_state_dict_and_nothing_else_is():
    rng, same = random.Random(7), random.Random(7)
    model = Model(list("ab"), rng, n_embd=4, n_layer=2, n_head=2, block_size=3)
    for w in model.state_dict.values():
        for row in w:
            assert [p.data for p in row] == [same.gauss(0, 0.08) for _ in row]
    assert rng.getstate() == same.getstate()


def test_params_are_the_values_of_the_state_dict_in_order():
    model = Model(list("ab"), random.Random(7), 4, 2, 2, 3)
    expected = [p for w in model.state_dict.values() for row in w for p in row]
    assert len(expected) == len(model.params) == len(set(model.params))
    assert all(p is q for p, q in zip(expected, model.params))
    assert all(type(p) is Value and not p._children for p in model.params)


def test_a_model_stores_its_settings():
    model = Model(list("ab"), random.Random(7), 6, 2, 3, 5)
    assert (model.n_embd, model.n_layer, model.n_head, model.block_size) == (6, 2, 3, 5)
    assert model.chars == ["a", "b"]
    model = Model(list("ab"), random.Random(7))
    assert (model.n_embd, model.n_layer) == (16, 1)
    assert (model.n_head, model.block_size) == (4, 16)


@pytest.mark.parametrize("n_embd, n_head", [(6, 4), (16, 3), (4, 8)])
def test_a_number_of_heads_that_does_not_divide_the_channels_is_refused(n_embd, n_head):
    with pytest.raises(ValueError) as error:
        Model(LETTERS, random.Random(42), n_embd=n_embd, n_head=n_head)
    assert str(n_embd) in str(error.value) and str(n_head) in str(error.value)


@pytest.mark.parametrize("n_head", [0, -4])  # although 16 % -4 == 0
def test_a_model_without_heads_is_refused(n_head):
    with pytest.raises(ValueError, match=f"n_head={n_head} "):
        Model(LETTERS, random.Random(42), n_head=n_head)


def test_one_head_and_as_many_heads_as_channels_are_allowed():
    for n_head in (1, 6):
        model = Model(LETTERS, random.Random(42), n_embd=6, n_head=n_head)
        assert model.n_head == n_head
