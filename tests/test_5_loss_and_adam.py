"""5. Loss and Adam: what is made small, and how."""

import math
import random

import pytest
from helpers import small_model
from hypothesis import given
from hypothesis import strategies as st

from microgpt import Value, adam, cross_entropy, document_losses, gpt

any_logit = st.floats(-1e300, 1e300)


def values(numbers):
    return [Value(number) for number in numbers]


@given(st.lists(any_logit, min_size=1, max_size=6), st.data())
def test_the_loss_of_any_finite_logits_is_finite_and_not_negative(numbers, data):
    target = data.draw(st.integers(0, len(numbers) - 1))
    loss = cross_entropy(values(numbers), target).data
    assert math.isfinite(loss)
    assert loss >= 0


def test_equal_logits_cost_the_log_of_their_number():
    assert cross_entropy(values([5.0] * 27), 3).data == pytest.approx(math.log(27))


def test_the_loss_is_minus_the_log_of_the_probability():
    logits = [math.log(p) for p in (0.5, 0.25, 0.25)]
    assert cross_entropy(values(logits), 1).data == pytest.approx(-math.log(0.25))


def test_the_slope_is_probability_minus_one_at_the_target_and_probability_elsewhere():
    logits = values([math.log(p) for p in (0.5, 0.25, 0.25)])
    cross_entropy(logits, 1).backward()
    assert [z.grad for z in logits] == pytest.approx([0.5, 0.25 - 1, 0.25])


def test_logits_far_apart_have_a_loss_where_log_of_softmax_has_none():
    assert cross_entropy(values([0.0, 5000.0]), 0).data == 5000.0


def test_each_token_is_predicted_from_those_before_it():
    model, tokens = small_model(spread=5, n_layer=2), [3, 0, 2, 3]
    losses = document_losses(model, tokens)
    keys, vals = [[], []], [[], []]
    for pos in range(3):
        logits = gpt(tokens[pos], pos, keys, vals, model)
        assert losses[pos].data == cross_entropy(logits, tokens[pos + 1]).data
    assert len(losses) == 3


def test_adam_follows_the_paper_over_many_steps():
    rng = random.Random(1)
    params = values([1.0, -2.0, 0.5])
    m, v = [0.0] * 3, [0.0] * 3
    theta, first, second = [1.0, -2.0, 0.5], [0.0] * 3, [0.0] * 3
    for t in range(1, 30):
        alpha = 0.1 / t
        grads = [rng.gauss(0, 10 ** rng.randint(-9, 2)) for _ in range(3)]
        for p, g in zip(params, grads):
            p.grad = g
        adam(params, m, v, t, alpha)
        for i, g in enumerate(grads):  # Algorithm 1 of Kingma and Ba (2014)
            first[i] = 0.85 * first[i] + (1 - 0.85) * g
            second[i] = 0.99 * second[i] + (1 - 0.99) * g**2
            first_hat = first[i] / (1 - 0.85**t)
            second_hat = second[i] / (1 - 0.99**t)
            theta[i] -= alpha * first_hat / (math.sqrt(second_hat) + 1e-8)
        assert [p.data for p in params] == pytest.approx(theta, rel=1e-13)
        assert (m, v) == (pytest.approx(first), pytest.approx(second))


@pytest.mark.parametrize("grad", [1e-3, -5.0, 1e6])
def test_the_first_step_of_adam_is_the_learning_rate_against_the_sign(grad):
    (p,) = values([1.0])
    p.grad = grad
    adam([p], [0.0], [0.0], 1, 0.01)
    assert p.data == pytest.approx(1 - math.copysign(0.01, grad), rel=1e-6)


def test_a_gradient_far_below_eps_hardly_moves_the_parameter():
    (p,) = values([1.0])
    p.grad = 1e-12
    adam([p], [0.0], [0.0], 1, 0.01)
    assert 1 - p.data == pytest.approx(0.01 * 1e-4, rel=1e-3)


def test_adam_takes_other_settings_and_leaves_the_gradients_at_zero():
    (p,) = values([1.0])
    m, v = [2.0], [4.0]
    p.grad = 3.0
    adam([p], m, v, 2, 0.1, beta1=0.5, beta2=0.75, eps_adam=1.0)
    assert (m[0], v[0], p.grad) == (2.5, 5.25, 0.0)
    assert p.data == pytest.approx(
        1 - 0.1 * (2.5 / 0.75) / (math.sqrt(5.25 / 0.4375) + 1)
    )
