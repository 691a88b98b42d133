"""9. Golden numbers: what every Python and every faithful port must print.

Losses may differ by 1e-9 nats, because sums may be added in any order (from Python 3.12
on, sum() itself rounds differently). Samples must be equal. The README shows the same
numbers to readers who port the file.
"""

import math

import pytest
from conftest import start

from microgpt import generate, train

DEFAULT = {
    "losses": [
        3.1315545052412617,
        3.3636081771604993,
        3.322693544719532,
        3.468860580211742,
        3.3763943143660176,
        3.1784136310665603,
        2.9345649031869994,
        3.2329668235347713,
        3.118100617303842,
        2.7269849612897765,
    ],
    "held-out": 2.371316554771371,
    "samples": """
        derian bake lonis narele almas dana mara arin jeran chana
        nena tarian aman aren arca boris celle aide a nan
    """.split(),
}
TWO_LAYERS = {  # --n-layer 2 --num-steps 100
    "losses": [
        3.125732800115853,
        3.3459573816082675,
        3.3168684737996914,
        3.4802498716619183,
        3.3610944207971665,
        3.1806397001448232,
        2.8602244572132003,
        3.2456452434700194,
        3.083593363690604,
        2.6133818871611743,
    ],
    "held-out": 2.5706844565374323,
    "samples": """
        aanra okara yarra maeta tincae gahsa ceila alka geti lania
        ealla ianlle galan laamh oara leaurana nkan domanlan fanda dauiei
    """.split(),
}
RUNS = [("default_run", DEFAULT), ("two_layer_run", TWO_LAYERS)]


@pytest.mark.parametrize("name, golden", RUNS)
def test_the_first_ten_losses(name, golden, request):
    losses = request.getfixturevalue(name).losses[:10]
    assert losses == pytest.approx(golden["losses"], rel=0, abs=1e-9)


@pytest.mark.parametrize("name, golden", RUNS)
def test_the_held_out_loss(name, golden, request):
    result = request.getfixturevalue(name)
    assert result.held_out_loss == pytest.approx(golden["held-out"], rel=0, abs=1e-9)


def test_the_command_prints_these_numbers(default_run):
    printed = default_run.printed.split("\n")
    for step, loss in enumerate(DEFAULT["losses"], 1):
        assert f"step {step:4} / 1000 | loss {loss:.4f}" in printed
    assert f"held-out loss: {DEFAULT['held-out']:.4f} " in default_run.printed
    assert "mean loss last 50 steps: 2.3613" in printed


@pytest.mark.parametrize("name, golden", RUNS)
def test_the_twenty_samples(name, golden, request):
    assert request.getfixturevalue(name).samples == golden["samples"]


def test_the_held_out_loss_is_measured_on_200_documents(default_run):
    assert len(default_run.held_out) == 200
    assert len(default_run.docs) == 24969


def test_equal_seeds_give_equal_runs_and_other_seeds_give_other_runs():
    def short_run(seed):
        s = start(seed)
        return list(train(s.model, s.train_docs, 3)), generate(s.model, s.rng)

    assert short_run(42) == short_run(42)
    assert short_run(42) != short_run(43)


def test_the_untrained_model_is_about_as_good_as_a_uniform_guess(default_run):
    assert default_run.losses[0] == pytest.approx(math.log(27), abs=0.3)
