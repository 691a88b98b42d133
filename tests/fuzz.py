"""Random command lines, data and damaged models: does anything but one line come back?

    python tests/fuzz.py --count 10000 --seed 0
    python tests/fuzz.py --seed 0 --first 4711 --count 1    repeats one case

Most cases run within this process, every 200th in one of its own. A case passes if no
exception but SystemExit escapes and what was written fits the exit status; see wrong().
"""

import argparse
import collections
import contextlib
import copy
import faulthandler
import gc
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import microgpt  # noqa: E402

SIZES = {"--n-embd": 8, "--n-layer": 2, "--n-head": 4, "--block-size": 12,
         "--num-steps": 4, "--num-samples": 5}  # the most that is drawn
FLOATS = ("--learning-rate", "--temperature")
DEEP = "[" * 5000
ODD_NUMBERS = [
    "", " ", "0", "-0", "-1", "+2", " 3 ", "1_0", "\u0663", "\u00b2", "0x10", "1e3",
    "1.5", ".5", "x", "nan", "inf", "-inf", "1e999", "-1e999", "1e308", "-1e308",
    "1e-320", "5e-324", "-0.0", "1e-5", "-1e-5", "None", "True", "9" * 4400, "\0",
    "-" + "9" * 4400, "1\n", "\u221e", "\ud800", "--", "-", "1,5", "1;2", "'1'"]
ODD_PATHS = [
    "", " ", ".", "..", "none.txt", "none/model.json", "names.txt", "names.txt/",
    "model.json", "folder", "new.json", "x" * 300, "a\0b", "a\nb", "\udce9", "\ud800",
    "\u3055", "-", "--", "%s", "{0}", "~", "names.txt ", "folder/new.json"]
ODD_WORDS = ["--", "-", "---", "--=", "-=", "-h", "--help", "--he", "--n-emb", "-1",
             "--seed", "--save", "--load", "--prompt", "@names.txt", "\0", "", " "]
ODD_JSON = [None, True, False, 0, -1, 1, 2, 3, 7, 1.5, -0.0, 1e308, -1e308, 5e-324,
            10 ** 30, 10 ** 400, float("nan"), float("inf"), "", "a", "\ud800", "a\nb",
            [], {}, [[]], [{}], {"a": 1}, [0.5], ["a"], [None], "wte", [[0.5]],
            [[0.5] * 9999], [[0.5] for _ in range(9999)],
            {f"layer{i}.attn_wq": 0 for i in range(99)}]
LETTERS = "ab\u00e9\u3055\u0645\u0301\U0001f600 \t'\"\\%{}\x1b\x7f\u2028\ufeff\u00a0-"


# ---- what is drawn -------------------------------------------------------------------

def any_text(rng, most):
    """Up to `most` characters: usual ones, odd ones, or from all of Unicode."""
    pool = rng.choice(["ab", "abc\n", LETTERS, LETTERS + "\n\r\0\x85", None])
    length = rng.randrange(most + 1)
    if pool:
        return "".join(rng.choices(pool, k=length))
    return "".join(chr(rng.randrange(0x110000)) for _ in range(length))


def any_data(rng):
    """The bytes of a data file: random, encoded in some way, or damaged."""
    kind = rng.randrange(6)
    if kind == 0:
        return bytes(rng.choices(range(256), k=rng.randrange(200)))
    ends = rng.choice(["\n", "\r\n", "\r", "\n\n", " \n", "\n\r", "\x85", ""])
    lines = ends.join(any_text(rng, 20) for _ in range(rng.randrange(25)))
    encoding = "utf-8" if kind > 1 else rng.choice(
        ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "utf-7"])
    data = lines.encode(encoding, "surrogatepass" if kind == 2 else "ignore")
    return damaged(rng, data) if kind == 3 else data


def damaged(rng, data):
    """Bytes with some of them flipped, dropped, repeated or cut off."""
    data = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            del data[at:at + rng.randrange(9)]
        elif kind == 2:
            data[at:at] = data[at:at + 9] or b"[{"
        elif at < len(data):
            data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


def any_model(rng, text):
    """A saved model: whole, damaged as bytes or as JSON, or anything else."""
    kind = rng.randrange(12)
    if kind == 0:
        return rng.choice([any_data(rng), DEEP.encode(), b'{"a":' * 5000])
    if kind < 3:
        return damaged(rng, text.encode())
    if kind < 8:
        return rewritten(rng, json.loads(text))
    tree = {"": json.loads(text)}
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        change(rng, tree)
    return json.dumps(tree[""]).encode()


def rewritten(rng, model):
    """The same model with its keys in any order, as another program may write it."""
    def shuffled(tree):
        return dict(rng.sample([*tree.items()], len(tree)))
    model = shuffled({**model, "weights": shuffled(model["weights"])})
    text = json.dumps(model, ensure_ascii=False, indent=rng.choice([None, 0, 2]))
    return text.encode(rng.choice(["utf-8", "utf-8-sig"]))


def change(rng, tree):
    """Replace, drop, repeat, rename or scale something, somewhere in the tree."""
    spot, key = tree, ""
    while isinstance(spot[key], (dict, list)) and spot[key] and rng.random() < 0.8:
        spot = spot[key]
        key = rng.choice(list(spot) if isinstance(spot, dict) else range(len(spot)))
    kind = rng.randrange(6)
    if kind == 0 and spot is not tree:
        del spot[key]
    elif kind == 1 and isinstance(spot, list):
        spot.insert(key, spot[key])
    elif kind == 2 and isinstance(spot, dict) and spot is not tree:
        spot[any_text(rng, 4)] = spot.pop(key)
    elif kind == 3 and type(spot[key]) in (int, float):
        spot[key] = rng.choice([-1, 0.5, 2, 1e300]) * min(spot[key], 1e308)
    else:
        spot[key] = copy.deepcopy(rng.choice(ODD_JSON))


def any_flags(rng, flags):
    """Some of the flags, each with a value that makes sense or one that does not."""
    for flag in rng.sample(flags, rng.choice([0, 1, 1, 2, 2, 3, 4])):
        if rng.random() < 0.12:
            value = rng.choice(ODD_NUMBERS)
        elif flag in SIZES:
            value = str(rng.randrange(SIZES[flag]) + 1)
        elif flag in FLOATS:
            value = repr(rng.choice([rng.random(), 10 ** rng.uniform(-320, 308)]))
        elif flag == "--seed":
            value = str(rng.choice([rng.randrange(99), 10 ** 20, 10 ** 4000]))
        elif flag == "--prompt":
            value = rng.choice(["", "a", "ba", any_text(rng, 6)])
        else:
            value = rng.choice(ODD_PATHS)
        yield from [f"{flag}={value}"] if rng.random() < 0.6 else [flag, value]


def any_args(rng):
    """A command line, small enough to be quick."""
    steps = [f"--num-steps={rng.randrange(4)}"]
    flags = ["--num-steps", *FLOATS, "--seed", "--prompt", "--num-samples", "--save"]
    if rng.random() < 0.45:
        args = ["--load", "model.json"]
        if rng.random() < 0.4:
            steps = []  # it only samples; otherwise this is fine-tuning
        if rng.random() < 0.1:
            flags += [*SIZES]
    else:
        args = []
        flags += [*SIZES, "--save", "--load"]
    if rng.random() < 0.98:
        args.insert(0, "names.txt")
    elif rng.random() < 0.8:
        args.append(rng.choice(ODD_PATHS))
    args += any_flags(rng, flags)
    if rng.random() < 0.1:
        args.insert(rng.randrange(len(args) + 1), rng.choice(ODD_WORDS))
    if args and rng.random() < 0.05:
        del args[rng.randrange(len(args))]
    if rng.random() < 0.03:
        rng.shuffle(args)
    if not any(arg.startswith("--load") for arg in args):
        steps = [f"--num-steps={rng.randrange(4)}"]
    args = [*steps, f"--num-samples={rng.randrange(5)}", *args]
    return args if affordable(args) else any_args(rng)


def affordable(args):
    """Is every number that could end up as a size a small one?"""
    for before, arg in zip(["", *args], args):
        flag, equals, value = arg.partition("=")
        flag, value = (flag, value) if equals else (before, arg)
        with contextlib.suppress(ValueError):
            if flag in SIZES and int(value) > 16:
                return False
    return True


# ---- how it is run and judged --------------------------------------------------------

def run_inside(args, encoding):
    """microgpt.main(args) -> (exit status or exception, standard output, and error)."""
    out = io.TextIOWrapper(io.BytesIO(), encoding, newline="\n")
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", newline="\n")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            microgpt.main(list(args))
            status = 0
        except SystemExit as end:
            status = end.code or 0
        except BaseException as error:
            status = f"{type(error).__name__}: {error}"
    gc.enable()  # main() disables it for the rest of its process
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (out, err):
        stream.flush()
    return (status, out.buffer.getvalue().decode(encoding),
            err.buffer.getvalue().decode("utf-8"))


def run_outside(args, encoding):
    """The same in a process of its own, as far as the system can pass on the args."""
    command = [sys.executable, str(ROOT / "microgpt.py"), *args]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    ran = subprocess.run(command, capture_output=True, timeout=100, env=environment)
    return (ran.returncode, ran.stdout.decode(encoding).replace("\r\n", "\n"),
            ran.stderr.decode(encoding, "replace").replace("\r\n", "\n"))


def wrong(args, status, out, err):
    """What does not fit in the result of a case, or None."""
    problem = what_was_saved("note: saved" in err)
    lines = err.splitlines()
    notes = [line for line in lines if line.startswith("note: ")]
    if status not in (0, 1, 2):
        return f"ended with {status!r}"
    if status == 2 and out:
        return "exit status 2, but not an empty standard output"
    if status == 2 and len(lines) != 1:
        return f"exit status 2, but {len(lines)} lines of standard error"
    if len(lines) - len(notes) != (status > 0):
        return f"exit status {status} with an unfit standard error"
    if status == 0 and not out.startswith("usage: "):
        asked = re.findall("^--num-samples[=\n](.*)", "\n".join(args), re.MULTILINE)
        given = re.findall("^sample +[0-9]+: ", out, re.MULTILINE)
        if len(given) != int(asked[-1]):
            return f"{len(given)} samples instead of {asked[-1]}"
    if microgpt.Value.tape is not None:
        return "the tape was left on"
    return problem


def what_was_saved(said):
    """What is wrong with the files that the case has saved, or None; removes them."""
    problem = None
    for path in [path for path in Path().rglob("*") if path.is_file()]:
        if path.name not in ("names.txt", "model.json"):
            try:
                microgpt.load(path)
            except Exception as error:
                problem = f"{str(path)!r} cannot be loaded: {error}"
            path.unlink()
            if not said:
                problem = f"it did not say that it saved {str(path)!r}"
    return problem


def passes_on(arg):
    """Can the system hand this argument to another process?"""
    with contextlib.suppress(UnicodeEncodeError):
        return b"\0" not in os.fsencode(arg)
    return False


def run_case(seed, number, model):
    """Draw a case, run and judge it -> (exit status, what is wrong or None)."""
    rng = random.Random(f"{seed}, {number}")
    Path("folder").mkdir(exist_ok=True)
    data = any_data(rng) if rng.random() < 0.3 else b"ab\nb\n" * rng.choice([1, 9])
    Path("names.txt").write_bytes(data)
    Path("model.json").write_bytes(any_model(rng, model))
    args, encoding = any_args(rng), rng.choice(["utf-8", "ascii", "cp1252"])
    outside = number % 200 == 0 and all(map(passes_on, args))
    began = sum(os.times()[:4])  # the seconds of computing, also in other processes
    status, out, err = (run_outside if outside else run_inside)(args, encoding)
    problem = wrong(args, status, out, err)
    if problem is None and sum(os.times()[:4]) - began > 20:
        problem = "too slow"
    if problem:
        shown = [arg if len(arg) < 60 else arg[:60] + "..." for arg in args]
        problem = (f"case {number}: {problem}\n    {ascii(shown)}\n"
                   f"    {ascii(err[-300:])}")
    return status, problem


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    statuses, findings, home = collections.Counter(), [], os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("names.txt").write_text("ab\nba\na\nb\n")
        _, _, err = run_inside("names.txt --n-embd 4 --n-head 2 --block-size 4 "
                               "--num-steps 2 --save model.json".split(), "utf-8")
        assert "Traceback" not in err and microgpt.load("model.json"), err
        model = Path("model.json").read_text()
        for number in range(args.first, args.first + args.count):
            faulthandler.dump_traceback_later(120, exit=True)  # should a case hang
            status, problem = run_case(args.seed, number, model)
            statuses[status] += 1
            if problem:
                findings.append(problem)
                print(problem, file=sys.stderr)
            if number % 500 == 0:
                print(f"{number - args.first} of {args.count}", file=sys.stderr)
        faulthandler.cancel_dump_traceback_later()
        os.chdir(home)
    print(f"{args.count} cases, seed {args.seed}; by exit status: "
          + ", ".join(f"{status}: {n}" for status, n in statuses.most_common()))
    print(f"{len(findings)} findings", *findings, sep="\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
