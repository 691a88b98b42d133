"""Fixtures: the folder of the project, and two runs that several tests examine."""

import gc
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import hypothesis
import pytest

from microgpt import (
    Model,
    build_vocab,
    generate,
    load_docs,
    mean_loss,
    split_docs,
    train,
)

PROJECT = pathlib.Path(__file__).resolve().parent.parent

# On a busy machine, any example may take longer than the usual deadline of 0.2 seconds.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


def start(seed=42, **settings):
    """Load the data and create an untrained model, as the command line does."""
    rng = random.Random(seed)
    docs = load_docs(PROJECT / "input.txt")
    rng.shuffle(docs)
    train_docs, held_out = split_docs(docs)
    model = Model(build_vocab(docs), rng, **settings)
    return SimpleNamespace(
        docs=docs, train_docs=train_docs, held_out=held_out, model=model, rng=rng
    )


def run(num_steps, **settings):
    """Do what `python microgpt.py` does, with the functions that it consists of."""
    gc.disable()
    try:
        result = start(**settings)
        result.losses = list(train(result.model, result.train_docs, num_steps))
        result.held_out_loss = mean_loss(result.model, result.held_out)
        result.samples = [generate(result.model, result.rng) for _ in range(20)]
    finally:
        gc.enable()
    return result


def command(arguments, folder):
    """Run microgpt.py in a folder that contains it; return everything it prints."""
    return subprocess.run(
        [sys.executable, "microgpt.py", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    ).stdout


@pytest.fixture(scope="session")
def project():
    return PROJECT


@pytest.fixture(scope="session")
def workshop(tmp_path_factory):
    """A folder like a fresh clone, in which commands may write files."""
    folder = tmp_path_factory.mktemp("workshop")
    for name in ("microgpt.py", "input.txt"):
        shutil.copy(PROJECT / name, folder)
    return folder


@pytest.fixture(scope="session")
def default_run(workshop):
    """The real command, run once: what it printed, and the model that it saved.

    The command prints its losses with four decimals only. The first ten are therefore
    computed again, with all their digits.
    """
    result = start()
    first = itertools.islice(train(result.model, result.train_docs, 1000), 10)
    result.losses = list(first)
    result.printed = command(["--save", "names.json"], workshop)
    saved = json.loads((workshop / "names.json").read_text(encoding="ascii"))
    for name, matrix in result.model.state_dict.items():
        for row, saved_row in zip(matrix, saved["weights"][name]):
            for p, number in zip(row, saved_row):
                p.data = number
    result.held_out_loss = mean_loss(result.model, result.held_out)
    result.samples = re.findall(r"^sample +\d+: (\w*)", result.printed, re.M)
    return result


@pytest.fixture(scope="session")
def two_layer_run():
    return run(num_steps=100, n_layer=2)
