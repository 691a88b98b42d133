"""4. The model: properties of each layer, then the gradient of every parameter."""

import math
import random

import pytest
from helpers import (
    check_slopes,
    data,
    empty_cache,
    forward,
    mean_document_loss,
    slope,
    small_model,
    values,
)
from hypothesis import given
from hypothesis import strategies as st

from microgpt import (
    Value,
    add,
    attention,
    gpt,
    linear,
    mlp,
    rmsnorm,
    softmax,
)

logits_lists = st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=8)
vectors = st.lists(st.floats(-2, 2), min_size=1, max_size=5)


def random_matrix(rng, n_out, n_in):
    return [[rng.gauss(0, 1) for _ in range(n_in)] for _ in range(n_out)]


def identity(n):
    return [values(float(i == j) for j in range(n)) for i in range(n)]


# ---- the parts -----------------------------------------------------------------------


def test_linear_is_the_product_of_a_matrix_and_a_vector():
    w = [values([1, 2]), values([3, 4]), values([5, 6])]
    assert data(linear(values([10, 100]), w)) == [210, 430, 650]


def test_a_matrix_with_rows_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match=r"\b2\b.*\b1\b"):
        linear(values([10, 100]), [values([1, 2]), values([3])])


def test_vectors_are_added_channel_by_channel():
    x, y = values([1, 2]), values([10, 20])
    total = add(x, y)
    assert data(total) == [11, 22]
    total[1].backward()
    assert [v.grad for v in x + y] == [0, 1, 0, 1]


@pytest.mark.parametrize("n, m", [(2, 3), (3, 2)])
def test_vectors_of_unequal_length_have_no_sum(n, m):
    with pytest.raises(ValueError, match=rf"\b{n}\b.*\b{m}\b"):
        add(values([1.0] * n), values([1.0] * m))


@given(logits_lists)
def test_softmax_gives_probabilities_that_sum_to_one(numbers):
    probs = data(softmax(values(numbers)))
    assert all(0 <= p <= 1 for p in probs)
    assert math.fsum(probs) == pytest.approx(1, abs=1e-14)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=8), st.floats(-50, 50))
def test_softmax_does_not_change_when_all_logits_are_shifted(numbers, shift):
    shifted = [number + shift for number in numbers]
    probs = data(softmax(values(numbers)))
    assert data(softmax(values(shifted))) == pytest.approx(probs, abs=1e-12)


@given(vectors)
def test_softmax_equals_its_formula(numbers):
    exps = [math.exp(number) for number in numbers]
    expected = [e / math.fsum(exps) for e in exps]
    assert data(softmax(values(numbers))) == pytest.approx(expected, rel=1e-13)


def test_softmax_of_two_equal_logits_and_one_larger_by_ln_2():
    probs = data(softmax(values([0, 0, math.log(2)])))
    assert probs == pytest.approx([0.25, 0.25, 0.5])


@pytest.mark.parametrize(
    "numbers, probs",
    [
        ([1e4, -1e4], [1, 0]),
        ([-1e4, -1e4 - math.log(3)], [0.75, 0.25]),
        ([1e4] * 4, [0.25] * 4),
        ([-1e300, 1e300, 0], [0, 1, 0]),
    ],
)
def test_softmax_does_not_overflow(numbers, probs):
    assert data(softmax(values(numbers))) == pytest.approx(probs, abs=1e-11)


@given(vectors)
def test_softmax_has_the_slopes_that_are_measured(numbers):
    for i in range(len(numbers)):
        check_slopes(lambda logits, i=i: softmax(logits)[i], numbers)


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


def test_rmsnorm_adds_1e_5_under_the_root():
    assert data(rmsnorm(values([0.001, 0.0]))) == pytest.approx(
        [0.001 / math.sqrt(0.5e-6 + 1e-5), 0.0], rel=1e-14
    )
    assert data(rmsnorm(values([0.0, 0.0]))) == [0.0, 0.0]


@given(st.lists(st.floats(0.1, 2), min_size=1, max_size=5))
def test_rmsnorm_has_the_slopes_that_are_measured(numbers):
    for i in range(len(numbers)):
        check_slopes(lambda x, i=i: rmsnorm(x)[i], numbers, tolerance=1e-6)


def test_the_mlp_squares_positive_numbers_and_drops_the_others():
    fc1 = [values([1, 0]), values([0, 1]), values([-1, 0])]
    fc2 = [values([1, 10, 100])]
    assert data(mlp(values([3, 2]), fc1, fc2)) == [9 + 40]
    assert data(mlp(values([-3, -2]), fc1, fc2)) == [900]


def test_the_mlp_has_the_slopes_that_are_measured():
    fc1 = [values([1, -2]), values([0.5, 1]), values([-1, 0.3])]
    fc2 = [values([1, 2, -1]), values([0.1, -1, 3])]
    for x in ([1.5, 0.5], [-1.0, 2.0], [-2.0, -0.3]):
        for i in range(2):
            check_slopes(lambda x, i=i: mlp(x, fc1, fc2)[i], x)


def test_attention_by_hand_on_two_tokens_and_two_heads():
    # All four matrices are the identity, so that query = key = value = x. Each head has
    # two channels and averages the values of both tokens by softmax(q . k / sqrt(2)).
    keys, vals, eye = [], [], identity(4)
    first = attention(values([1, 0, 0, 2]), keys, vals, eye, eye, eye, eye, 2)
    assert data(first) == pytest.approx([1, 0, 0, 2])  # there is no other token yet
    second = attention(values([1, 1, 2, 0]), keys, vals, eye, eye, eye, eye, 2)
    w1 = 1 / (1 + math.exp((2 - 1) / math.sqrt(2)))  # head 1: scores 1 and 2
    w2 = 1 / (1 + math.exp((4 - 0) / math.sqrt(2)))  # head 2: scores 0 and 4
    by_hand = [1, 1 - w1, 2 * (1 - w2), 2 * w2]
    assert data(second) == pytest.approx(by_hand, rel=1e-12)
    assert [data(key) for key in keys] == [[1, 0, 0, 2], [1, 1, 2, 0]]


def test_attention_gives_each_of_its_four_matrices_its_own_role():
    # The query is 0, so that all tokens weigh the same, and the output is
    # wo times the mean of wv x over both tokens.
    rng = random.Random(1)
    wk, wv, wo = (random_matrix(rng, 2, 2) for _ in range(3))
    x1, x2 = [1.0, -2.0], [0.5, 3.0]
    keys, vals = [], []
    zero = [values([0, 0]), values([0, 0])]
    matrices = zero, *([values(row) for row in w] for w in (wk, wv, wo))
    attention(values(x1), keys, vals, *matrices, 1)
    output = attention(values(x2), keys, vals, *matrices, 1)

    def product(w, x):
        return [sum(a * b for a, b in zip(row, x)) for row in w]

    mean = [(a + b) / 2 for a, b in zip(product(wv, x1), product(wv, x2))]
    assert data(output) == pytest.approx(product(wo, mean))
    assert [data(key) for key in keys] == [
        pytest.approx(product(wk, x1)),
        pytest.approx(product(wk, x2)),
    ]
    assert [data(value) for value in vals] == [
        pytest.approx(product(wv, x1)),
        pytest.approx(product(wv, x2)),
    ]


@pytest.mark.parametrize("n_head", [1, 2, 4])
def test_attention_has_the_slopes_that_are_measured(n_head):
    # The arguments are the vectors of two tokens, then the four matrices.
    rng, n = random.Random(n_head), 4
    numbers = [rng.gauss(0, 1) for _ in range(2 * n + 4 * n * n)]

    def output(arguments):
        rows = [arguments[i : i + n] for i in range(0, len(arguments), n)]
        x1, x2, *rows = rows
        matrices = [rows[i : i + n] for i in range(0, 4 * n, n)]
        keys, vals = [], []
        attention(x1, keys, vals, *matrices, n_head)
        y = attention(x2, keys, vals, *matrices, n_head)
        return y[0] + y[1] * 2 - y[2] * 3 + y[3] * 5

    check_slopes(output, numbers, tolerance=1e-6)


# ---- the whole model: causality, and the cache of keys and values --------------------

CONFIGS = [
    {"n_embd": 4, "n_layer": 1, "n_head": 2},
    {"n_embd": 4, "n_layer": 2, "n_head": 1},
    {"n_embd": 6, "n_layer": 2, "n_head": 3},
    {"n_embd": 4, "n_layer": 3, "n_head": 4},
]


def run_gpt(model, tokens):
    """The logits after each token, as floats: [time][vocab_size]."""
    keys, vals = empty_cache(model)
    return [data(gpt(token, i, keys, vals, model)) for i, token in enumerate(tokens)]


@pytest.mark.parametrize("config", CONFIGS)
def test_later_tokens_do_not_change_earlier_logits_at_all(config):
    model = small_model(spread=5, **config)
    one = run_gpt(model, [3, 0, 1, 2, 0])
    other = run_gpt(model, [3, 0, 1, 0, 1])
    assert one[:3] == other[:3]
    assert one[3] != other[3]


@pytest.mark.parametrize("config", CONFIGS)
def test_each_earlier_token_changes_later_logits(config):
    model = small_model(spread=5, **config)
    base = run_gpt(model, [3, 0, 1, 2, 0])[4]
    for i, token in enumerate([3, 0, 1, 2]):
        tokens = [3, 0, 1, 2, 0]
        tokens[i] = (token + 1) % 4
        changed = run_gpt(model, tokens)[4]
        assert max(abs(a - b) for a, b in zip(base, changed)) > 1e-4


def test_the_same_token_has_other_logits_at_another_position():
    one, two = run_gpt(small_model(spread=5), [0, 0])
    assert one != two


def whole_sequence(model, tokens):
    """The logits of all tokens, computed layer by layer with a causal mask."""
    w = model.state_dict
    xs = [
        rmsnorm([a + b for a, b in zip(w["wte"][t], w["wpe"][i])])
        for i, t in enumerate(tokens)
    ]
    head_dim = model.n_embd // model.n_head
    for i in range(model.n_layer):
        wq, wk, wv, wo = (w[f"layer{i}.attn_{n}"] for n in ("wq", "wk", "wv", "wo"))
        normed = [rmsnorm(x) for x in xs]
        q, k, v = ([linear(x, m) for x in normed] for m in (wq, wk, wv))
        for t, x in enumerate(xs):
            heads = []
            for start in range(0, model.n_embd, head_dim):
                head = range(start, start + head_dim)
                scores = [
                    sum(q[t][j] * k[s][j] for j in head) / head_dim**0.5
                    if s <= t
                    else Value(-math.inf)  # the mask
                    for s in range(len(tokens))
                ]
                exps = [score.exp() for score in scores]
                probs = [e / sum(exps) for e in exps]
                heads += [sum(p * v[s][j] for s, p in enumerate(probs)) for j in head]
            x = [a + b for a, b in zip(x, linear(heads, wo))]
            output = mlp(rmsnorm(x), w[f"layer{i}.mlp_fc1"], w[f"layer{i}.mlp_fc2"])
            xs[t] = [a + b for a, b in zip(x, output)]
    return [linear(x, w["lm_head"]) for x in xs]


@pytest.mark.parametrize("config", CONFIGS)
def test_reading_token_by_token_equals_a_whole_sequence_with_a_mask(config):
    model, tokens = small_model(spread=5, **config), [3, 0, 1, 2, 0, 0]
    token_by_token = run_gpt(model, tokens)
    at_once = [data(logits) for logits in whole_sequence(model, tokens)]
    for one, other in zip(token_by_token, at_once):
        assert one == pytest.approx(other, rel=1e-11, abs=1e-11)


def test_the_cache_gives_the_same_logits_as_reading_everything_again():
    model, tokens = small_model(spread=5, n_layer=2), [3, 0, 1, 2, 0]
    with_cache = run_gpt(model, tokens)
    read_again = [run_gpt(model, tokens[: i + 1])[-1] for i in range(len(tokens))]
    assert with_cache == read_again


def test_the_cache_holds_one_key_and_one_value_for_each_layer_and_token():
    model = small_model(n_layer=2)
    keys, vals = empty_cache(model)
    for position, token in enumerate([3, 0, 1]):
        gpt(token, position, keys, vals, model)
        for cache in (keys, vals):
            assert [len(layer) for layer in cache] == [position + 1] * 2
            assert all(len(vector) == 4 for layer in cache for vector in layer)


def test_training_sends_gradients_through_the_earlier_keys_and_values():
    model = small_model(spread=5)
    keys, vals = empty_cache(model)
    gpt(3, 0, keys, vals, model)
    logits = gpt(0, 1, keys, vals, model)
    sum(logits[:2]).backward()
    assert all(abs(k.grad) > 1e-8 for k in keys[0][0])
    assert all(abs(v.grad) > 1e-8 for v in vals[0][0])


# ---- the gradient of every single parameter ------------------------------------------


@pytest.mark.parametrize(
    "config, with_tape",
    [
        ({"n_embd": 4, "n_layer": 2}, True),
        ({"n_embd": 3, "n_layer": 1, "n_head": 3}, False),
    ],
)
def test_every_parameter_has_the_gradient_that_is_measured(config, with_tape):
    model = small_model(spread=5, block_size=4, **config)
    tokens = [3, 0, 1, 2, 0]  # every character, at every position
    loss, tape = forward(model, tokens)
    loss.backward(tape if with_tape else ())
    for p in model.params:
        x = p.data

        def moved(t, p=p):
            p.data = t
            return mean_document_loss(model, tokens)

        assert p.grad == pytest.approx(slope(moved, x, 1e-4), rel=1e-6, abs=1e-11)
        p.data = x


@pytest.mark.parametrize("config", CONFIGS)
def test_no_parameter_has_a_gradient_of_zero(config):
    # In a document this long, every hidden unit of the MLP is positive for some token.
    # So a zero would mean that a parameter is never used or that its gradient is lost.
    model = small_model(spread=5, block_size=16, **config)
    rng = random.Random(0)
    loss, tape = forward(model, [3, *(rng.choice([0, 1, 2]) for _ in range(15)), 3])
    loss.backward(tape)
    assert all(p.grad != 0 for p in model.params)


def test_a_matrix_that_was_edited_to_a_wrong_shape_is_refused():
    for name in small_model().state_dict:
        model = small_model()
        model.state_dict[name] = [row[:-1] for row in model.state_dict[name]]
        with pytest.raises(ValueError):
            run_gpt(model, [3, 0])
