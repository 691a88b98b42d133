"""Helpers for several test files: small models, and slopes that are measured."""

import math
import random

from microgpt import Model, Value, document_losses, recording, tokenize


def values(numbers):
    """The numbers as Values without children."""
    return [Value(number) for number in numbers]


def data(vector):
    """The numbers that a list of Values holds."""
    return [v.data for v in vector]


def small_model(chars="abc", seed=1, spread=1.0, **settings):
    """A model small enough to test every parameter; spread multiplies its weights."""
    settings = {"n_embd": 4, "n_layer": 1, "n_head": 2, "block_size": 8, **settings}
    model = Model(list(chars), random.Random(seed), **settings)
    for p in model.params:
        p.data *= spread
    return model


def empty_cache(model):
    """Keys and values [n_layer][time] before the first token."""
    return [[] for _ in range(model.n_layer)], [[] for _ in range(model.n_layer)]


def document(model, tokens):
    """The document that tokenize() turns into these tokens."""
    doc = "".join(model.chars[token] for token in tokens if token < len(model.chars))
    assert tokenize(doc, model.chars, model.block_size) == tokens
    return doc


def forward(model, tokens):
    """The mean loss over a document, and the tape, as in train()."""
    with recording() as tape:
        losses = document_losses(model, document(model, tokens))
        loss = sum(losses) / len(losses)
    return loss, tape


def floats(model):
    """The weights as plain floats: name -> [n_out][n_in]."""
    return {
        name: [[p.data for p in row] for row in matrix]
        for name, matrix in model.state_dict.items()
    }


def gradients(model):
    """The gradients as plain floats: name -> [n_out][n_in]."""
    return {
        name: [[p.grad for p in row] for row in matrix]
        for name, matrix in model.state_dict.items()
    }


def flat(matrices):
    """All numbers of name -> [n_out][n_in], in order."""
    return [number for matrix in matrices.values() for row in matrix for number in row]


def mean_document_loss(model, tokens):
    """The mean loss of one document, a float, computed without recording a tape."""
    losses = [loss.data for loss in document_losses(model, document(model, tokens))]
    return sum(losses) / len(losses)


def slope(f, x, h):
    """df/dx at x by central differences of fourth order: the error is of order h^4."""
    near = f(x + h) - f(x - h)
    far = f(x + 2 * h) - f(x - 2 * h)
    return (8 * near - far) / (12 * h)


def check_slopes(f, numbers, h=1e-3, tolerance=1e-7):
    """Compare the gradient of each argument of f with the slope that is measured.

    f takes a list of Values and returns one Value.
    """
    arguments = values(numbers)
    f(arguments).backward()
    for i, argument in enumerate(arguments):

        def moved(x, i=i):
            return f(values([*numbers[:i], x, *numbers[i + 1 :]])).data

        measured = slope(moved, numbers[i], h)
        assert math.isclose(
            argument.grad, measured, rel_tol=tolerance, abs_tol=tolerance
        ), f"argument {i}: gradient {argument.grad}, measured {measured}"
