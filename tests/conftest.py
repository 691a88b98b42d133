"""Fixtures: where the project is, and two runs that several tests look at."""

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

import pytest

from microgpt import Model, generate, load_docs, mean_loss, split_docs, train

PROJECT = pathlib.Path(__file__).resolve().parent.parent


def start(seed=42, **settings):
    """The data and the untrained model of a run, by hand."""
    rng = random.Random(seed)
    docs = load_docs(PROJECT / "input.txt")
    rng.shuffle(docs)
    train_docs, held_out = split_docs(docs)
    model = Model(sorted(set("".join(docs))), rng, **settings)
    return SimpleNamespace(
        docs=docs, train_docs=train_docs, held_out=held_out, model=model, rng=rng
    )


def run(num_steps, **settings):
    """What `python microgpt.py` does, by hand: the whole program in a few lines."""
    result = start(**settings)
    result.losses = list(train(result.model, result.train_docs, num_steps))
    result.held_out_loss = mean_loss(result.model, result.held_out)
    result.samples = [generate(result.model, result.rng) for _ in range(20)]
    return result


def command(arguments, folder):
    """Run microgpt.py in a folder that holds it; return all that it prints."""
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
    """A folder like a fresh clone, where commands may write files."""
    folder = tmp_path_factory.mktemp("workshop")
    for name in ("microgpt.py", "input.txt"):
        shutil.copy(PROJECT / name, folder)
    return folder


@pytest.fixture(scope="session")
def default_run(workshop):
    """The real command, once: what it printed, and the model that it saved.

    Its first losses, of which the command prints four decimals, are computed again.
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
