"""5. Loss and Adam: what training reduces, and how it changes the parameters."""

import math
import random

import pytest
from helpers import check_slopes, empty_cache, small_model, values
from hypothesis import given
from hypothesis import strategies as st

from microgpt import adam, cross_entropy, document_losses, gpt

any_logit = st.floats(-1e300, 1e300)


# ---- the loss ------------------------------------------------------------------------


@given(st.lists(any_logit, min_size=1, max_size=6), st.data())
def test_the_loss_of_any_finite_logits_is_finite_and_not_negative(numbers, data):
    target = data.draw(st.integers(0, len(numbers) - 1))
    loss = cross_entropy(values(numbers), target).data
    assert math.isfinite(loss)
    assert loss >= 0


def test_the_loss_of_equal_logits_is_the_logarithm_of_their_number():
    assert cross_entropy(values([5.0] * 27), 3).data == pytest.approx(math.log(27))


def test_the_loss_is_minus_the_logarithm_of_the_probability():
    logits = [math.log(p) for p in (0.5, 0.25, 0.25)]
    assert cross_entropy(values(logits), 1).data == pytest.approx(-math.log(0.25))


def test_the_slope_is_the_probability_and_at_the_target_the_probability_minus_one():
    logits = values([math.log(p) for p in (0.5, 0.25, 0.25)])
    cross_entropy(logits, 1).backward()
    assert [z.grad for z in logits] == pytest.approx([0.5, 0.25 - 1, 0.25])


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=5))
def test_the_loss_has_the_slopes_that_are_measured(numbers):
    for target in range(len(numbers)):
        check_slopes(lambda logits, t=target: cross_entropy(logits, t), numbers)


def test_the_loss_is_finite_where_the_probability_is_rounded_to_zero():
    assert cross_entropy(values([0.0, 5000.0]), 0).data == 5000.0


def test_each_token_is_predicted_from_the_tokens_before_it():
    model, tokens = small_model(spread=5, n_layer=2), [3, 0, 2, 3]
    losses = document_losses(model, "ac")
    keys, vals = empty_cache(model)
    for position in range(3):
        logits = gpt(tokens[position], position, keys, vals, model)
        expected = cross_entropy(logits, tokens[position + 1])
        assert losses[position].data == expected.data
    assert len(losses) == 3


# ---- Adam ----------------------------------------------------------------------------


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
def test_the_first_step_moves_by_the_learning_rate_against_the_gradient(grad):
    (p,) = values([1.0])
    p.grad = grad
    adam([p], [0.0], [0.0], 1, 0.01)
    assert p.data == pytest.approx(1 - math.copysign(0.01, grad), rel=1e-6)


def test_a_gradient_far_below_eps_hardly_moves_the_parameter():
    (p,) = values([1.0])
    p.grad = 1e-12
    adam([p], [0.0], [0.0], 1, 0.01)
    assert 1 - p.data == pytest.approx(0.01 * 1e-4, rel=1e-3)


def test_a_gradient_of_zero_does_not_move_the_parameter():
    (p,) = values([1.0])
    adam([p], [0.0], [0.0], 1, 0.01)
    assert p.data == 1.0


def test_adam_accepts_other_settings_and_does_not_change_the_gradient():
    (p,) = values([1.0])
    m, v = [2.0], [4.0]
    p.grad = 3.0
    adam([p], m, v, 2, 0.1, beta1=0.5, beta2=0.75, eps_adam=1.0)
    assert (m[0], v[0], p.grad) == (2.5, 5.25, 3.0)
    assert p.data == pytest.approx(
        1 - 0.1 * (2.5 / 0.75) / (math.sqrt(5.25 / 0.4375) + 1)
    )
