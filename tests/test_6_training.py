"""6. Training loop: three oracles that share no code with it, and whether it learns."""

import gc
import math
import random
from collections import Counter

import float_gpt
import pytest
from helpers import flat, floats, gradients, small_model
from hypothesis import given, settings
from hypothesis import strategies as st

import microgpt
from microgpt import (
    Value,
    adam,
    backprop,
    document_losses,
    mean_loss,
    tokenize,
    train,
)

CONFIGS = [
    {"n_embd": 16, "n_layer": 1, "n_head": 4, "block_size": 16},
    {"n_embd": 8, "n_layer": 2, "n_head": 2, "block_size": 5},
    {"n_embd": 6, "n_layer": 3, "n_head": 6, "block_size": 3},
    {"n_embd": 5, "n_layer": 1, "n_head": 1, "block_size": 8},
]
DOCS = ["abacus", "cab", "a", "bubba", "scuba", "ba", "ccccccccccccccccc", "sub", "us"]


def close(a, b, tolerance):
    """Equal to the tolerance, relative to the largest number there is."""
    scale = max(max(map(abs, a)), 1.0)
    return max(abs(x - y) for x, y in zip(a, b)) <= tolerance * scale


# ---- the oracles: loss, every gradient, every weight, over 24 steps ------------------


@pytest.mark.parametrize("config", CONFIGS)
def test_training_equals_plain_floats_with_a_backward_pass_derived_by_hand(config):
    model = small_model("abcsu", **config)
    m, v = [0.0] * len(model.params), [0.0] * len(model.params)
    weights = floats(model)
    oracle = float_gpt.Adam(weights)
    for step in range(24):
        tokens = tokenize(DOCS[step % len(DOCS)], model.chars, model.block_size)
        learning_rate = 0.01 * (1 - step / 24)
        loss = backprop(model, tokens)
        grads = flat(gradients(model))
        adam(model.params, m, v, step + 1, learning_rate)
        their_loss, their_grads = float_gpt.train_step(
            tokens, weights, oracle, learning_rate, model.n_head, model.n_layer
        )
        assert loss == pytest.approx(their_loss, rel=1e-10)
        assert close(grads, flat(their_grads), 1e-10)
        assert close(flat(floats(model)), flat(weights), 1e-10)


@pytest.mark.parametrize("config", CONFIGS)
def test_training_equals_pytorch(config):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    import torch_gpt

    model = small_model("abcsu", **config)
    m, v = [0.0] * len(model.params), [0.0] * len(model.params)
    params = torch_gpt.parameters(floats(model))
    oracle = torch_gpt.optimizer(params, 0.01)
    for step in range(24):
        tokens = tokenize(DOCS[step % len(DOCS)], model.chars, model.block_size)
        learning_rate = 0.01 * (1 - step / 24)
        loss = backprop(model, tokens)
        grads = flat(gradients(model))
        adam(model.params, m, v, step + 1, learning_rate)
        their_loss = torch_gpt.train_step(
            params, oracle, tokens, learning_rate, model.n_head, model.n_layer
        )
        their_grads = {name: p.grad.tolist() for name, p in params.items()}
        theirs = {name: p.tolist() for name, p in params.items()}
        assert loss == pytest.approx(their_loss, rel=1e-9)
        assert close(grads, flat(their_grads), 1e-9)
        assert close(flat(floats(model)), flat(theirs), 1e-9)


@settings(max_examples=20, deadline=None)
@given(
    head_dim=st.integers(1, 3),
    n_head=st.integers(1, 3),
    n_layer=st.integers(1, 3),
    block_size=st.integers(1, 6),
    seed=st.integers(0, 999),
    doc=st.text("abc", min_size=1, max_size=8),
)
def test_any_shape_of_model_has_the_gradients_derived_by_hand(
    head_dim, n_head, n_layer, block_size, seed, doc
):
    model = small_model(
        seed=seed,
        spread=5,
        n_embd=head_dim * n_head,
        n_head=n_head,
        n_layer=n_layer,
        block_size=block_size,
    )
    tokens = tokenize(doc, model.chars, block_size)
    loss = backprop(model, tokens)
    theirs, cache = float_gpt.forward(tokens, floats(model), n_head, n_layer)
    grads = float_gpt.backward(tokens, floats(model), n_head, n_layer, cache)
    assert loss == pytest.approx(theirs, rel=1e-10)
    assert close(flat(gradients(model)), flat(grads), 1e-10)


# ---- the loop ------------------------------------------------------------------------


def test_train_takes_the_documents_in_turn_with_a_falling_learning_rate(monkeypatch):
    seen, rates = [], []

    def spy(params, m, v, t, learning_rate):
        rates.append((t, learning_rate))

    monkeypatch.setattr(microgpt, "adam", spy)
    model = small_model()
    backprop_ = microgpt.backprop
    monkeypatch.setattr(
        microgpt, "backprop", lambda mo, t: seen.append(t) or backprop_(mo, t)
    )
    losses = list(train(model, ["a", "bc", "cab"], num_steps=7, learning_rate=0.5))
    docs = ["a", "bc", "cab", "a", "bc", "cab", "a"]
    assert seen == [tokenize(doc, model.chars, 8) for doc in docs]
    assert rates == [(t + 1, pytest.approx(0.5 * (1 - t / 7))) for t in range(7)]
    assert len(losses) == 7


def test_the_learning_rate_is_that_of_the_formula_first_middle_and_last(monkeypatch):
    rates = []
    monkeypatch.setattr(microgpt, "adam", lambda *args: rates.append(args[4]))
    list(train(small_model(), ["a"]))  # by default, a thousand steps from 0.01
    assert len(rates) == 1000
    assert rates[0] == 0.01
    assert rates[500] == pytest.approx(0.005)
    assert rates[999] == pytest.approx(0.01 / 1000)


def test_train_is_backprop_and_adam_and_nothing_else():
    one, two = small_model(n_layer=2), small_model(n_layer=2)
    losses = list(train(one, ["ab", "c"], num_steps=5, learning_rate=0.02))
    m, v = [0.0] * len(two.params), [0.0] * len(two.params)
    for step in range(5):
        assert losses[step] == backprop(two, tokenize(["ab", "c"][step % 2], "abc", 8))
        adam(two.params, m, v, step + 1, 0.02 * (1 - step / 5))
    assert floats(one) == floats(two)


def test_each_step_starts_from_zeroed_gradients():
    model = small_model()
    list(train(model, ["abc"], num_steps=3))
    assert all(p.grad == 0 for p in model.params)


def test_the_loss_of_a_step_is_the_mean_over_the_predictions_of_its_document():
    model = small_model(spread=5)
    losses = [loss.data for loss in document_losses(model, [3, 0, 1, 3])]
    assert len(losses) == 3
    assert backprop(model, [3, 0, 1, 3]) == pytest.approx(sum(losses) / 3)


def test_the_mean_loss_counts_each_token_once():
    model = small_model(spread=5)
    one = [loss.data for loss in document_losses(model, [3, 0, 3])]
    two = [loss.data for loss in document_losses(model, [3, 1, 2, 0, 3])]
    assert mean_loss(model, ["a", "bca"]) == pytest.approx(sum(one + two) / 6)
    assert all(p.grad == 0 for p in model.params)


@pytest.mark.parametrize("learning_rate", [10, 1e6, 1e100, 1e300])
def test_a_learning_rate_far_too_large_raises_and_never_yields_nan(learning_rate):
    model = small_model("abcsu", n_embd=16, n_head=4)
    losses = []
    with pytest.raises(FloatingPointError, match="diverged at step"):
        for loss in train(model, DOCS, 50, learning_rate):
            losses.append(loss)
    assert all(loss < 1000 * math.log(6) for loss in losses)


def test_the_first_step_that_costs_a_thousand_guesses_is_called_divergence(monkeypatch):
    limit = 1000 * math.log(4)
    costs = iter([3.0, limit * 0.999, limit, 1.0])
    monkeypatch.setattr(microgpt, "backprop", lambda model, tokens: next(costs))
    steps = train(small_model(), ["a"])
    assert [next(steps), next(steps)] == [3.0, limit * 0.999]
    with pytest.raises(FloatingPointError, match="diverged at step 3"):
        next(steps)


@pytest.mark.skipif(
    microgpt.sys.implementation.name != "cpython", reason="PyPy's collector stays on"
)
def test_the_garbage_collector_rests_during_a_step_and_only_then(monkeypatch):
    during = []
    real = microgpt.document_losses
    monkeypatch.setattr(
        microgpt,
        "document_losses",
        lambda *args: during.append(gc.isenabled()) or real(*args),
    )
    steps = train(small_model(), ["ab"], num_steps=2)
    next(steps)
    assert (during, gc.isenabled()) == ([False], True)
    gc.disable()
    try:
        next(steps)
        assert not gc.isenabled()  # who turned it off keeps it off
    finally:
        gc.enable()


def test_after_an_interrupted_step_the_tape_is_off_and_the_collector_on(monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(microgpt, "document_losses", interrupted)
    with pytest.raises(KeyboardInterrupt):
        backprop(small_model(), [3, 0, 3])
    assert Value.tape is None
    assert gc.isenabled()


def test_a_step_leaves_no_garbage_behind():
    model = small_model(n_layer=2)
    steps = train(model, ["abc"], num_steps=20)
    next(steps)
    gc.collect()
    before = len(gc.get_objects())
    for _ in steps:
        pass
    assert abs(len(gc.get_objects()) - before) < 50  # a graph has thousands


# ---- it learns -----------------------------------------------------------------------


def test_one_name_is_memorised_to_a_loss_near_zero():
    model = small_model("aehlo", n_embd=16, n_head=4)
    losses = list(train(model, ["haloe"], num_steps=100, learning_rate=0.05))
    assert losses[0] > 1.5
    assert losses[-1] < 0.01
    assert microgpt.generate(model, random.Random(1), temperature=0) == "haloe"


def test_a_short_run_beats_the_uniform_guess(two_layer_run):
    assert two_layer_run.held_out_loss < math.log(27) - 0.5


def bigram_loss(train_docs, held_out):
    """What counting pairs of neighbours achieves, with one added to every count."""
    pairs, firsts = Counter(), Counter()
    for doc in train_docs:
        for a, b in zip("." + doc, doc + "."):
            pairs[a, b] += 1
            firsts[a] += 1
    losses = [
        -math.log((pairs[a, b] + 1) / (firsts[a] + 27))
        for doc in held_out
        for a, b in zip("." + doc, doc + ".")
    ]
    return sum(losses) / len(losses)


def test_the_default_run_beats_counting_bigrams(default_run):
    bigrams = bigram_loss(default_run.train_docs, default_run.held_out)
    assert default_run.held_out_loss < bigrams
