"""3. Parameters: how many, which shapes, drawn in which order."""

import random

import pytest

from microgpt import Model, shapes

LETTERS = list("abcdefghijklmnopqrstuvwxyz")


def test_the_default_model_has_4192_parameters():
    assert len(Model(LETTERS, random.Random(42)).params) == 4192


def test_the_matrices_are_rows_of_outputs_by_inputs_in_the_order_of_the_convention():
    assert list(shapes(vocab_size=27, n_embd=16, n_layer=2, block_size=8)) == [
        ("wte", 27, 16),
        ("wpe", 8, 16),
        ("lm_head", 27, 16),
        ("layer0.attn_wq", 16, 16),
        ("layer0.attn_wk", 16, 16),
        ("layer0.attn_wv", 16, 16),
        ("layer0.attn_wo", 16, 16),
        ("layer0.mlp_fc1", 64, 16),
        ("layer0.mlp_fc2", 16, 64),
        ("layer1.attn_wq", 16, 16),
        ("layer1.attn_wk", 16, 16),
        ("layer1.attn_wv", 16, 16),
        ("layer1.attn_wo", 16, 16),
        ("layer1.mlp_fc1", 64, 16),
        ("layer1.mlp_fc2", 16, 64),
    ]


def test_parameters_are_drawn_row_by_row_from_gauss_with_spread_008():
    model = Model(list("ab"), random.Random(7), 4, 2, 2, 3)
    rng = random.Random(7)
    for name, n_out, n_in in shapes(3, 4, 2, 3):
        matrix = model.state_dict[name]
        assert [len(row) for row in matrix] == [n_in] * n_out
        assert [[p.data for p in row] for row in matrix] == [
            [rng.gauss(0, 0.08) for _ in range(n_in)] for _ in range(n_out)
        ]


def test_params_are_the_values_of_the_state_dict_themselves_in_order():
    model = Model(list("ab"), random.Random(7), 4, 2, 2, 3)
    by_hand = [p for w in model.state_dict.values() for row in w for p in row]
    assert len(by_hand) == len(model.params)
    assert all(p is q for p, q in zip(by_hand, model.params))


def test_a_model_knows_its_settings():
    model = Model(list("ab"), random.Random(7), 6, 2, 3, 5)
    assert (model.n_embd, model.n_layer, model.n_head, model.block_size) == (6, 2, 3, 5)
    assert model.chars == ["a", "b"]
    model = Model(list("ab"), random.Random(7))
    assert (model.n_embd, model.n_layer) == (16, 1)
    assert (model.n_head, model.block_size) == (4, 16)


def test_heads_that_would_drop_channels_are_refused():
    with pytest.raises(ValueError, match="n_head 4 does not divide n_embd 6"):
        Model(LETTERS, random.Random(42), n_embd=6, n_head=4)
