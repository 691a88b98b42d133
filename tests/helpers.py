"""What several test files share: small models, and slopes measured, not derived."""

import random

from microgpt import Model, document_losses


def small_model(chars="abc", seed=1, spread=1.0, **settings):
    """A model small enough to test every parameter; spread widens its weights."""
    settings = {"n_embd": 4, "n_layer": 1, "n_head": 2, "block_size": 8, **settings}
    model = Model(list(chars), random.Random(seed), **settings)
    for p in model.params:
        p.data *= spread
    return model


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


def mean_document_loss(model, tokens):
    losses = [loss.data for loss in document_losses(model, tokens)]
    return sum(losses) / len(losses)


def slope(f, x, h):
    """df/dx at x by central differences of fourth order: the error is of order h^4."""
    near = f(x + h) - f(x - h)
    far = f(x + 2 * h) - f(x - 2 * h)
    return (8 * near - far) / (12 * h)


def flat(matrices):
    """All numbers of name -> [n_out][n_in], in order."""
    return [number for matrix in matrices.values() for row in matrix for number in row]
