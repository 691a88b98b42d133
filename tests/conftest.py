"""Fixtures: where the project is, and one default run that several tests look at."""

import math
import pathlib
import random
from types import SimpleNamespace

import pytest

from microgpt import Model, generate, load_docs, mean_loss, split_docs, train

PROJECT = pathlib.Path(__file__).resolve().parent.parent


def run(num_steps=1000, **settings):
    """What `python microgpt.py` does, by hand: the whole program in a dozen lines."""
    rng = random.Random(42)
    docs = load_docs(PROJECT / "input.txt")
    rng.shuffle(docs)
    train_docs, held_out = split_docs(docs)
    model = Model(sorted(set("".join(docs))), rng, **settings)
    losses = list(train(model, train_docs, num_steps))
    return SimpleNamespace(
        docs=docs,
        train_docs=train_docs,
        held_out=held_out,
        model=model,
        losses=losses,
        mean_last_50=math.fsum(losses[-50:]) / 50,
        held_out_loss=mean_loss(model, held_out),
        samples=[generate(model, rng) for _ in range(20)],
    )


@pytest.fixture(scope="session")
def project():
    return PROJECT


@pytest.fixture(scope="session")
def default_run():
    return run()


@pytest.fixture(scope="session")
def two_layer_run():
    return run(num_steps=100, n_layer=2)
