"""The command line, run as its users run it: in a process of its own.

Each row of a table states what is given and what must happen, under the reason for it.
Three rules hold for all rows: a failure is one line on standard error and never a
traceback; exit status 2 (wrong use) leaves standard output empty; after a success there
are only notes on standard error.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import floats

import microgpt

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "microgpt.py"
SIZES = "--n-embd --n-layer --n-head --block-size".split()
FLAGS = """--help --num-steps --learning-rate --seed --temperature --num-samples
    --prompt --save --load"""
TINY = "--n-embd 4 --n-head 2 --block-size 4 --num-steps 2 --num-samples 2".split()
LONG = [*TINY, "--num-steps", "20000"]  # will be interrupted
NAMES = b"ann\nbob\neve\nada\nava\nabe\nben\nned\ndan\ndee\nbea\na\n"  # 12: 1 held out
# Python's own settings and the width of this terminal must not affect the results.
ENV = {key: os.environ[key] for key in os.environ
       if not key.startswith(("PYTHON", "COLUMNS"))}
ENV["PYTHONIOENCODING"] = "utf-8"
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

def table(arguments, rows):
    """Parametrize a test by a dictionary of rows; the keys are the reasons."""
    return pytest.mark.parametrize(arguments, list(rows.values()), ids=list(rows))

def run(*args, python=(SCRIPT,), env=ENV, **options):
    """Run `python microgpt.py args` to its end."""
    return subprocess.run([sys.executable, *python, *args], env=env, timeout=60,
                          **{**PIPES, **options})

def run_patched(code, *args, **options):
    """Run the same command in a process that has first executed the code."""
    code = f"import os, signal, sys, microgpt\n{code}\nmicrogpt.main()"
    return run(*args, python=["-c", code], env={**ENV, "PYTHONPATH": str(ROOT)},
               **options)

def check(ran, status, *says):
    """Check the three rules, the exit status, and what standard error contains."""
    lines = ran.stderr.splitlines()
    errors = [line for line in lines if not line.startswith("note: ")]
    assert "Traceback" not in ran.stderr, ran.stderr
    assert ran.returncode == status, ran.stderr
    assert len(errors) == (status != 0), ran.stderr
    for words in says:
        assert words.lower() in ran.stderr.lower()
    if status == 2:
        assert (ran.stdout, lines) == ("", errors)

def samples(ran):
    """The sample lines without their numbers."""
    return re.findall(r"^sample +\d+: (.*)$", ran.stdout, re.MULTILINE)

def steps(ran):
    """The numbers of the steps that have a line."""
    return [int(number) for number in re.findall(r"^step +(\d+)", ran.stdout, re.M)]

@pytest.fixture
def names(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(NAMES)
    return path

# ---- 1. data -------------------------------------------------------------------------

@table("data", {
    "an empty file is refused": b"",
    "only blank lines are refused": b"\n \t\n\r\n",
    "one NUL byte is refused": b"an\0na\n",  # although it is valid UTF-8
    "random bytes are refused": bytes(random.Random(0).choices(range(256), k=999)),
    "Latin-1 is refused": b"zo\xeb\n",
    "half a surrogate pair is refused": b"\xed\xa0\x80\n",
    "UTF-16 is refused": "ann\n".encode("utf-16"),
    "UTF-16 without a byte-order mark is refused": "ann\n".encode("utf-16-le"),
})
def test_a_file_that_is_not_text_is_refused(names, data):
    names.write_bytes(data)
    check(run(names, *TINY), 2, "names.txt")

@table("data, num_docs, vocab_size", {
    "a byte-order mark is not a token": (b"\xef\xbb\xbfab\n", 1, 3),
    "CRLF ends a line and is not a token": (b"ab\r\nb\r\n", 2, 3),
    "CR ends a line and is not a token": (b"ab\rb\r", 2, 3),
    "blank lines do not count": (b"ab\n\n \nb", 2, 3),
    "white space is a token only within a document": (b"\ta b \n  b\t\n", 2, 4),
    "one document of one character is enough": (b"a", 1, 2),
    "one distinct character is enough": (b"aaa\naa\n", 2, 2),
    "duplicates count": (b"ab\nab\nab\n", 3, 3),
    "a line may be a megabyte long": (b"ab" * 500_000, 1, 3),
    "every script is accepted": ("\u3055\u304f\u3089\n\u0645\u0631\n".encode(), 2, 6),
    "a combining mark is a token of its own": ("e\u0301\n\u00e9\n".encode(), 2, 4),
    "an emoji is one token": ("\U0001f600\U0001f680\n".encode(), 1, 3),
})
def test_any_utf8_text_is_accepted(names, data, num_docs, vocab_size):
    names.write_bytes(data)
    ran = run(names, *TINY)
    check(ran, 0)
    assert ran.stdout.startswith(f"num docs: {num_docs}\nvocab size: {vocab_size}\n")
    drawn = "".join(samples(ran)).replace(" (in data)", "")
    assert len(samples(ran)) == 2 and set(drawn) <= set(data.decode())

@table("name, says", {
    "a missing file is refused": ("missing.txt", "missing.txt"),
    "a folder is refused": (".", ""),
    "a name with a line break is printed on one line": ("no\nsuch.txt", "such.txt"),
    "an empty name is refused": ("", ""),  # python microgpt.py "$UNSET"
})
def test_a_path_that_is_not_a_file_is_refused(tmp_path, name, says):
    check(run(name, *TINY, cwd=tmp_path), 2, says)

def test_a_hundred_thousand_documents_start_in_two_seconds(names):
    names.write_text("".join(f"{i}\n" for i in range(100_000)))
    began = os.times().children_user  # which does not depend on what else is running
    ran = run(names, *TINY, *"--block-size 8 --num-steps 0 --num-samples 0".split())
    assert os.times().children_user - began < 2
    check(ran, 0)
    assert ran.stdout.startswith("num docs: 100000\n")

@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_output_survives_the_encoding(names, encoding):
    names.write_text("\u3055\u304f\u3089\n\U0001f600\n", encoding="utf-8")
    ran = run(names, *TINY, env={**ENV, "PYTHONIOENCODING": encoding})
    check(ran, 0)
    shown = "".join(samples(ran))
    assert shown.isascii() == (encoding != "utf-8")  # escaped only where necessary
    assert "?" not in shown

@table("beside, here, num_docs", {
    "the input.txt beside the script is read": (b"a\n", None, 1),
    "it takes precedence over the one in this folder": (b"a\n", b"a\nb\n", 1),
    "otherwise the one in this folder is read": (None, b"a\nb\n", 2),
    "without either, one line names the file": (None, None, None),
})
def test_without_a_file_input_txt_is_read(tmp_path, beside, here, num_docs):
    for folder, data in (("script", beside), ("here", here)):
        (tmp_path / folder).mkdir()
        if data:
            (tmp_path / folder / "input.txt").write_bytes(data)
    script = shutil.copy(SCRIPT, tmp_path / "script")
    ran = run(*TINY, python=[script], cwd=tmp_path / "here")
    check(ran, *((0,) if num_docs else (2, "input.txt")))
    assert not num_docs or ran.stdout.startswith(f"num docs: {num_docs}\n")

# ---- 2. arguments --------------------------------------------------------------------

@table("args", {
    "a model needs a channel": "--n-embd 0",
    "a size is written in digits": "--n-embd four",
    "a size is a whole number": "--n-embd 4.0",
    "a model needs a layer": "--n-layer 0",
    "attention needs a head": "--n-head 0",  # n_embd % 0 would be a traceback
    "a negative number of heads is refused": "--n-head -2",  # although 4 % -2 == 0
    "the number of heads must divide n_embd": "--n-head 3 --n-embd 4",
    "each head needs a channel": "--n-head 8 --n-embd 4",
    "a model needs a position": "--block-size 0",
    "a negative number of steps is refused": "--num-steps -1",
    "the number of steps is whole": "--num-steps 1.5",
    "the number of steps has a limit": f"--num-steps 1{'0' * 400}",
    "a negative learning rate is refused": "--learning-rate -0.01",
    "a learning rate is a number": "--learning-rate nan",  # nan fails every comparison
    "a learning rate is finite": "--learning-rate inf",
    "a negative seed is refused": "--seed -1",  # Random(-1) is the same as Random(1)
    "a negative temperature is refused": "--temperature -1",
    "a temperature is a number": "--temperature nan",
    "a temperature is finite": "--temperature inf",
    "a negative number of samples is refused": "--num-samples -1",
    "a prompt must be shorter than the block": "--prompt beee",
    "a prompt may not be longer than the block": "--prompt beeeeee",
    "an unknown flag is refused": "--colour red",
    "there are no short flags": "-n 5",
    "an abbreviation is refused": "--num-step 5",
})
def test_what_makes_no_sense_is_refused_by_name(names, args):
    ran = run(names, *TINY, *args.split())
    ran.stderr = ran.stderr.replace("_", "-")  # n_head or --n-head, either will do
    check(ran, 2, *args.replace("--", "").split())  # the flags and the values

@table("args, says", {
    "a flag needs a value": (["--seed"], "--seed"),
    "a value needs a digit": (["--seed="], "--seed"),
    "two dashes are not a number": (["--n-head=--"], "--"),
    "two dashes are not a known prompt": (["--prompt=--"], "-"),
    "a rate that no float can hold": (["--learning-rate=1e999"], "--learning-rate"),
    "a negative infinity is refused": (["--temperature=-inf"], "-inf"),
    "it is refused after a space as well": (["--temperature", "-inf"], "--temperature"),
    "one unknown character is enough": (["--prompt", "abZ"], "U+005A"),
    "a prompt of several lines": (["--prompt", "a\nZ\t"], "U+005A"),
    "an unknown emoji": (["--prompt", "\U0001f600"], "U+1F600"),
    "a letter that only looks like a known one": (["--prompt", "\u0430nn"], "U+0430"),
    "a second file is refused": (["two.txt"], "two.txt"),
})
def test_odd_values_are_refused_in_one_line(names, args, says):
    check(run(names, *TINY, *args), 2, says)

def test_help_lists_every_flag():
    ran = run("--help")
    check(ran, 0)
    assert {*re.findall("--[a-z-]+", ran.stdout)} == {*SIZES, *FLAGS.split()}

def test_a_temperature_near_zero_takes_the_likeliest(names):
    args = [names, *TINY, "--num-steps", "0", "--num-samples", "9"]
    for temperature in ("-0.0", "1e-320"):  # division by the second would overflow
        ran = run(*args, f"--temperature={temperature}")
        check(ran, 0)
        assert samples(ran) == samples(run(*args, "--temperature=0"))[:1] * 9
    assert len(set(samples(run(*args)))) > 1  # at the default temperature they differ

# ---- 3. checkpoints ------------------------------------------------------------------

A, B, M = "\u03b1", "\u03b2", "\u039c"  # alpha, beta and capital Mu, which looks like M
GREEK = [A, B, A + A, A + B, B + A, B + B, A + B + A, A + A + A, B + A + B, B + B + B]

@pytest.fixture(scope="session")
def greek(tmp_path_factory):
    """The path of a small model that knows alpha and beta; its data are in data.txt."""
    folder = tmp_path_factory.mktemp("greek")
    (folder / "data.txt").write_text("\n".join(GREEK), encoding="utf-8")
    ran = run("data.txt", *TINY, "--n-layer", "2", "--save", "model.json", cwd=folder)
    check(ran, 0)
    return folder / "model.json"

def by_hand(path, data, seed=42, num_steps=0, num_samples=20, **sampling):
    """Do what `--load path data` does; return the model and what shown() must be."""
    rng, docs = random.Random(seed), microgpt.load_docs(data)
    rng.shuffle(docs)
    model = microgpt.load(path)
    train_docs, held_out = microgpt.split_docs(docs)
    losses = [f"{x:.4f}" for x in microgpt.train(model, train_docs, num_steps)]
    held_out_loss = f"{microgpt.mean_loss(model, held_out):.4f}"
    texts = [microgpt.generate(model, rng, **sampling) for _ in range(num_samples)]
    return model, (losses, held_out_loss, [
        text + " (in data)" * (text in docs) for text in texts])

def shown(ran):
    """The losses, the held-out loss and the samples that a run has printed."""
    held_out = re.search(r"held-out loss: (none held out|\S+)", ran.stdout)
    return re.findall(r"\| loss (\S+)", ran.stdout), held_out[1], samples(ran)

def test_a_checkpoint_holds_the_model_and_nothing_else(names):
    names.write_text("abcdefghijklmnopqrstuvwxyz\n" * 2)
    check(run("names.txt", "--num-steps", "0", "--save", "m", cwd=names.parent), 0)
    rng = random.Random(42)
    rng.shuffle([1, 2])  # as many as there are documents
    model = microgpt.Model(list("abcdefghijklmnopqrstuvwxyz"), rng)
    assert json.loads(names.with_name("m").read_bytes()) == {
        "chars": model.chars, "n_head": 4, "weights": floats(model)}
    assert names.with_name("m").stat().st_size == pytest.approx(90_000, rel=0.05)

@table("settings", {
    "with no flags": {},
    "with a temperature": {"temperature": 0.1},
    "without randomness": {"temperature": 0},
    "with a prompt": {"prompt": B + A},
    "with another seed": {"num_samples": 3, "seed": 0},
    "with an explicit number of steps": {"num_steps": 0},
})
def test_a_loaded_model_is_measured_and_samples(greek, settings):
    flags = [f"--{name.replace('_', '-')}={x}" for name, x in settings.items()]
    ran = run("data.txt", "--load", "model.json", *flags, cwd=greek.parent)
    check(ran, 0)
    assert "step" not in ran.stdout
    assert shown(ran) == by_hand(greek, greek.with_name("data.txt"), **settings)[1]

def test_fine_tuning_goes_on_from_the_loaded_model(greek, tmp_path):
    model, data = shutil.copy(greek, tmp_path), tmp_path / "more.txt"
    data.write_text("\n".join(GREEK[::-1] + [A * 4]), encoding="utf-8")
    ran = run(data, "--load", model, "--num-steps", "5", "--save", model)
    check(ran, 0, "note: ")
    tuned, expected = by_hand(greek, data, num_steps=5)
    assert (steps(ran), shown(ran)) == ([1, 2, 3, 4, 5], expected)
    assert floats(microgpt.load(model)) == floats(tuned)

def test_what_a_loaded_model_cannot_read_is_left_out(greek, tmp_path):
    ran = run("--load", greek)  # input.txt is Latin
    check(ran, 0)
    assert (shown(ran)[1], len(samples(ran))) == ("none held out", 20)
    mixed = tmp_path / "mixed.txt"
    mixed.write_text("\n".join(GREEK + ["ann", A + "b"] * 9), encoding="utf-8")
    ran = run(mixed, "--load", greek)
    check(ran, 0)
    model = microgpt.load(greek)
    assert shown(ran)[1] in [f"{microgpt.mean_loss(model, [doc]):.4f}" for doc in GREEK]
    assert "(in data)" in ran.stdout

@table("data, says", {
    "a Latin capital letter M": (A + "M\n", ["'M' (U+004D)"]),
    "a Greek one, where documents are cut off": (A * 8 + M, ["U+039C"]),
    "all that are unknown": (f"z{A}\ny{B}\n", ["'y'", "'z'", "U+0079", "U+007A"]),
    "an invisible one in one of many documents": (f"{A}\n" * 99 + "\u200b", ["U+200B"]),
})
def test_fine_tuning_shows_what_the_model_does_not_know(greek, tmp_path, data, says):
    (tmp_path / "other.txt").write_text(data, encoding="utf-8")
    ran = run("other.txt", "--load", greek, "--num-steps", "3", "--save", "new.json",
              cwd=tmp_path)
    check(ran, 2, *says)
    assert not (tmp_path / "new.json").exists()

@table("args, says", {
    **{f"{flag} is fixed by the model": ([flag, "4"], flag) for flag in SIZES},
    "a missing model": (["--load", "none.json"], "none.json"),
    "a folder in place of a model": (["--load", "."], ""),
    "an empty name": (["--load="], ""),
    "missing data": (["none.txt"], "none.txt"),
    "a prompt that the model cannot read": (["--prompt", "M"], "U+004D"),
    "a prompt that is too long for the model": (["--prompt", A * 4], "--prompt"),
})
def test_load_refuses_what_it_cannot_use(greek, args, says):
    check(run("--load", "model.json", *args, cwd=greek.parent), 2, says)

@table("write", {
    "keys in alphabetical order": lambda m: json.dumps(m, sort_keys=True),  # Go, Rust
    "keys in reverse order": lambda m: json.dumps(dict(reversed(
        {**m, "weights": dict(reversed(m["weights"].items()))}.items()))),
    "UTF-8 without escapes": lambda m: json.dumps(m, ensure_ascii=False),
    "a byte-order mark": lambda m: "\ufeff" + json.dumps(m),
    "CRLF": lambda m: json.dumps(m, indent=1).replace("\n", "\r\n"),
})
def test_a_model_is_the_same_however_it_was_written(greek, tmp_path, write):
    port, data = tmp_path / "port.json", greek.with_name("data.txt")
    port.write_bytes(write(json.loads(greek.read_bytes())).encode())
    ran = run(data, "--load", port)
    check(ran, 0)
    model, expected = by_hand(greek, data)
    assert shown(ran) == expected
    assert floats(microgpt.load(port)) == floats(model)

@posix
def test_a_model_can_be_read_from_a_pipe(greek):  # --load <(zcat model.json.gz)
    model = json.loads(greek.read_bytes())
    model["weights"]["wpe"] = [[1, 2, 3, 4]] * 4  # integers are accepted
    ran = run("--load", "/dev/stdin", greek.with_name("data.txt"),
              input=json.dumps(model))
    check(ran, 0)
    assert len(samples(ran)) == 20

@table("data", {
    "an empty file": b"",
    "a picture": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "a list of names": NAMES,
    **{f"just {text}": text.encode() for text in ("{}", "[]", "null", '"model"')},
    "a number too long to convert": b"9" * 9999,
    "lists nested deeper than recursion goes": b"[" * 999_999,
    "objects within objects": b'{"a":' * 99_999,
    **{f"{part} of a model": part for part in (0.01, 0.5, 0.99)},
})
def test_a_foreign_file_is_refused(greek, tmp_path, data):
    if isinstance(data, float):
        data = greek.read_bytes()[:int(data * greek.stat().st_size)]
    (tmp_path / "foreign.json").write_bytes(data)
    check(run("--load", tmp_path / "foreign.json"), 2, "foreign.json")

FC = "layer1.mlp_fc2"  # one of the matrices, 4 x 16
MEMORY = "" if os.name != "posix" else (
    "import resource; resource.setrlimit(resource.RLIMIT_AS, (2 ** 29, 2 ** 29))")

@table("edit, says", {  # m is the model, w its weights
    **{f"{x} for n_head": (f"m['n_head'] = {x}", "n_head")  # 3 does not divide 4
       for x in (3, 0, -2, None, True, 2.0, "'2'", 10 ** 30)},
    **{f"{x} for chars": (f"m['chars'] = {x}", "chars") for x in (
        [B, A], f"'{A}{B}'", [A + A, B + B], [A, A], [1, 2], [None, []], {}, None)},
    **{f"{x} for weights": (f"m['weights'] = {x}", "weights")
       for x in ([[[0.1]]], None, "'wpe'", 1)},
    **{f"no {key}": (f"del m['{key}']", key) for key in ("chars", "n_head", "weights")},
    **{f"no {name}": (f"del w['{name}']", name) for name in (
        "wte", "wpe", "lm_head", "layer0.attn_wq", "layer0.attn_wo", FC)},
    "no matrices": ("w.clear()", "wpe"),
    "no characters": ("m['chars'].clear()", ""),
    "a character too few": ("m['chars'].pop()", "wte"),
    "a character too many": (f"m['chars'].append('{M.lower()}')", "wte"),
    "one matrix more": ("w['bias'] = [[0.1]]", "bias"),
    "part of a layer": ("w['layer2.attn_wq'] = []", "layer2"),
    "more channels": ("w['wpe'] = [[0.1] * 8] * 4", "8"),
    "fewer channels": ("w['wpe'] = [[0.1] * 2] * 4", "2"),
    "no channels": ("w['wpe'] = [[]] * 4", "wpe"),
    "no positions": ("w['wpe'] = []", "wpe"),
    "numbers for rows": ("w['wpe'] = [0.1] * 4", "wpe"),
    "rows of unequal length": ("w['wpe'][1].pop()", "wpe"),
    "a row dropped": ("w['wte'].pop()", "wte"),
    "a weight dropped": ("w['wte'][0].pop()", "wte"),
    "a row that is empty": (f"w['{FC}'][1] = []", FC),
    "a row that is text": (f"w['{FC}'][1] = 'a' * 16", FC),
    "a matrix that is an object": (f"w['{FC}'] = {{}}", FC),
    "a matrix that is a number": (f"w['{FC}'] = 0.1", FC),
    **{f"a weight that is {x}": (f"w['{FC}'][2][3] = {x}", FC) for x in (
        "'0.1'", None, True, [0.1], "float('nan')", "float('inf')", "-float('inf')",
        1e308, -1e300, 1e5, "10 ** 400")},
    # None of the following may exhaust the memory or take long.
    "a row of 200,000": ("w['wpe'] = [[0.5] * 200_000]", ""),
    "a column of 200,000": ("w['wpe'] = [[5, 5]] * 200_000", ""),
    "50,000 layers": ("w.update((f'layer{i}.attn_wq', 0) for i in range(50_000))", ""),
    "50,000 layers of one channel": ("m['n_head'] = 1; w.clear(); w['wpe'] = [[5]]\n"
        "w.update((f'layer{i}.attn_wq', 0) for i in range(50_000))", ""),
    "10,000 characters": ("m['chars'] = [*map(chr, range(10_000))]", ""),
})
def test_a_tampered_model_is_refused(greek, tmp_path, edit, says):
    model = json.loads(greek.read_bytes())
    exec(edit, {"m": model, "w": model["weights"]})
    (tmp_path / "edited.json").write_text(json.dumps(model))
    data, began = greek.with_name("data.txt"), os.times().children_user
    ran = run_patched(MEMORY, data, "--load", tmp_path / "edited.json")
    assert os.times().children_user - began < 10
    check(ran, 2, "edited.json", says)
    assert "learning-rate" not in ran.stderr  # which would not help
    assert len(ran.stderr) < 500

# ---- 4. what --save asked for --------------------------------------------------------

@pytest.fixture
def old(greek, names):
    """The path of an older model, in a folder that otherwise holds only names.txt."""
    return Path(shutil.copy(greek, names.with_name("old.json")))

def files(path):
    """The names in the folder of a path."""
    return sorted(file.name for file in path.parent.iterdir())

def check_not_saved(old, greek):
    """Check that the old model is unchanged, and that no other file was left."""
    assert old.read_bytes() == greek.read_bytes()
    assert files(old) == ["names.txt", "old.json"]

def check_saved(old, ran, num_steps=None):
    """Check the new model and the note about it; return the number of its steps."""
    assert files(old) == ["names.txt", "old.json"]
    assert microgpt.load(old).chars == list("abdenov")
    found = re.search(r"^note: .*old\.json.* at step (\d+)$", ran.stderr, re.MULTILINE)
    assert found and num_steps in (None, int(found[1]))
    return int(found[1])

def test_the_model_is_saved_before_anything_further_is_printed(old, names):
    ran = run(names, *TINY, "--save", old)
    check(ran, 0)
    check_saved(old, ran, 2)
    assert ran.stderr.count("\n") == 1
    ran = run(names, *TINY, "--save", old, stderr=subprocess.STDOUT)
    assert [line[:4] for line in ran.stdout.splitlines()[3:7]] == [
        "step", "step", "note", "mean"]
    old.unlink()  # in the next run, the process dies right after the note
    code = "microgpt.mean_loss = lambda *_: os._exit(9)"
    ran = run_patched(code, names, *TINY, "--save", old)
    assert (ran.returncode, check_saved(old, ran)) == (9, 2)

@posix
def test_names_with_line_breaks_and_links_are_saved_to(names):
    names.with_name("link").symlink_to("two\nlines.json")
    for path in ("two\nlines.json", "link"):
        check(run("names.txt", *TINY, "--save", path, cwd=names.parent), 0, "note: ")
    assert files(names) == ["link", "names.txt", "two\nlines.json"]
    assert names.with_name("link").is_symlink()

def test_a_leftover_part_file_is_overwritten(old, names):
    code = """for part in ("part", f"{os.getpid()}.part"):  # process ids are reused
        open(f"{sys.argv[-1]}.{part}", "w").write("left over" * 9999)"""
    ran = run_patched(code, names, *TINY, "--save", old)
    check(ran, 0)
    old.with_name("old.json.part").unlink()
    check_saved(old, ran, 2)

@posix
@table("path", {
    "no name": "",
    "a folder": ".",
    "a folder that is missing": "missing/model.json",
    "a file in place of a folder": "names.txt/model.json",
    "a folder that cannot hold it": "/proc/model.json",
    "a name that is too long for any system": "x" * 300,
    "the data": "names.txt",
    "the data by another name": "../{}/names.txt",
    "a link to the data": "link",
})
def test_a_path_that_cannot_be_written_is_found_out_before_training(names, path):
    names.with_name("link").symlink_to("names.txt")
    path = path.format(names.parent.name)
    check(run("names.txt", *LONG, "--save", path, cwd=names.parent), 2, "--save")
    assert (names.read_bytes(), files(names)) == (NAMES, ["link", "names.txt"])

@posix
def test_only_a_model_is_ever_overwritten(names):
    names.with_name("notes.txt").write_text("precious")
    names.with_name("list.json").write_text("[1, 2]")
    os.mkfifo(names.with_name("pipe"))  # to read it would take forever
    before = files(names)
    for path in ("notes.txt", "list.json", "pipe", "/dev/null", str(SCRIPT)):
        check(run(names, *TINY, "--save", path, cwd=names.parent), 2, "--save", path)
    assert names.with_name("notes.txt").read_text() == "precious"
    assert files(names) == before

FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (999, 999))"
AT_THE_END = """
def breaking(*args, real=microgpt.adam):
    real(*args)
    {}
microgpt.adam = breaking
"""

@posix
def test_a_full_disk_is_found_out_before_training(old, greek, names):
    check(run_patched(FULL, names, *LONG, "--save", old), 2, "--save")
    check_not_saved(old, greek)

@posix
@table("code", {
    "a disk that fills during training": AT_THE_END.format(FULL),
    "a disk that breaks": "def fail(*_): raise OSError(5, 'broken')\nos.replace = fail",
})
def test_a_save_that_fails_at_the_end_still_prints_the_samples(old, greek, names, code):
    ran = run_patched(code, names, *TINY, "--save", old)
    check(ran, 1, "save")
    assert (len(samples(ran)), "note: " in ran.stderr) == (2, False)
    check_not_saved(old, greek)

def test_sudden_death_while_saving_leaves_the_old_file_whole(old, greek, names):
    code = "os.replace = lambda *_: os._exit(9)"  # as with kill -9, nothing cleans up
    assert run_patched(code, names, *TINY, "--save", old).returncode == 9
    assert old.read_bytes() == greek.read_bytes()

@table("rate, num_steps", {
    "10 diverges": ("10", "9"),
    "squares overflow": ("1e80", "9"),
    "weights overflow": ("1e99", "9"),
    "the last step makes infinite weights": ("1e99", "1"),
    "the last step makes huge weights": ("1e5", "1"),
})
def test_a_diverged_model_is_not_saved(old, greek, names, rate, num_steps):
    ran = run(names, "--learning-rate", rate, "--num-steps", num_steps, "--save", old)
    check(ran, 1, "--learning-rate")
    assert samples(ran) == []
    check_not_saved(old, greek)

# ---- 5. interruption -----------------------------------------------------------------

def start(*args, **options):
    """Start `python microgpt.py args`, so that it reacts to Ctrl-C in any case."""
    return subprocess.Popen(
        [sys.executable, SCRIPT, *args], env=ENV, **{**PIPES, **options},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))

def read_until(stream, words):
    while words not in (line := stream.readline()):
        assert line, f"the output ended before {words!r}"

def hang_up(process):
    """Close the pipe that the process writes to."""
    process.stdout.close()
    process.stdout = None

def ended(process):
    """Wait for the end of the process; return what it wrote, and its exit status."""
    out = process.stdout.read() if process.stdout else ""
    err = process.stderr.read() if process.stderr else ""
    return SimpleNamespace(stdout=out, stderr=err, returncode=process.wait(timeout=30))

@posix
@pytest.mark.parametrize("moment", range(25 if os.environ.get("MICROGPT_SLOW") else 9))
def test_ctrl_c_at_any_moment_loses_nothing(old, greek, names, moment):
    pipe = ("lives", "closes later", "closes first")[moment % 3]  # as in `| tee log`
    with start(names, *LONG, "--save", old) as process:
        read_until(process.stdout, "num params")
        time.sleep(random.Random(moment).uniform(0, 0.3))
        if pipe == "closes first":
            hang_up(process)
        process.send_signal(signal.SIGINT)
        if pipe == "closes later":
            hang_up(process)
        ran = ended(process)
    if ran.returncode == 130:  # before the first step was finished, or while it ended
        assert "Traceback" not in ran.stderr
        assert pipe == "closes first" or (steps(ran), ran.stderr) == ([], "")
        check_saved(old, ran) if ran.stderr else check_not_saved(old, greek)
    elif pipe == "lives":
        check(ran, 0, "Ctrl-C")
        assert check_saved(old, ran) - len(steps(ran)) in (0, 1)
        assert re.search(r"held-out loss: \d(.|\n)*\nsample  2: ", ran.stdout)
    else:
        assert (ran.returncode, "Traceback" in ran.stderr) == (141, False)
        assert check_saved(old, ran) > 0

PRESS = """
def pressing(*args, real={0}, left=[{1}], **options):
    result = real(*args, **options)
    left[0] -= 1
    if left == [0]:
        print("note: pressed", file=sys.stderr)
        signal.raise_signal(signal.SIGINT)
    return result
{0} = pressing
"""

def run_pressed(presses, *args):
    """Run the command; press Ctrl-C at the end of one call of each given function."""
    code = "".join(PRESS.format(*press) for press in presses.items())
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)"
    ran = run_patched(code, *args)
    assert ran.stderr.count("note: pressed\n") == len(presses)
    return ran

def test_ctrl_c_before_the_end_of_the_first_step_keeps_the_old_file(old, greek, names):
    ran = run_pressed({"microgpt.document_losses": 1}, names, *TINY, "--save", old)
    assert (ran.returncode, ran.stderr, steps(ran)) == (130, "note: pressed\n", [])
    check_not_saved(old, greek)

@pytest.mark.parametrize("function", ["document_losses", "time.perf_counter"])
def test_after_ctrl_c_the_note_says_which_model_was_saved(old, names, function):
    ran = run_pressed({f"microgpt.{function}": 4}, names, *LONG, "--save", old)
    check(ran, 0)
    num_steps, rng = check_saved(old, ran), random.Random(42)
    docs = microgpt.load_docs(names)
    rng.shuffle(docs)
    model = microgpt.Model(list("abdenov"), rng, 4, 1, 2, 4)
    for _ in zip(range(num_steps), microgpt.train(model, docs[:-1], 20000)):
        pass
    assert floats(microgpt.load(old)) == floats(model)
    assert f"\nmean loss last {num_steps} steps: " in ran.stdout

def test_ctrl_c_while_it_saves_keeps_the_old_file_whole(old, greek, names):
    # The first call checks before training whether the path can be written.
    ran = run_pressed({"microgpt.json.dumps": 2}, names, *TINY, "--save", old)
    assert ran.returncode == 130
    check_not_saved(old, greek)

@table("second, saved", {
    "while it saves": ({"microgpt.json.dumps": 2}, False),
    "while it measures": ({"microgpt.mean_loss": 1}, True),
    "while it samples": ({"microgpt.generate": 3}, True),  # the first is a check
})
def test_ctrl_c_twice_ends_at_once(old, greek, names, second, saved):
    presses = {"microgpt.document_losses": 4, **second}
    ran = run_pressed(presses, names, *LONG, "--save", old)
    assert (ran.returncode, "Traceback" in ran.stderr) == (130, False)
    assert len(samples(ran)) < 2
    check_saved(old, ran) if saved else check_not_saved(old, greek)

@posix
@pytest.mark.parametrize("merged", [False, True])  # with 2>&1 before | head
def test_a_pipe_that_closes_ends_it_quietly(old, names, merged):
    where = {"stderr": subprocess.STDOUT} if merged else {}
    with start(names, *LONG, "--save", old, **where) as process:
        read_until(process.stdout, "step    2 ")
        hang_up(process)
        ran = ended(process)
    assert ran.returncode == 141  # 128 + SIGPIPE
    assert microgpt.load(old).chars == list("abdenov")
    assert merged or check_saved(old, ran) > 1 and ran.stderr.count("\n") == 1

@posix
def test_a_pipe_that_nobody_reads_causes_no_traceback(names):
    reader, writer = os.pipe()
    os.close(reader)
    for args, status in (("--num-steps", "0"), 141), (("--n-embd", "0"), 2):
        ran = run(names, *TINY, *args, stdout=writer)
        assert (ran.returncode, ran.stderr.count("\n")) == (status, status == 2)
    os.close(writer)

@linux
@pytest.mark.parametrize("num_steps", ["0", "2"])
def test_a_full_disk_under_the_output_is_one_line(names, num_steps):
    with open("/dev/full", "w") as full:
        ran = run(names, *TINY, "--num-steps", num_steps, stdout=full)
    check(ran, 1, "space")

# ---- 6. the run as a whole -----------------------------------------------------------

def test_the_output_has_exactly_this_form(names):
    ran = run(names, *TINY, "--num-steps", "60")
    check(ran, 0)
    assert re.fullmatch(r"""num docs: 12
vocab size: 8
num params: 272
(step [ \d]{4} / 60 \| loss \d+\.\d{4}( \| .*)?\n){60}mean loss last 50 steps: \d\.\d{4}
held-out loss: \d\.\d{4} \(uniform guess: 2\.0794\)
training time: \d+\.\d\ds

--- inference ---
sample  1: [abdenov]*( \(in data\))?
sample  2: [abdenov]*( \(in data\))?
""", ran.stdout), ran.stdout
    mean = float(re.search("last 50 steps: (.*)", ran.stdout)[1])
    assert mean == pytest.approx(sum(map(float, shown(ran)[0][-50:])) / 50, abs=1e-4)
    assert steps(ran) == [*range(1, 61)]

@table("python", {
    "as before": [SCRIPT],  # a run can be repeated
    "with warnings as errors": ["-W", "error", SCRIPT],
    "in development mode": ["-X", "dev", SCRIPT],
    "without assertions": ["-O", SCRIPT],
    "without any other library": ["-I", "-S", SCRIPT],
    "from the console command": [
        "-c", "import sys; sys.path.insert(0, sys.argv.pop(1));"
        "sys.argv[0] = 'microgpt'; from microgpt import main; main()", ROOT],
})
def test_how_python_is_started_changes_nothing(names, python):
    plain, other = run(names, *TINY), run(names, *TINY, python=python)
    one, two = [re.sub("time: .*", "", r.stdout) + r.stderr for r in (plain, other)]
    assert one == two and one.count("\n") == 12

def test_each_step_is_shown_as_soon_as_it_is_made(names):
    code = "microgpt.adam = lambda *args: args[3] == 3 and os._exit(9)"
    assert steps(run_patched(code, names, *TINY, "--num-steps", "9")) == [1, 2]

def resize(columns):
    """The action that gives a terminal this many columns."""
    import fcntl
    import termios
    size = struct.pack("HHHH", 24, columns, 0, 0)
    return lambda terminal, process: fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)

def press(terminal, process):
    """The action that presses Ctrl-C."""
    process.send_signal(signal.SIGINT)

def in_terminal(columns, *args, words=None, action=None, **options):
    """Run in a terminal, take the action once it shows the words; return the text."""
    import pty
    here, there = pty.openpty()
    resize(columns)(here, None)
    text = b""
    with start(*args, stdout=there, stderr=there, **options) as process:
        os.close(there)
        with contextlib.suppress(OSError):  # Linux, once the other end has closed
            while chunk := os.read(here, 9999):
                text += chunk
                if words and words in text.decode():
                    action(here, process)
                    words = None
    os.close(here)
    return text.decode()

def screen(text):
    """The lines of a terminal in the end, where \\r returns to the start of a line."""
    lines = []
    for line in text.split("\r\n"):
        lines.append("")
        for part in line.split("\r"):
            lines[-1] = part + lines[-1][len(part):]
    return lines

@posix
@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_progress_is_one_line_however_narrow_the_terminal(names, columns):
    text = in_terminal(columns, names, *TINY, "--num-steps", "30")
    assert [line[:9] for line in screen(text)[:5]] == [
        "num docs:", "vocab siz", "num param", "step   30", "mean loss"]
    parts = re.findall("step [^\r]*", text)
    assert len(parts) == 30 and max(map(len, parts)) <= columns
    assert columns < 80 or re.match(r"step    7 / 30 \| loss [0-9.]+ .*left", parts[6])

@posix
def test_progress_follows_a_window_that_is_resized(names):
    sizes = "--n-embd 1 --n-head 1 --block-size 2 --num-samples 0".split()
    text = in_terminal(80, names, *sizes, "--num-steps", "3000",
                       words="step   50 ", action=resize(25))
    fits = [len(part) <= 25 for part in re.findall("step [^\r]*", text)]
    assert fits == sorted(fits)  # the later ones do, the earlier ones do not
    assert (len(fits), fits[0], fits[-1]) == (3000, False, True)

@posix
@table("args, words, action, count", {
    "after the last step": (["--num-steps", "300"], None, None, 1),
    "after Ctrl-C": (LONG, "step   20 ", press, 2),
    "after training has diverged": ([*LONG, "--learning-rate=1e20"], None, None, 1),
})
def test_a_terminal_shows_messages_intact(names, args, words, action, count):
    text = in_terminal(80, names, *TINY, *args, "--save", "m", words=words,
                       action=action, cwd=names.parent)
    lines = [line for line in screen(text) if "note: " in line or "error: " in line]
    assert len(lines) == count and {*lines} <= {*re.split("[\r\n]+", text)}

IMPORT = """
import gc, os, random, signal, sys

def state():
    return (gc.isenabled(), random.getstate(), sys.getrecursionlimit(), sys.stdout,
            [signal.getsignal(number) for number in sorted(signal.valid_signals())])

before = state()
import microgpt
assert state() == before
del sys.modules["microgpt"]  # once more, now that all it imports is there already
sys.addaudithook(lambda event, args: event == "open" and opened.append(str(args[0])))
opened = []
import microgpt
print([path for path in opened if "microgpt" not in os.path.basename(path)])
"""

def test_importing_does_nothing(tmp_path):
    ran = run(python=["-B", "-c", IMPORT], env={**ENV, "PYTHONPATH": str(ROOT)},
              cwd=tmp_path)
    assert (ran.stdout, ran.stderr) == ("[]\n", "")
    assert list(tmp_path.iterdir()) == []
