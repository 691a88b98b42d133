"""4. The model: each layer by its properties, then every parameter's gradient."""

import math
import random

import pytest
from helpers import mean_document_loss, slope, small_model
from hypothesis import given
from hypothesis import strategies as st

from microgpt import (
    Value,
    attention,
    backprop,
    gpt,
    linear,
    logsumexp,
    mlp,
    rmsnorm,
    softmax,
)

logit = st.floats(-1e4, 1e4)
logits_lists = st.lists(logit, min_size=1, max_size=8)


def values(numbers):
    return [Value(number) for number in numbers]


def data(vs):
    return [v.data for v in vs]


def run_gpt(model, tokens):
    """The logits after each token, as floats: [time][vocab_size]."""
    keys, vals = ([[] for _ in range(model.n_layer)] for _ in range(2))
    return [data(gpt(token, i, keys, vals, model)) for i, token in enumerate(tokens)]


# ---- the parts -----------------------------------------------------------------------


def test_linear_is_a_matrix_times_a_vector():
    w = [values([1, 2]), values([3, 4]), values([5, 6])]
    assert data(linear(values([10, 100]), w)) == [210, 430, 650]


@given(logits_lists)
def test_softmax_gives_probabilities_that_sum_to_one(numbers):
    probs = data(softmax(values(numbers)))
    assert all(0 <= p <= 1 + 1e-11 for p in probs)
    assert math.fsum(probs) == pytest.approx(1, abs=1e-11)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=8), st.floats(-50, 50))
def test_softmax_is_unmoved_by_a_shift(numbers, shift):
    shifted = [number + shift for number in numbers]
    probs = data(softmax(values(numbers)))
    assert data(softmax(values(shifted))) == pytest.approx(probs, abs=1e-12)


def test_softmax_of_two_equal_and_one_larger_by_ln_2():
    probs = data(softmax(values([0, 0, math.log(2)])))
    assert probs == pytest.approx([0.25, 0.25, 0.5])


@pytest.mark.parametrize("numbers", [[1e4, -1e4], [-1e4, -1e4 - 1], [1e4] * 3])
def test_softmax_survives_enormous_logits(numbers):
    assert math.fsum(data(softmax(values(numbers)))) == pytest.approx(1, abs=1e-11)


@given(logits_lists)
def test_logsumexp_is_between_the_largest_and_that_plus_log_n(numbers):
    result = logsumexp(values(numbers)).data
    assert max(numbers) <= result <= max(numbers) + math.log(len(numbers)) + 1e-11


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=5))
def test_the_slopes_of_logsumexp_are_those_that_are_measured(numbers):
    logits = values(numbers)
    logsumexp(logits).backward()
    for i, z in enumerate(logits):

        def moved(t, i=i):
            return logsumexp(values([*numbers[:i], t, *numbers[i + 1 :]])).data

        assert z.grad == pytest.approx(slope(moved, numbers[i], 1e-3), abs=1e-9)


@given(
    st.lists(st.floats(0.5, 2), min_size=1, max_size=6),
    st.sampled_from([1e-1, 10.0, 1e6, 1e100]),
)
def test_rmsnorm_makes_the_root_mean_square_one_at_any_scale(numbers, scale):
    y = data(rmsnorm(values([number * scale for number in numbers])))
    assert math.sqrt(math.fsum(a * a for a in y) / len(y)) == pytest.approx(1, rel=1e-2)
    if scale > 1:
        plain = data(rmsnorm(values(number * 1e3 for number in numbers)))
        assert y == pytest.approx(plain, rel=1e-6)


def test_rmsnorm_adds_its_1e_5_under_the_root():
    assert data(rmsnorm(values([0.001, 0.0]))) == pytest.approx(
        [0.001 / math.sqrt(0.5e-6 + 1e-5), 0.0], rel=1e-14
    )
    assert data(rmsnorm(values([0.0, 0.0]))) == [0.0, 0.0]


def test_the_mlp_squares_what_is_positive_and_drops_the_rest():
    fc1 = [values([1, 0]), values([0, 1]), values([-1, 0])]
    fc2 = [values([1, 10, 100])]
    assert data(mlp(values([3, 2]), fc1, fc2)) == [9 + 40]
    assert data(mlp(values([-3, -2]), fc1, fc2)) == [900]


def identity(n):
    return [values(float(i == j) for j in range(n)) for i in range(n)]


def test_attention_by_hand_on_two_tokens_and_two_heads():
    # All four matrices are the identity, so query = key = value = x, and each head of
    # two channels weighs the values of both tokens by softmax(q . k / sqrt(2)).
    keys, vals, eye = [], [], identity(4)
    first = attention(values([1, 0, 0, 2]), keys, vals, eye, eye, eye, eye, 2)
    assert data(first) == pytest.approx([1, 0, 0, 2])  # alone, it finds itself
    second = attention(values([1, 1, 2, 0]), keys, vals, eye, eye, eye, eye, 2)
    w1 = 1 / (1 + math.exp((2 - 1) / math.sqrt(2)))  # head 1: scores 1 and 2
    w2 = 1 / (1 + math.exp((4 - 0) / math.sqrt(2)))  # head 2: scores 0 and 4
    by_hand = [1, 1 - w1, 2 * (1 - w2), 2 * w2]
    assert data(second) == pytest.approx(by_hand, rel=1e-12)
    assert [data(key) for key in keys] == [[1, 0, 0, 2], [1, 1, 2, 0]]


# ---- the whole: causality, and keys and values as memory -----------------------------

CONFIGS = [
    {"n_embd": 4, "n_layer": 1, "n_head": 2},
    {"n_embd": 4, "n_layer": 2, "n_head": 1},
    {"n_embd": 6, "n_layer": 2, "n_head": 3},
    {"n_embd": 4, "n_layer": 3, "n_head": 4},
]


@pytest.mark.parametrize("config", CONFIGS)
def test_later_tokens_leave_earlier_logits_bit_for_bit_unchanged(config):
    model = small_model(spread=5, **config)
    one = run_gpt(model, [3, 0, 1, 2, 0])
    other = run_gpt(model, [3, 0, 1, 0, 1])
    assert one[:3] == other[:3]
    assert one[3] != other[3]


@pytest.mark.parametrize("config", CONFIGS)
def test_earlier_tokens_matter_to_later_logits(config):
    model = small_model(spread=5, **config)
    base = run_gpt(model, [3, 0, 1, 2, 0])[4]
    for i, token in enumerate([3, 0, 1, 2]):
        tokens = [3, 0, 1, 2, 0]
        tokens[i] = (token + 1) % 4
        changed = run_gpt(model, tokens)[4]
        assert max(abs(a - b) for a, b in zip(base, changed)) > 1e-4


def test_the_same_token_at_another_position_has_other_logits():
    one, two = run_gpt(small_model(spread=5), [0, 0])
    assert one != two


def whole_sequence(model, tokens):
    """The logits computed layer by layer for all tokens at once, with a causal mask."""
    w = model.state_dict
    xs = [
        rmsnorm([a + b for a, b in zip(w["wte"][t], w["wpe"][i])])
        for i, t in enumerate(tokens)
    ]
    d = model.n_embd // model.n_head
    for i in range(model.n_layer):
        wq, wk, wv, wo = (w[f"layer{i}.attn_{n}"] for n in ("wq", "wk", "wv", "wo"))
        normed = [rmsnorm(x) for x in xs]
        q, k, v = ([linear(x, m) for x in normed] for m in (wq, wk, wv))
        for t, x in enumerate(xs):
            found = []
            for h in range(0, model.n_embd, d):
                scores = [
                    sum(q[t][j] * k[s][j] for j in range(h, h + d)) / d**0.5
                    if s <= t
                    else Value(-math.inf)  # the mask
                    for s in range(len(tokens))
                ]
                exps = [s.exp() for s in scores]
                probs = [e / sum(exps) for e in exps]
                found += [
                    sum(p * v[s][h + j] for s, p in enumerate(probs)) for j in range(d)
                ]
            x = [a + b for a, b in zip(x, linear(found, wo))]
            made = mlp(rmsnorm(x), w[f"layer{i}.mlp_fc1"], w[f"layer{i}.mlp_fc2"])
            xs[t] = [a + b for a, b in zip(x, made)]
    return [linear(x, w["lm_head"]) for x in xs]


@pytest.mark.parametrize("config", CONFIGS)
def test_token_by_token_equals_the_whole_sequence_with_a_mask(config):
    model, tokens = small_model(spread=5, **config), [3, 0, 1, 2, 0, 0]
    token_by_token = run_gpt(model, tokens)
    at_once = [data(logits) for logits in whole_sequence(model, tokens)]
    for one, other in zip(token_by_token, at_once):
        assert one == pytest.approx(other, rel=1e-11, abs=1e-11)


def test_recomputing_from_scratch_equals_going_on():
    model, tokens = small_model(spread=5, n_layer=2), [3, 0, 1, 2, 0]
    going_on = run_gpt(model, tokens)
    from_scratch = [run_gpt(model, tokens[: i + 1])[-1] for i in range(len(tokens))]
    assert going_on == from_scratch


def test_training_sends_gradients_through_the_earlier_keys_and_values():
    model = small_model(spread=5)
    keys, vals = [[]], [[]]
    gpt(3, 0, keys, vals, model)
    logits = gpt(0, 1, keys, vals, model)
    sum(logits[:2]).backward()
    assert all(abs(k.grad) > 1e-8 for k in keys[0][0])
    assert all(abs(v.grad) > 1e-8 for v in vals[0][0])


# ---- the gradient of every single parameter ------------------------------------------


@pytest.mark.parametrize(
    "config", [{"n_embd": 4, "n_layer": 2}, {"n_embd": 6, "n_layer": 1, "n_head": 3}]
)
def test_every_parameter_has_the_gradient_that_is_measured(config):
    model = small_model(spread=5, block_size=4, **config)
    tokens = [3, 0, 1, 2, 0]  # every character, at every position
    backprop(model, tokens)
    for p in model.params:
        x = p.data

        def loss(t, p=p):
            p.data = t
            return mean_document_loss(model, tokens)

        assert p.grad == pytest.approx(slope(loss, x, 1e-4), rel=1e-6, abs=1e-11)
        p.data = x


@pytest.mark.parametrize("config", CONFIGS)
def test_no_parameter_has_a_zero_gradient(config):
    # Of a document this long every hidden unit of the MLP is on for some token, so a
    # zero would mean that the parameter is never used, or its gradient lost.
    model = small_model(spread=5, block_size=16, **config)
    rng = random.Random(0)
    backprop(model, [3, *(rng.choice([0, 1, 2]) for _ in range(15)), 3])
    assert all(p.grad != 0 for p in model.params)
