"""The command line, run as its users run it: in a process of its own.

Each row of a table states what is given and what must come of it. Three rules hold for
all rows: a failure is one line on standard error and never a traceback; exit status 2
(wrong use) leaves standard output empty; success leaves nothing but notes on standard
error.
"""

import contextlib
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import microgpt

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "microgpt.py"
FLAGS = """--n-embd --n-layer --n-head --block-size --num-steps --learning-rate --seed
    --temperature --num-samples --prompt --save --load""".split()
TINY = """--n-embd 4 --n-head 2 --block-size 4 --num-steps 2 --num-samples 2""".split()
NAMES = b"ann\nbob\neve\nada\nava\nabe\nben\nned\ndan\ndee\nbea\na\n"  # 12: 1 held out
ENV = {key: os.environ[key] for key in os.environ if not key.startswith("PYTHON")}
ENV["PYTHONIOENCODING"] = "utf-8"

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")


def run(*args, python=(SCRIPT,), env=ENV, **options):
    """`python microgpt.py args`, once it has ended."""
    return subprocess.run([sys.executable, *python, *args], env=env, encoding="utf-8",
                          stderr=subprocess.PIPE, timeout=60,
                          **{"stdout": subprocess.PIPE, **options})


def run_patched(code, *args):
    """The same command in a process where `code` has first changed microgpt."""
    code = f"import os, signal, sys, microgpt\n{code}\nmicrogpt.main()"
    return run(*args, python=["-c", code], env={**ENV, "PYTHONPATH": str(ROOT)})


def check(ran, status, *says):
    """The three rules, the exit status, and what standard error says, in any order."""
    lines = ran.stderr.splitlines()
    errors = [line for line in lines if not line.startswith("note: ")]
    assert "Traceback" not in ran.stderr, ran.stderr
    assert ran.returncode == status, ran.stderr
    assert len(errors) == (status != 0), ran.stderr
    for words in says:
        assert words in ran.stderr
    if status == 2:
        assert (ran.stdout, lines) == ("", errors)


def samples(ran):
    """The sample lines without their numbers: what the model made up."""
    return re.findall(r"^sample +\d+: (.*)$", ran.stdout, re.MULTILINE)


def untimed(ran):
    """Standard output without the one line that no two runs share."""
    return re.sub("training time: .*", "", ran.stdout)


@pytest.fixture
def names(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(NAMES)
    return path


# ---- 1. data -------------------------------------------------------------------------

@pytest.mark.parametrize("data, says", [
    pytest.param(b"", "empty", id="an empty file is refused"),
    pytest.param(b"\n \t\n\r\n", "empty", id="only blank lines are refused"),
    pytest.param(b"an\0na\n", "binary", id="one NUL byte is refused"),  # valid UTF-8
    pytest.param(bytes(random.Random(0).choices(range(256), k=999)), "UTF-8",
                 id="random bytes are refused"),
    pytest.param(b"zo\xeb\n", "UTF-8", id="Latin-1 is refused"),
    pytest.param(b"\xed\xa0\x80\n", "UTF-8", id="half a surrogate pair is refused"),
    pytest.param("ann\n".encode("utf-16"), "UTF-8", id="UTF-16 is refused"),
    pytest.param("ann\n".encode("utf-16-le"), "UTF-8",  # all bytes are valid UTF-8
                 id="UTF-16 without a byte-order mark is refused"),
])
def test_a_file_that_is_no_text_is_refused(names, data, says):
    names.write_bytes(data)
    check(run(names, *TINY), 2, says, "names.txt")


@pytest.mark.parametrize("data, num_docs, vocab_size", [
    pytest.param(b"\xef\xbb\xbfab\n", 1, 3, id="a byte-order mark is no token"),
    pytest.param(b"ab\r\nb\r\n", 2, 3, id="CRLF ends lines and is no token"),
    pytest.param(b"ab\rb\r", 2, 3, id="old-Mac CR ends lines and is no token"),
    pytest.param(b"ab\n\n \nb", 2, 3, id="blank lines and a missing last end are fine"),
    pytest.param(b"\tab \n  b\t\n", 2, 3, id="surrounding white space is no token"),
    pytest.param(b"a b\n", 1, 4, id="a space within a document is a token"),
    pytest.param(b"ab\n", 1, 3, id="one document is enough"),
    pytest.param(b"a", 1, 2, id="one character is enough"),
    pytest.param(b"aaa\naa\n", 2, 2, id="one distinct character is enough"),
    pytest.param(b"ab\nab\nab\n", 3, 3, id="duplicates count"),
    pytest.param(b"ab" * 500_000, 1, 3, id="a line may be a megabyte long"),
    pytest.param("\u3055\u304f\u3089\n".encode(), 1, 4, id="Japanese"),
    pytest.param("\uc9c0\ubbfc\n\ubbfc\n".encode(), 2, 3, id="Korean"),
    pytest.param("\u0645\u0631\u064a\u0645\n".encode(), 1, 4, id="Arabic"),
    pytest.param("e\u0301\n\u00e9\n".encode(), 2, 4,  # e, the mark, and the two in one
                 id="a combining mark is a token of its own"),
    pytest.param("\U0001f600\U0001f680\n".encode(), 1, 3, id="an emoji is one token"),
])
def test_any_text_will_do(names, data, num_docs, vocab_size):
    names.write_bytes(data)
    ran = run(names, *TINY)
    check(ran, 0)
    assert ran.stdout.startswith(f"num docs: {num_docs}\nvocab size: {vocab_size}\n")
    assert len(samples(ran)) == 2
    assert set("".join(samples(ran)).replace(" (in data)", "")) <= set(data.decode())


@pytest.mark.parametrize("name, says", [
    pytest.param("missing.txt", "missing.txt", id="a missing file is refused"),
    pytest.param(".", "cannot read", id="a folder is refused"),
    pytest.param("no\nsuch.txt", "such.txt", id="a name of two lines fills but one"),
])
def test_a_path_that_is_no_file_is_refused(tmp_path, name, says):
    check(run(tmp_path / name, *TINY), 2, says, str(tmp_path))


def test_a_hundred_thousand_documents_start_in_two_seconds(names):
    names.write_text("".join(f"{i}\n" for i in range(100_000)))
    began = time.perf_counter()
    ran = run(names, *TINY, *"--block-size 8 --num-steps 0 --num-samples 0".split())
    assert time.perf_counter() - began < 5  # two, and patience with a busy machine
    check(ran, 0)
    assert ran.stdout.startswith("num docs: 100000\n")


def test_how_many_documents_are_cut_is_said_once(names):
    names.write_text("ab\nabc\nabcd\nabcde\n")  # block 4: three characters and BOS fit
    ran = run(names, *TINY)
    check(ran, 0, "note: 2 of 4 ", "--block-size 4")
    assert len(ran.stderr.splitlines()) == 1


def test_without_cut_documents_nothing_is_said(names):
    assert run(names, *TINY).stderr == ""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_output_survives_the_encoding(names, encoding):
    names.write_text("\u3055\u304f\u3089\n\U0001f600\n", encoding="utf-8")
    ran = run(names, *TINY, env={**ENV, "PYTHONIOENCODING": encoding})
    check(ran, 0)
    shown = "".join(samples(ran))
    assert shown.isascii() == (encoding != "utf-8")  # escaped where it must be, only
    assert "?" not in shown


@pytest.mark.parametrize("beside, here, num_docs", [
    pytest.param(b"a\n", None, 1, id="the input.txt beside the script is found"),
    pytest.param(b"a\n", b"a\nb\n", 1, id="the one beside it comes first"),
    pytest.param(None, b"a\nb\n", 2, id="or else the one in this folder is taken"),
    pytest.param(None, None, None, id="and if there is none, one line asks for a file"),
])
def test_without_a_file_input_txt_is_read(tmp_path, beside, here, num_docs):
    for folder, data in (("script", beside), ("here", here)):
        (tmp_path / folder).mkdir()
        if data:
            (tmp_path / folder / "input.txt").write_bytes(data)
    script = shutil.copy(SCRIPT, tmp_path / "script")
    ran = run(*TINY, python=[script], cwd=tmp_path / "here")
    if num_docs:
        check(ran, 0)
        assert ran.stdout.startswith(f"num docs: {num_docs}\n")
    else:
        check(ran, 2, "input.txt", "FILE")


# ---- 2. arguments --------------------------------------------------------------------

@pytest.mark.parametrize("args", [
    pytest.param("--n-embd 0", id="a vector needs channels"),
    pytest.param("--n-embd -4", id="channels cannot be owed"),
    pytest.param("--n-embd four", id="a size is written in digits"),
    pytest.param("--n-embd 4.0", id="a size is whole"),
    pytest.param("--n-embd 1e3", id="a size is not rounded from a float"),
    pytest.param("--n-layer 0", id="a model needs a layer"),
    pytest.param("--n-layer -1", id="layers cannot be owed"),
    pytest.param("--n-layer one", id="layers are counted in digits"),
    pytest.param("--n-head 0", id="attention needs a head"),  # and n_embd % 0 an answer
    pytest.param("--n-head -2", id="heads cannot be owed"),  # 4 % -2 == 0 is no excuse
    pytest.param("--n-head two", id="heads are counted in digits"),
    pytest.param("--n-head 3 --n-embd 4", id="heads must divide the channels"),
    pytest.param("--n-head 8 --n-embd 4", id="a head needs a channel"),
    pytest.param("--block-size 0", id="a model needs a position"),
    pytest.param("--block-size -1", id="positions cannot be owed"),
    pytest.param("--block-size long", id="positions are counted in digits"),
    pytest.param("--num-steps -1", id="steps cannot be undone"),
    pytest.param("--num-steps many", id="steps are counted in digits"),
    pytest.param("--num-steps 1.5", id="steps are whole"),
    pytest.param("--learning-rate -0.01", id="training goes downhill"),
    pytest.param("--learning-rate nan", id="a rate is a number"),  # no comparison holds
    pytest.param("--learning-rate inf", id="a rate is finite"),
    pytest.param("--learning-rate 1e999", id="a rate too big for a float is refused"),
    pytest.param("--learning-rate fast", id="a rate is written in digits"),
    pytest.param("--seed -1", id="a seed is not negative"),  # Random(-1) is Random(1)
    pytest.param("--seed 1.5", id="a seed is whole"),
    pytest.param("--seed luck", id="a seed is written in digits"),
    pytest.param("--temperature -1", id="a negative temperature is refused"),
    pytest.param("--temperature nan", id="a temperature is a number"),
    pytest.param("--temperature inf", id="a temperature is finite"),
    pytest.param("--temperature hot", id="a temperature is written in digits"),
    pytest.param("--num-samples -1", id="samples cannot be taken back"),
    pytest.param("--num-samples 2.5", id="samples are whole"),
    pytest.param("--num-samples all", id="samples are counted in digits"),
    pytest.param("--prompt Z", id="a character that the data lacks is refused"),
    pytest.param("--prompt abeZ", id="one unknown character is enough"),
    pytest.param("--prompt beee", id="a prompt as long as the block leaves no room"),
    pytest.param("--prompt beeeeee", id="nor does a longer one"),
    pytest.param("--colour red", id="an unknown flag is refused"),
    pytest.param("-n 5", id="there are no short flags"),
    pytest.param("--num-step 5", id="an abbreviation is refused"),  # and --n-e, --s ...
    pytest.param("--save=folder/missing/model.json", id="a missing folder cannot hold"),
])
def test_what_makes_no_sense_is_refused_by_name(names, args):
    ran = run(names, *TINY, *args.split())
    check(ran, 2, *args.replace("=", " ").split())  # the flag and the value


@pytest.mark.parametrize("args, says", [
    pytest.param(["--seed"], "--seed", id="a flag needs a value"),
    pytest.param(["--seed="], "--seed", id="a value needs a digit"),
    pytest.param(["--n-head=--"], "--n-head", id="two dashes are no number"),
    pytest.param(["--prompt=--"], "--prompt", id="and an unknown prompt"),
    pytest.param(["--temperature=-inf"], "'-inf'", id="a negative infinity is refused"),
    pytest.param(["--temperature", "-inf"], "--temperature", id="with a space as well"),
    pytest.param(["--prompt", "a\nZ\t"], "--prompt", id="a prompt of several lines"),
    pytest.param(["--prompt", "\U0001f600"], "--prompt", id="an unknown emoji"),
    pytest.param(["two.txt"], "two.txt", id="two files are one too many"),
    pytest.param(["--save", "."], "--save", id="a folder is no file to save to"),
    pytest.param(["--save="], "--save", id="no name is no file to save to"),
])
def test_odd_values_are_refused_in_one_line(names, args, says):
    check(run(names, *TINY, *args), 2, says)


def test_the_data_are_not_overwritten_by_the_model(names):
    before = names.read_bytes()
    elsewhere = os.path.join("..", names.parent.name, "names.txt")
    for path in ("names.txt", names, elsewhere):
        ran = run("names.txt", *TINY, "--save", path, cwd=names.parent)
        check(ran, 2, "--save", "overwrite the data")
    assert names.read_bytes() == before


def test_an_empty_file_name_is_refused(tmp_path):  # python microgpt.py "$UNSET"
    check(run("", *TINY, "--num-steps", "0"), 2)


@pytest.mark.parametrize("flag, says", [
    ("--n-embd", "'x' is not a whole number of at least 1"),
    ("--num-steps", "'x' is not a whole number of at least 0"),
    ("--learning-rate", "'x' is not a finite number of at least 0"),
])
def test_the_message_says_which_numbers_will_do(names, flag, says):
    check(run(names, flag, "x"), 2, f"{flag}: {says}")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_and_the_time_left_in_a_terminal(monkeypatch):
    seconds = itertools.count(100)  # every look at the clock finds a second gone
    monkeypatch.setattr(microgpt.time, "perf_counter", lambda: next(seconds))
    monkeypatch.setattr(microgpt, "train", lambda *args: iter([3.0, 2.5, 2.0, 1.5]))
    monkeypatch.setattr(sys, "stdout", Terminal())
    model = SimpleNamespace(params=[])
    losses, elapsed = microgpt.run_training(
        model, [], SimpleNamespace(num_steps=4, learning_rate=0.01))
    assert (losses, elapsed) == ([3.0, 2.5, 2.0, 1.5], 5)
    assert sys.stdout.getvalue().split("\r")[1:] == [
        "step    1 / 4 | loss 3.0000 | #####............... | 3s left  ",
        "step    2 / 4 | loss 2.5000 | ##########.......... | 2s left  ",
        "step    3 / 4 | loss 2.0000 | ###############..... | 1s left  ",
        "step    4 / 4 | loss 1.5000 | #################### | 0s left  \n",
    ]


def test_a_deeper_model_with_seed_zero_is_saved_and_loaded(names):
    model = names.with_name("z.json")
    sizes = "--n-embd 4 --n-layer 2 --n-head 2 --block-size 6 --num-steps 2".split()
    saved = run(names, *sizes, "--seed", "0", "--save", model)
    loaded = run("--load", model)
    check(saved, 0)
    check(loaded, 0)
    assert samples(saved) == samples(loaded) and len(samples(saved)) == 20


def test_the_smallest_model_of_all_works(names):
    sizes = "--n-embd 1 --n-layer 1 --n-head 1 --block-size 1".split()
    ran = run(names, *sizes, "--num-steps", "1", "--num-samples", "1")
    check(ran, 0, "note: ")
    assert "num params: 29" in ran.stdout  # 8 + 1 + 8, and a layer of 4 + 4 + 4


def test_help_lists_every_flag():
    ran = run("--help")
    check(ran, 0)
    assert set(re.findall("--[a-z-]+", ran.stdout)) == {"--help", *FLAGS}


def test_zero_steps_sample_from_the_untrained_model(names):
    ran = run(names, *TINY, "--num-steps", "0")
    check(ran, 0)
    assert "step" not in ran.stdout
    assert len(samples(ran)) == 2


@pytest.mark.parametrize("temperature", [
    pytest.param("0", id="zero"),
    pytest.param("-0.0", id="the other zero"),
    pytest.param("1e-320", id="so small that dividing by it overflows"),
])
def test_temperature_zero_or_nearly_takes_the_likeliest(names, temperature):
    args = [names, *TINY, "--num-steps", "0", "--num-samples", "9"]
    ran = run(*args, f"--temperature={temperature}")
    check(ran, 0)
    assert samples(ran) == samples(run(*args, "--temperature=0"))[:1] * 9
    assert len(set(samples(run(*args)))) > 1  # by chance, they differ


@pytest.mark.parametrize("prompt", ["", "a", "bee"])
def test_every_sample_begins_with_the_prompt(names, prompt):
    ran = run(names, *TINY, "--num-samples", "5", "--prompt", prompt)
    check(ran, 0)
    assert [text[:len(prompt)] for text in samples(ran)] == [prompt] * 5


# ---- 3. training that goes wrong -----------------------------------------------------

@pytest.mark.parametrize("rate, num_steps, says", [
    pytest.param("10", "9", "diverged at step", id="10 diverges"),
    pytest.param("1e6", "9", "diverged at step", id="a million diverges"),
    pytest.param("1e200", "9", "", id="squares that overflow are no traceback"),
    pytest.param("1e308", "9", "", id="weights that overflow are no traceback"),
    pytest.param("1e200", "1", "", id="the last step may be the one that fails"),
    pytest.param("1e308", "1", "", id="and leave weights that are finite, but huge"),
])
def test_diverged_training_makes_no_samples_and_no_file(names, rate, num_steps, says):
    model = names.with_name("model.json")
    ran = run(names, "--learning-rate", rate, "--num-steps", num_steps, "--save", model)
    check(ran, 1, says, "--learning-rate")
    assert (samples(ran), model.exists()) == ([], False)


# ---- 4. interruption -----------------------------------------------------------------

def start(*args):
    """`python microgpt.py args`, running; it heeds Ctrl-C even if we do not."""
    return subprocess.Popen(
        [sys.executable, SCRIPT, *args], env=ENV, encoding="utf-8",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def read_until(stream, words):
    while words not in (line := stream.readline()):
        assert line, f"the output ended before {words!r}"


@posix
def test_ctrl_c_ends_training_but_not_the_program(names):
    model = names.with_name("model.json")
    args = [names, *TINY, "--num-steps", "20000", "--save", model]
    with start(*args) as process:
        read_until(process.stdout, "step    3 ")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in err) == (0, False)
    assert "interrupted" in err
    assert "step 20000" not in out
    assert re.search(r"held-out loss: \d(.|\n)*\nsample  2: ", out)
    assert json.loads(model.read_bytes())["weights"]


PRESS = """
adam, calls = microgpt.adam, []
def pressing(*args):
    calls.append(adam(*args))
    for _ in range(TIMES * (len(calls) == 2)):
        signal.raise_signal(signal.SIGINT)
microgpt.adam = pressing
signal.signal(signal.SIGINT, signal.default_int_handler)
"""


def test_ctrl_c_lets_the_current_step_end(names):
    ran = run_patched(PRESS.replace("TIMES", "1"), names, *TINY, "--num-steps", "9")
    assert (ran.returncode, len(samples(ran))) == (0, 2)
    assert re.findall("^step +([0-9]+)", ran.stdout, re.MULTILINE) == ["1", "2"]
    assert "\nmean loss last 2 steps: " in ran.stdout


def test_ctrl_c_twice_ends_at_once(names):
    model = names.with_name("model.json")
    args = [names, *TINY, "--num-steps", "9", "--save", model]
    ran = run_patched(PRESS.replace("TIMES", "2"), *args)
    assert (ran.returncode, "Traceback" in ran.stderr) == (130, False)
    assert "step    2" not in ran.stdout
    assert not model.exists()


@posix
def test_ctrl_c_while_it_samples_ends_at_once(names):
    with start(names, *TINY, "--num-samples", "20000") as process:
        read_until(process.stdout, "sample  1: ")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")


@posix
def test_a_pipe_that_closes_ends_it_quietly(names):  # python microgpt.py | head -1
    with start(names, *TINY, "--num-steps", "20000") as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=30) == 141  # as of a program that SIGPIPE ends


@linux
@pytest.mark.parametrize("num_steps", ["0", "2"])
def test_a_full_disk_under_the_output_is_one_line(names, num_steps):
    with open("/dev/full", "w") as full:
        ran = run(names, *TINY, "--num-steps", num_steps, stdout=full)
    check(ran, 1, "space")


def test_closed_output_is_no_traceback(names):
    code = "sys.stdout = None"  # as Python has it after `>&-`, and under pythonw
    check(run_patched(code, names, *TINY), 0)


def test_closed_standard_error_lets_no_message_into_the_results(names):
    ran = run_patched("sys.stderr = None", names, "--n-embd", "0")  # `2>&-`
    assert (ran.returncode, ran.stdout) == (2, "")


@posix
def test_a_full_disk_under_save_leaves_the_old_file_whole(names):
    import resource
    model = names.with_name("model.json")
    model.write_text("old")
    ran = run(names, "--num-steps", "1", "--num-samples", "2", "--save", model,
              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (999, 999)))
    check(ran, 1, "model.json")
    assert len(samples(ran)) == 2  # the work is not lost
    assert model.read_text() == "old"
    assert sorted(names.parent.iterdir()) == [model, names]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failure_while_saving_leaves_the_old_file_whole(names, function):
    model = names.with_name("model.json")
    model.write_text("old")
    code = f"def fail(*_): raise OSError(5, 'it broke')\nos.{function} = fail"
    ran = run_patched(code, names, *TINY, "--save", model)
    check(ran, 1, "it broke", "model.json")
    assert len(samples(ran)) == 2
    assert model.read_text() == "old"
    assert sorted(names.parent.iterdir()) == [model, names]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_sudden_death_while_saving_leaves_the_old_file_whole(names, function):
    model = names.with_name("model.json")
    model.write_text("old")
    code = f"os.{function} = lambda *_: os._exit(9)"  # no clean-up, as with kill -9
    assert run_patched(code, names, *TINY, "--save", model).returncode == 9
    assert model.read_text() == "old"


def test_saving_replaces_the_old_file(names):
    model = names.with_name("model.json")
    model.write_text("old")
    check(run(names, *TINY, "--save", model), 0)
    assert json.loads(model.read_bytes())["settings"]["n_embd"] == 4
    assert sorted(names.parent.iterdir()) == [model, names]


# ---- 5. checkpoints ------------------------------------------------------------------

SAMPLING = ["--num-samples", "20"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that saved, and what it saved; tests work on copies."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "names.txt").write_bytes(b"ab\nba\na\nb\nbb\n")
    ran = run("names.txt", *TINY, *SAMPLING, "--save", "model.json", cwd=folder)
    check(ran, 0)
    return ran, folder / "model.json"


@pytest.mark.parametrize("flags", [
    pytest.param("", id="with no flags"),
    pytest.param("--temperature 0.1", id="with a temperature"),
    pytest.param("--temperature 0", id="with no chance"),
    pytest.param("--prompt ba", id="with a prompt"),
    pytest.param("--num-samples 3", id="with fewer samples"),
    pytest.param("--seed 42", id="with the seed spelt out"),
])
def test_a_loaded_model_makes_the_samples_of_the_run_that_saved(trained, flags):
    _, model = trained
    args = [*SAMPLING, *flags.split()]
    loaded = run("--load", model, *args)
    check(loaded, 0)
    assert samples(loaded) == samples(run(model.with_name("names.txt"), *TINY, *args))


def test_a_loaded_model_remembers_its_seed_and_its_data(names):
    saved = run(names, *TINY, *SAMPLING, "--seed", "7", "--save", "m.json",
                cwd=names.parent)
    names.unlink()
    loaded = run("--load", "m.json", *SAMPLING, cwd=names.parent)
    assert samples(loaded) == samples(saved)
    assert "step" not in loaded.stdout


def test_another_seed_makes_other_samples(trained):
    ran, model = trained
    loaded = run("--load", model, *SAMPLING, "--seed", "1")
    check(loaded, 0)
    assert samples(loaded) != samples(ran)


def test_other_data_only_changes_what_is_marked_as_known(trained, tmp_path):
    ran, model = trained
    (tmp_path / "other.txt").write_text("zzz\n")
    loaded = run(tmp_path / "other.txt", "--load", model, *SAMPLING)
    check(loaded, 0)
    assert " (in data)\n" in ran.stdout
    assert samples(loaded) == [s.replace(" (in data)", "") for s in samples(ran)]


@pytest.mark.parametrize("flag", ["--n-embd 4", "--n-layer 1", "--n-head 2",
                                  "--block-size 4", "--num-steps 0",
                                  "--learning-rate 0.1", "--save other.json"])
def test_load_refuses_what_it_would_ignore(trained, flag):
    _, model = trained
    check(run("--load", model, *flag.split()), 2, "--load", flag.split()[0])


@pytest.mark.parametrize("args, says", [
    pytest.param(["--load", "none.json"], "none.json", id="a missing model"),
    pytest.param(["--load", "."], "cannot read", id="a folder for a model"),
    pytest.param(["--load", "model.json", "none.txt"], "none.txt", id="missing data"),
    pytest.param(["--load", "model.json", "--prompt", "Z"], "'Z'",
                 id="a prompt that the model cannot read"),
    pytest.param(["--load", "model.json", "--prompt", "abab"], "--prompt",
                 id="a prompt that the model has no room for"),
])
def test_load_refuses_what_it_cannot_use(trained, args, says):
    _, model = trained
    check(run(*args, cwd=model.parent), 2, says)


@pytest.mark.parametrize("part", [0, 0.01, 0.25, 0.5, 0.75, 0.99])
def test_a_truncated_model_is_refused(trained, tmp_path, part):
    text = trained[1].read_bytes()
    (tmp_path / "cut.json").write_bytes(text[:int(part * len(text))])
    check(run("--load", tmp_path / "cut.json"), 2, "cut.json")


@pytest.mark.parametrize("data", [
    pytest.param(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", id="a picture"),
    pytest.param(NAMES, id="a list of names"),
    pytest.param(b"{}", id="an empty object"),
    pytest.param(b"[]", id="an empty list"),
    pytest.param(b"42", id="a number"),
    pytest.param(b"null", id="null"),
    pytest.param(b'"model"', id="text"),
    pytest.param(b"9" * 9999, id="a number too long to convert"),
    pytest.param(b"[" * 999_999, id="lists within lists"),  # deeper than recursion goes
    pytest.param(b'{"a":' * 99_999, id="objects within objects"),
])
def test_a_foreign_file_is_refused(tmp_path, data):
    (tmp_path / "foreign.json").write_bytes(data)
    check(run("--load", tmp_path / "foreign.json"), 2, "foreign.json")


def setting(**changes):
    return lambda m: m["settings"].update(changes)


def weight(value):
    return lambda m: m["weights"]["wpe"][1].__setitem__(2, value)


def without_layers(model):
    model["settings"]["n_layer"] = 0
    model["weights"] = {name: rows for name, rows in model["weights"].items()
                        if not name.startswith("layer")}


def without_channels(model):
    without_layers(model)
    model["settings"].update(n_embd=0)
    model["weights"] = {name: [[] for _ in w] for name, w in model["weights"].items()}


def without_documents(model):
    model.update(docs=[], chars=[])
    for name in ("wte", "lm_head"):
        del model["weights"][name][1:]


@pytest.mark.parametrize("edit", [
    pytest.param(setting(n_embd=8), id="more channels than weights"),
    pytest.param(setting(n_embd=2), id="fewer channels than weights"),
    pytest.param(setting(n_embd=-4), id="a negative size"),
    pytest.param(setting(n_embd=4.0), id="a size that is a float"),
    pytest.param(setting(n_embd="4"), id="a size that is text"),
    pytest.param(setting(n_embd=10 ** 30), id="a size beyond all memory"),
    pytest.param(setting(n_layer=2), id="more layers than weights"),
    pytest.param(setting(n_layer=0), id="fewer layers than weights"),
    pytest.param(setting(n_layer=True), id="true is not 1"),
    pytest.param(setting(n_layer=10 ** 30), id="layers beyond all time"),
    pytest.param(setting(n_head=3), id="heads that do not divide the channels"),
    pytest.param(setting(n_head=0), id="no heads"),
    pytest.param(setting(n_head=-2), id="a negative number of heads"),
    pytest.param(setting(n_head=None), id="a size that is null"),
    pytest.param(setting(block_size=5), id="more positions than weights"),
    pytest.param(setting(block_size=3), id="fewer positions than weights"),
    pytest.param(setting(block_size=[4]), id="a size that is a list"),
    pytest.param(setting(seed="42"), id="a seed that is text"),
    pytest.param(setting(seed=1.5), id="a seed that is not whole"),
    pytest.param(lambda m: m["settings"].pop("seed"), id="no seed"),
    pytest.param(lambda m: m.update(settings=[]), id="settings in a list"),
    pytest.param(without_layers, id="no layers, consistently"),
    pytest.param(without_channels, id="no channels, consistently"),
    pytest.param(without_documents, id="no documents, consistently"),
    pytest.param(weight("0.1"), id="a weight that is text"),
    pytest.param(weight(float("nan")), id="a weight that is not a number"),
    pytest.param(weight(float("-inf")), id="a weight that is infinite"),
    pytest.param(weight(None), id="a weight that is null"),
    pytest.param(weight(True), id="a weight that is true"),
    pytest.param(weight([0.1]), id="a weight that is a list"),
    pytest.param(lambda m: m["weights"]["wte"].pop(), id="a row dropped"),
    pytest.param(lambda m: m["weights"]["wte"][0].pop(), id="a weight dropped"),
    pytest.param(lambda m: m["weights"]["wte"].append([]), id="an empty row"),
    pytest.param(lambda m: m["chars"].pop(), id="a character too few"),
    pytest.param(lambda m: m["weights"]["wte"].append("text"), id="a text row"),
    pytest.param(lambda m: m["weights"].update(wte=0.1), id="a matrix of one"),
    pytest.param(lambda m: m["weights"].pop("wpe"), id="a matrix missing"),
    pytest.param(lambda m: m["weights"].update(bias=[[0.1]]), id="one more"),
    pytest.param(lambda m: m.update(weights={}), id="no matrices"),
    pytest.param(lambda m: m.update(weights=[[[0.1]]]), id="matrices unnamed"),
    pytest.param(lambda m: m.update(weights=None), id="null for matrices"),
    pytest.param(lambda m: m.pop("weights"), id="nothing for matrices"),
    pytest.param(lambda m: m["chars"].reverse(), id="characters out of order"),
    pytest.param(lambda m: m["chars"].append("z"), id="a character too many"),
    pytest.param(lambda m: m.update(chars="ab"), id="characters as one text"),
    pytest.param(lambda m: m.update(docs="abba"), id="documents as one text"),
    pytest.param(lambda m: m.update(docs=[]), id="no documents"),
    pytest.param(lambda m: m.update(docs={"ab": 1}), id="documents as an object"),
    pytest.param(lambda m: m.update(docs=["ab", 1]), id="a document that is a number"),
    pytest.param(lambda m: m["docs"].append("z"), id="an unknown character"),
    pytest.param(lambda m: m.pop("docs"), id="nothing for documents"),
])
def test_a_tampered_model_is_refused(trained, tmp_path, edit):
    model = json.loads(trained[1].read_bytes())
    edit(model)
    (tmp_path / "edited.json").write_text(json.dumps(model))
    check(run("--load", tmp_path / "edited.json"), 2, "edited.json")


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


def test_every_step_has_a_line_and_the_last_fifty_make_the_mean(names):
    ran = run(names, *TINY, "--num-steps", "60")
    steps, losses = zip(*re.findall(r"step +(\d+) / 60 \| loss ([0-9.]+)", ran.stdout))
    assert [*map(int, steps)] == [*range(1, 61)]
    mean = float(re.search("mean loss last 50 steps: (.*)", ran.stdout)[1])
    assert mean == pytest.approx(sum(map(float, losses[-50:])) / 50, abs=1e-4)


def test_a_sample_that_the_data_holds_is_marked(trained):
    marked = {text for text in samples(trained[0]) if text.endswith(" (in data)")}
    assert marked and marked <= {f"{name} (in data)" for name in "ab ba a b bb".split()}
    assert not {"ab", "ba", "a", "b", "bb"} & set(samples(trained[0]))


@pytest.mark.parametrize("python", [
    pytest.param([], id="twice the same"),  # a seed leaves nothing to chance
    pytest.param(["-W", "error"], id="with warnings as errors"),
    pytest.param(["-X", "dev"], id="in development mode"),
    pytest.param(["-O"], id="without assertions"),
    pytest.param(["-I"], id="isolated"),
    pytest.param(["-c", "import sys; sys.path.insert(0, sys.argv.pop(1));"
                        "sys.argv[0] = 'microgpt'; from microgpt import main; main()",
                  ROOT], id="from the console command"),
])
def test_how_python_is_started_changes_nothing(names, python):
    plain = run(names, *TINY)
    other = run(names, *TINY, python=python if "-c" in python else [*python, SCRIPT])
    assert (untimed(other), other.stderr) == (untimed(plain), plain.stderr)
    assert plain.stdout.count("\n") == 12


def test_each_step_is_shown_as_soon_as_it_is_made(names):
    code = "microgpt.adam = lambda *args: args[3] == 3 and os._exit(9)"
    ran = run_patched(code, names, *TINY, "--num-steps", "9")
    assert re.findall("^step +([0-9]+)", ran.stdout, re.MULTILINE) == ["1", "2"]


def test_too_little_memory_is_one_line(names):
    code = "def train(*_): raise MemoryError\nmicrogpt.train = train"
    check(run_patched(code, names, *TINY), 1, "memory")


def test_another_seed_changes_the_losses(names):
    runs = [run(names, *TINY, "--seed", seed) for seed in ("42", "43")]
    assert len({re.search("loss .*", ran.stdout)[0] for ran in runs}) == 2


def in_terminal(*args):
    """All that `python microgpt.py args` writes to a terminal."""
    import pty
    here, there = pty.openpty()
    text = b""
    with subprocess.Popen([sys.executable, SCRIPT, *args], env=ENV, stdout=there):
        os.close(there)
        with contextlib.suppress(OSError):  # Linux, once the other end has closed
            while chunk := os.read(here, 9999):
                text += chunk
    os.close(here)
    return text.decode().replace("\r\n", "\n")


@posix
def test_in_a_terminal_the_step_line_is_rewritten_in_place(names):
    lines = in_terminal(names, *TINY, "--num-steps", "8").split("\n")
    steps = [line for line in lines if "step " in line]
    assert len(steps) == 1
    first, last = steps[0].split("\rstep")[1::7]
    assert "8 / 8 | loss " in last
    assert first.count("#") < last.count("#")  # the bar grows
    assert re.search("[0-9]+s left", first)
    assert any(line.startswith("mean loss") for line in lines)
    assert [line[:7] for line in lines if "sample" in line] == ["sample ", "sample "]


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
