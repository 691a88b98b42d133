"""7. Inference loop: samples are drawn as the probabilities say."""

import math
import random
from collections import Counter

import pytest
from helpers import small_model

from microgpt import generate, gpt


def first_logits(model):
    keys, values = ([[] for _ in range(model.n_layer)] for _ in range(2))
    return [z.data for z in gpt(len(model.chars), 0, keys, values, model)]


def probabilities(logits, temperature):
    weights = [math.exp(z / temperature) for z in logits]
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize("temperature", [0.25, 0.5, 1.0, 2.0])
def test_first_characters_come_as_often_as_their_probabilities_say(temperature):
    model = small_model(spread=4, block_size=1)
    expected = probabilities(first_logits(model), temperature)
    assert min(expected) > 0.003  # enough of each for the test to hold
    rng, n = random.Random(1), 4000
    counts = Counter(generate(model, rng, temperature) for _ in range(n))
    chi_square = sum(
        (counts[text] - n * p) ** 2 / (n * p) for text, p in zip([*"abc", ""], expected)
    )
    assert sum(counts.values()) == n
    assert chi_square < 16.27  # 3 degrees of freedom: above that once in 1000


def test_temperature_zero_takes_the_likeliest_and_draws_nothing():
    model, rng = small_model(spread=8), random.Random(1)
    state = rng.getstate()
    texts = {generate(model, rng, temperature=0) for _ in range(5)}
    assert len(texts) == 1
    assert rng.getstate() == state
    logits = first_logits(model)
    assert texts.pop()[:1] == [*"abc", ""][logits.index(max(logits))]


@pytest.mark.parametrize("temperature", [1e-3, 1e-300, 5e-324])
def test_a_tiny_temperature_is_as_good_as_zero_and_does_not_overflow(temperature):
    model = small_model(spread=8)
    greedy = generate(model, random.Random(1), 0)
    assert generate(model, random.Random(1), temperature) == greedy


@pytest.mark.parametrize("temperature", [-0.5, -1e-300, float("nan")])
def test_a_negative_temperature_does_not_turn_the_probabilities_round(temperature):
    with pytest.raises(ValueError, match="temperature"):
        generate(small_model(), random.Random(1), temperature)


def test_an_enormous_temperature_makes_all_equally_likely():
    model, rng = small_model(spread=8, block_size=1), random.Random(1)
    counts = Counter(generate(model, rng, 1e9) for _ in range(4000))
    assert min(counts.values()) > 900 and len(counts) == 4


def test_the_default_temperature_is_one_half():
    model = small_model(spread=8)
    assert [generate(model, random.Random(i)) for i in range(20)] == [
        generate(model, random.Random(i), 0.5) for i in range(20)
    ]


def test_the_generators_weighted_choice_draws_each_token():
    model = small_model(spread=8, block_size=3)
    drawn = generate(model, random.Random(5), 0.7)
    rng, tokens, keys, values = random.Random(5), [3], [[]], [[]]
    for pos in range(3):
        logits = [z.data for z in gpt(tokens[-1], pos, keys, values, model)]
        tokens += rng.choices(range(4), probabilities(logits, 0.7))
        if tokens[-1] == 3:
            break
    assert drawn == "".join("abc"[t] for t in tokens[1:] if t != 3)


def test_a_sample_ends_at_bos_or_at_the_block_size():
    model = small_model(spread=4, block_size=6)
    texts = [generate(model, random.Random(i), 2.0) for i in range(200)]
    assert {len(text) for text in texts} == set(range(7))
    assert set("".join(texts)) == set("abc")


def test_a_sample_begins_with_the_prompt_and_goes_on_as_if_it_had_been_drawn():
    model = small_model(spread=8)
    for prompt in ("a", "b", "c", "ab", "bca", "ccb", "abcabc"):
        keys, values = [[]], [[]]
        for pos, token in enumerate([3, *map("abc".index, prompt)]):
            logits = [z.data for z in gpt(token, pos, keys, values, model)]
        likeliest = [*"abc", ""][logits.index(max(logits))]
        text = generate(model, random.Random(7), 0, prompt)
        assert text[: len(prompt)] == prompt
        assert text[len(prompt) :][:1] == likeliest


def test_a_prompt_one_short_of_the_block_leaves_room_for_one_character():
    model = small_model(spread=8, block_size=4)
    lengths = {len(generate(model, random.Random(i), 2.0, "abc")) for i in range(50)}
    assert lengths == {3, 4}


def test_a_character_that_the_model_does_not_know_is_an_error():
    with pytest.raises(ValueError):
        generate(small_model(), random.Random(1), prompt="x")


def test_no_sample_comes_from_a_model_that_is_not_finite():
    model = small_model()
    model.params[-1].data = math.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        generate(model, random.Random(1))
