"""7. Inference loop: samples are drawn according to the probabilities."""

import math
import random
from collections import Counter

import pytest
from helpers import data, empty_cache, floats, small_model

from microgpt import generate, gpt


def first_logits(model):
    keys, values = empty_cache(model)
    return data(gpt(len(model.chars), 0, keys, values, model))


def probabilities(logits, temperature):
    weights = [math.exp(z / temperature) for z in logits]
    return [weight / sum(weights) for weight in weights]


# ---- temperature ---------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.25, 0.5, 1.0, 2.0])
def test_first_characters_are_as_frequent_as_their_probabilities_say(temperature):
    model = small_model(spread=4, block_size=1)
    expected = probabilities(first_logits(model), temperature)
    assert min(expected) > 0.003  # enough of each for the test to hold
    rng, n = random.Random(1), 4000
    counts = Counter(generate(model, rng, temperature) for _ in range(n))
    chi_square = sum(
        (counts[text] - n * p) ** 2 / (n * p) for text, p in zip([*"abc", ""], expected)
    )
    assert sum(counts.values()) == n
    assert chi_square < 16.27  # 3 degrees of freedom: exceeded once in 1000


def likeliest(logits):
    return [*"abc", ""][logits.index(max(logits))]


@pytest.mark.parametrize("temperature", [0, 0.0, 1e-3, 1e-9, 1e-300, 5e-324])
def test_at_temperature_zero_and_near_it_the_likeliest_token_wins(temperature):
    for seed in range(5):
        model = small_model(seed=seed, spread=8)
        texts = {generate(model, random.Random(i), temperature) for i in range(10)}
        (text,) = texts
        tokens, keys, values = [3, *map("abc".index, text)], *empty_cache(model)
        for position, token in enumerate(tokens[:8]):
            logits = data(gpt(token, position, keys, values, model))
            assert text[position : position + 1] == likeliest(logits)


@pytest.mark.parametrize("temperature", [-0.5, -1, -1e-300, -math.inf])
def test_a_negative_temperature_acts_like_zero(temperature):
    model = small_model(spread=8)
    greedy = generate(model, random.Random(1), 0)
    for i in range(10):
        assert generate(model, random.Random(i), temperature) == greedy


@pytest.mark.parametrize("temperature", [0, 1e-9, 1e-8, 1e-3, 1, 1e9, math.inf])
def test_logits_that_are_far_apart_do_not_overflow(temperature):
    model = small_model(spread=300)
    text = generate(model, random.Random(1), temperature)
    assert set(text) <= set("abc")


@pytest.mark.parametrize("temperature", [1e9, math.inf])
def test_an_enormous_temperature_makes_all_tokens_equally_likely(temperature):
    model, rng = small_model(spread=8, block_size=1), random.Random(1)
    counts = Counter(generate(model, rng, temperature) for _ in range(4000))
    assert min(counts.values()) > 900 and len(counts) == 4


def test_the_default_temperature_is_one_half():
    model = small_model(spread=8)
    assert [generate(model, random.Random(i)) for i in range(20)] == [
        generate(model, random.Random(i), 0.5) for i in range(20)
    ]


# ---- the loop ------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["", "a", "cb"])
def test_each_token_is_drawn_with_the_weighted_choice_of_the_generator(prompt):
    model = small_model(spread=8, block_size=5)
    for seed in range(20):
        rng, keys, values = random.Random(seed), *empty_cache(model)
        tokens = [3, *map("abc".index, prompt)]
        for position in range(5):
            logits = data(gpt(tokens[position], position, keys, values, model))
            if position < len(prompt):
                continue
            tokens += rng.choices(range(4), probabilities(logits, 0.7))
            if tokens[-1] == 3:
                break
        expected = "".join("abc"[token] for token in tokens[1:] if token != 3)
        same = random.Random(seed)
        assert generate(model, same, 0.7, prompt) == expected
        assert same.getstate() == rng.getstate()  # nothing else is drawn


def test_a_sample_ends_with_bos_or_at_the_block_size():
    model = small_model(spread=4, block_size=6)
    texts = [generate(model, random.Random(i), 2.0) for i in range(200)]
    assert {len(text) for text in texts} == set(range(7))
    assert set("".join(texts)) == set("abc")


def test_sampling_does_not_change_the_model():
    model = small_model(n_layer=2)
    before = floats(model)
    generate(model, random.Random(1), 1.0, "ab")
    assert floats(model) == before
    assert all(p.grad == 0 for p in model.params)


# ---- prompts -------------------------------------------------------------------------


def test_a_sample_begins_with_the_prompt_and_continues_it():
    model = small_model(spread=8)
    for prompt in ("a", "b", "c", "ab", "bca", "ccb", "abcabc"):
        keys, values = empty_cache(model)
        for position, token in enumerate([3, *map("abc".index, prompt)]):
            logits = data(gpt(token, position, keys, values, model))
        text = generate(model, random.Random(7), 0, prompt)
        assert text[: len(prompt)] == prompt
        assert text[len(prompt) :][:1] == likeliest(logits)


def test_the_longest_prompt_leaves_room_for_one_character():
    model = small_model(spread=8, block_size=4)
    lengths = {len(generate(model, random.Random(i), 2.0, "abc")) for i in range(50)}
    assert lengths == {3, 4}


@pytest.mark.parametrize("prompt", ["abca", "abcabcabcabc"])
def test_a_longer_prompt_is_refused(prompt):
    with pytest.raises(ValueError, match="long"):
        generate(small_model(block_size=4), random.Random(1), prompt=prompt)


def test_a_prompt_with_a_character_that_the_model_does_not_know_is_refused():
    with pytest.raises(ValueError, match="unknown"):
        generate(small_model(), random.Random(1), prompt="ax")
