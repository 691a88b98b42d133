"""6. Training loop: three oracles that share no code with it, and whether it learns."""

import gc
import math
import random
import sys
import threading
from collections import Counter

import float_gpt
import pytest
import scalar_gpt
from helpers import flat, floats, forward, gradients, small_model
from hypothesis import given, settings
from hypothesis import strategies as st

import microgpt
from microgpt import (
    Value,
    adam,
    document_losses,
    generate,
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
    """Equal to the tolerance, relative to the largest of the numbers."""
    scale = max(max(map(abs, a)), 1.0)
    return max(abs(x - y) for x, y in zip(a, b)) <= tolerance * scale


# ---- the oracles: loss, every gradient and every weight, over 24 steps ---------------


class Floats:
    """Plain floats, with a backward pass that was derived by hand."""

    def __init__(self, model):
        self.sizes = model.n_head, model.n_layer
        self.weights = floats(model)
        self.adam = float_gpt.Adam(self.weights)

    def step(self, tokens, t, learning_rate):
        """Return the loss and the gradients of step t; change the weights."""
        return float_gpt.train_step(
            tokens, self.weights, self.adam, learning_rate, *self.sizes
        )

    def weights_now(self):
        return self.weights


class Scalars:
    """A graph with one node for each single + and *, sorted at every step."""

    def __init__(self, model):
        self.sizes = model.n_head, model.n_layer
        self.weights = scalar_gpt.weights_from(floats(model))
        self.m, self.v = [0.0] * len(model.params), [0.0] * len(model.params)

    def step(self, tokens, t, learning_rate):
        loss = scalar_gpt.document_loss(tokens, self.weights, *self.sizes)
        loss.backward()
        grads = {
            name: [[p.grad for p in row] for row in rows]
            for name, rows in self.weights.items()
        }
        scalar_gpt.adam_step(self.weights, self.m, self.v, t, learning_rate)
        return loss.data, grads

    def weights_now(self):
        return {
            name: [[p.data for p in row] for row in rows]
            for name, rows in self.weights.items()
        }


class Tensors:
    """PyTorch in float64."""

    def __init__(self, model):
        pytest.importorskip("torch", reason="PyTorch is not installed")
        import torch_gpt

        torch_gpt.torch.set_num_threads(1)  # the tensors are small
        self.torch_gpt = torch_gpt
        self.sizes = model.n_head, model.n_layer
        self.params = torch_gpt.parameters(floats(model))
        self.adam = torch_gpt.optimizer(self.params, 0.01)

    def step(self, tokens, t, learning_rate):
        loss = self.torch_gpt.train_step(
            self.params, self.adam, tokens, learning_rate, *self.sizes
        )
        return loss, {name: p.grad.tolist() for name, p in self.params.items()}

    def weights_now(self):
        return {name: p.tolist() for name, p in self.params.items()}


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("oracle", [Floats, Scalars, Tensors])
def test_training_equals_an_oracle_in_every_number(oracle, config):
    model = small_model("abcsu", **config)
    other = oracle(model)
    chars = ["a", "b", "c", "s", "u"]
    for step, loss in enumerate(train(model, DOCS, num_steps=24, learning_rate=0.01)):
        doc = DOCS[step % len(DOCS)]
        tokens = [5, *map(chars.index, doc), 5][: config["block_size"] + 1]
        their_loss, grads = other.step(tokens, step + 1, 0.01 * (24 - step) / 24)
        assert loss == pytest.approx(their_loss, rel=1e-10)
        assert close(flat(gradients(model)), flat(grads), 1e-10)
        assert close(flat(floats(model)), flat(other.weights_now()), 1e-10)
    assert step == 23


@settings(max_examples=20, deadline=None)
@given(
    head_dim=st.integers(1, 3),
    n_head=st.integers(1, 3),
    n_layer=st.integers(1, 3),
    block_size=st.integers(1, 6),
    seed=st.integers(0, 999),
    doc=st.text("abc", min_size=1, max_size=8),
)
def test_a_model_of_any_shape_has_the_gradients_that_are_derived_by_hand(
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
    loss, tape = forward(model, tokens)
    loss.backward(tape)
    theirs, cache = float_gpt.forward(tokens, floats(model), n_head, n_layer)
    grads = float_gpt.backward(tokens, floats(model), n_head, n_layer, cache)
    assert loss.data == pytest.approx(theirs, rel=1e-10)
    assert close(flat(gradients(model)), flat(grads), 1e-10)


# ---- the loop ------------------------------------------------------------------------


def test_train_takes_the_documents_in_turn_with_a_falling_learning_rate(monkeypatch):
    seen, rates = [], []
    real = microgpt.document_losses

    def spy_document_losses(model, doc):
        seen.append(doc)
        return real(model, doc)

    def spy_adam(params, m, v, t, learning_rate):
        rates.append((t, learning_rate))

    monkeypatch.setattr(microgpt, "document_losses", spy_document_losses)
    monkeypatch.setattr(microgpt, "adam", spy_adam)
    model = small_model()
    losses = list(train(model, ["a", "bc", "cab"], num_steps=7, learning_rate=0.5))
    assert seen == ["a", "bc", "cab", "a", "bc", "cab", "a"]
    assert rates == [(t + 1, pytest.approx(0.5 * (1 - t / 7))) for t in range(7)]
    assert len(losses) == 7


def test_by_default_a_thousand_steps_start_at_a_learning_rate_of_001(monkeypatch):
    rates = []
    monkeypatch.setattr(microgpt, "adam", lambda *args: rates.append(args[4]))
    list(train(small_model(n_embd=2), ["a"]))
    assert len(rates) == 1000
    assert rates[0] == 0.01
    assert rates[500] == pytest.approx(0.005)
    assert rates[999] == pytest.approx(0.01 / 1000)


def test_a_step_is_forward_zeroed_gradients_backward_and_adam_and_nothing_else():
    one, two = small_model(n_layer=2), small_model(n_layer=2)
    losses = list(train(one, ["ab", "c"], num_steps=5, learning_rate=0.02))
    m, v = [0.0] * len(two.params), [0.0] * len(two.params)
    for step in range(5):
        loss, tape = forward(two, tokenize(["ab", "c"][step % 2], "abc", 8))
        for p in two.params:
            p.grad = 0.0
        loss.backward(tape)
        adam(two.params, m, v, step + 1, 0.02 * (1 - step / 5))
        assert losses[step] == loss.data
        assert type(losses[step]) is float
    assert floats(one) == floats(two)
    assert gradients(one) == gradients(two)


def test_when_a_loss_is_yielded_its_step_is_complete():
    model, untouched = small_model(), small_model()
    steps = train(model, ["abc"], num_steps=3)
    assert floats(model) == floats(untouched)  # nothing runs before the first loss
    next(steps)
    after_one = floats(model)
    assert after_one != floats(untouched)
    next(steps)
    assert floats(model) != after_one


def test_gradients_left_over_from_playing_do_not_change_training():
    docs = ["ab", "cab", "a"]
    model, untouched = small_model(), small_model()
    expected = list(train(untouched, docs, num_steps=5))
    for p in model.params:
        p.grad = 7.0
    losses = []
    for loss in train(model, docs, num_steps=5):
        losses.append(loss)
        for another in document_losses(model, "ab"):  # play between the steps
            another.backward()
    assert losses == expected
    assert floats(model) == floats(untouched)


def test_a_learning_rate_of_zero_changes_no_weight():
    model, untouched = small_model(), small_model()
    first, second = train(model, ["abc"], num_steps=2, learning_rate=0)
    assert first == second
    assert floats(model) == floats(untouched)


def test_training_without_documents_is_refused():
    with pytest.raises(ValueError, match="no documents"):
        list(train(small_model(), []))
    with pytest.raises(ValueError, match="no documents"):
        mean_loss(small_model(), [])


def test_a_document_with_an_unknown_character_is_refused():
    with pytest.raises(ValueError, match="unknown"):
        list(train(small_model(), ["axb"]))


def test_the_loss_of_a_step_is_the_mean_over_the_predictions_of_its_document():
    model = small_model(spread=5)
    losses = [loss.data for loss in document_losses(model, "ab")]
    assert len(losses) == 3
    loss, _ = forward(model, [3, 0, 1, 3])
    assert loss.data == pytest.approx(sum(losses) / 3)


def test_the_mean_loss_counts_each_token_once_and_does_not_train():
    model = small_model(spread=5)
    before = floats(model)
    one = [loss.data for loss in document_losses(model, "a")]
    two = [loss.data for loss in document_losses(model, "bca")]
    assert mean_loss(model, ["a", "bca"]) == pytest.approx(sum(one + two) / 6)
    assert floats(model) == before
    assert all(p.grad == 0 for p in model.params)


def test_the_mean_loss_cuts_documents_off_at_the_block_size():
    model = small_model(spread=5, block_size=2)
    losses = [loss.data for loss in document_losses(model, "bc")]
    assert mean_loss(model, ["bcab"]) == pytest.approx(sum(losses) / 2)


@pytest.mark.parametrize("learning_rate", [10, 1e6, 1e100, 1e300])
def test_a_learning_rate_that_is_far_too_large_cannot_go_unnoticed(learning_rate):
    model = small_model("abcsu", n_embd=16, n_head=4)
    losses = []
    try:
        losses.extend(train(model, DOCS, 50, learning_rate))
    except ArithmeticError:
        losses.append(math.nan)
    assert any(not loss < 10 * math.log(6) for loss in losses)  # nan is not less either


# ---- the tape ------------------------------------------------------------------------


def test_the_tape_lists_all_operations_in_an_order_for_the_backward_pass():
    loss, tape = forward(small_model(n_layer=2), [3, 0, 1, 2, 3])
    assert tape[-1] is loss
    place = {node: i for i, node in enumerate(tape)}
    assert len(place) == len(tape)
    reached, stack = {loss}, [loss]
    while stack:
        node = stack.pop()
        for child in node._children:
            if child._children:
                assert place[child] < place[node]
                if child not in reached:
                    reached.add(child)
                    stack.append(child)
    assert reached <= set(tape)
    assert all(node._children for node in tape)


def test_nothing_is_recorded_before_between_and_after_the_steps():
    model = small_model()
    for _ in train(model, ["ab"], num_steps=2):
        assert Value.tape is None
    assert Value.tape is None
    mean_loss(model, ["ab"])
    generate(model, random.Random(1))
    assert Value.tape is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, MemoryError])
def test_after_an_exception_nothing_is_recorded_and_training_can_go_on(
    error, monkeypatch
):
    model, untouched = small_model(), small_model()
    real = microgpt.document_losses

    def interrupted(*args):
        real(*args)
        raise error

    monkeypatch.setattr(microgpt, "document_losses", interrupted)
    with pytest.raises(error):
        next(train(model, ["ab"], num_steps=3))
    assert Value.tape is None
    monkeypatch.undo()
    assert list(train(model, ["ab"], 3)) == list(train(untouched, ["ab"], 3))


# ---- overlapping recordings ----------------------------------------------------------
# Two recordings that overlap would mix their operations. They may fail with an error,
# but they must never give wrong numbers.

OVERLAP = RuntimeError, ValueError


@pytest.mark.parametrize("inner_first", [True, False])
def test_a_recording_inside_another_one_makes_the_outer_one_fail(
    inner_first, monkeypatch
):
    outer_model, inner_model = small_model(seed=1), small_model(seed=2)
    untouched = small_model(seed=2)
    real, inner = microgpt.document_losses, []

    def nested(model, doc):
        monkeypatch.setattr(microgpt, "document_losses", real)
        losses = [] if inner_first else real(model, doc)
        inner.extend(train(inner_model, ["bc"], num_steps=1))
        return losses or real(model, doc)

    monkeypatch.setattr(microgpt, "document_losses", nested)
    with pytest.raises(OVERLAP, match="thread"):
        next(train(outer_model, ["a"]))
    assert Value.tape is None
    assert inner == list(train(untouched, ["bc"], num_steps=1))  # it is whole itself
    assert floats(inner_model) == floats(untouched)
    assert all(p.grad == 0 for p in outer_model.params)


def test_when_two_threads_overlap_the_one_that_ends_last_fails_as_well(monkeypatch):
    one, two = small_model(seed=1), small_model(seed=2)
    two_has_begun, one_has_ended = threading.Event(), threading.Event()
    real, errors = microgpt.document_losses, []

    def record_two():
        try:
            next(train(two, ["bc"]))
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=record_two)

    def meet(model, doc):
        if model is one:
            thread.start()
            assert two_has_begun.wait(30)
        else:
            two_has_begun.set()
            assert one_has_ended.wait(30)
        return real(model, doc)

    monkeypatch.setattr(microgpt, "document_losses", meet)
    with pytest.raises(OVERLAP, match="thread"):
        next(train(one, ["a"]))
    one_has_ended.set()
    thread.join(30)
    (error,) = errors
    assert isinstance(error, OVERLAP) and "thread" in str(error)
    assert Value.tape is None


def test_two_threads_that_train_compute_the_right_losses_or_fail():
    def model_and_docs(i):
        return small_model(seed=i, n_layer=2), [["abcab", "ca"], ["bb", "acbca"]][i]

    expected = [list(train(*model_and_docs(i), num_steps=6)) for i in range(2)]
    outcomes = []

    def job(i, barrier):
        model, docs = model_and_docs(i)
        barrier.wait(30)
        try:
            outcomes.append((i, list(train(model, docs, num_steps=6))))
        except Exception as error:
            outcomes.append((i, error))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(8):
            barrier = threading.Barrier(2)
            threads = [threading.Thread(target=job, args=(i, barrier)) for i in (0, 1)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert len(outcomes) == 16
    for i, outcome in outcomes:
        if isinstance(outcome, Exception):
            assert isinstance(outcome, OVERLAP) and "thread" in str(outcome)
        else:
            assert outcome == expected[i]
    assert Value.tape is None


# ---- memory --------------------------------------------------------------------------


@pytest.fixture
def no_collector():
    """Reference counting alone must free memory in the test, as in the command."""
    if sys.implementation.name != "cpython":
        pytest.skip("only CPython counts references")
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def count_values():
    return sum(type(thing) is Value for thing in gc.get_objects())


def test_the_graph_of_a_step_is_freed_before_the_next_one_is_built(
    no_collector, monkeypatch
):
    model, real, alive = small_model(n_layer=2), microgpt.document_losses, []

    def count(model, doc):
        alive.append(count_values())
        losses = real(model, doc)
        assert count_values() > alive[-1] + 500  # the graph
        return losses

    monkeypatch.setattr(microgpt, "document_losses", count)
    for _ in train(model, ["abc", "ca"], num_steps=6):
        pass
    assert len(alive) == 6
    assert len(set(alive)) == 1


def test_measuring_and_sampling_leave_no_values_behind(no_collector):
    model = small_model(n_layer=2)
    before = count_values()
    mean_loss(model, ["abc", "ca"])
    generate(model, random.Random(1))
    list(train(model, ["abc"], num_steps=2))
    assert count_values() == before


# ---- it learns -----------------------------------------------------------------------


def test_a_single_name_is_memorized_with_a_loss_near_zero():
    model = small_model("aehlo", n_embd=16, n_head=4)
    losses = list(train(model, ["haloe"], num_steps=100, learning_rate=0.05))
    assert losses[0] > 1.5
    assert losses[-1] < 0.01
    assert generate(model, random.Random(1), temperature=0) == "haloe"


def test_a_short_run_is_better_than_a_uniform_guess(two_layer_run):
    assert two_layer_run.held_out_loss < math.log(27) - 0.5


def bigram_loss(train_docs, held_out):
    """The mean loss of a model that counts bigrams, with one added to every count."""
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


def test_the_default_run_is_better_than_counting_bigrams(default_run):
    bigrams = bigram_loss(default_run.train_docs, default_run.held_out)
    assert default_run.held_out_loss < bigrams
