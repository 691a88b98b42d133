"""How fast, how large? The same GPT trained in four ways, side by side in one run.

    python tests/benchmark.py [--quick] [--torch-python PATH] > tables.md

Tables in Markdown go to standard output, progress to standard error. Each way trains as
a script would, in a process of its own, and the processes take turns, so that a busy
machine slows all of them alike. They must agree on the losses, or there is no race.
"""

import argparse
import contextlib
import gc
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time

try:
    import tracemalloc
except ImportError:  # PyPy has none
    tracemalloc = None

THIS = os.path.abspath(__file__)
ROOT = os.path.dirname(os.path.dirname(THIS))
sys.path[:0] = [ROOT, os.path.dirname(THIS)]

import float_gpt  # noqa: E402
import scalar_gpt  # noqa: E402
from helpers import floats  # noqa: E402

import microgpt  # noqa: E402

PYPY = sys.implementation.name == "pypy"
N_HEAD, BLOCK_SIZE, NUM_SAMPLES = 4, 16, 20
NOT_INSTALLED = "not installed"


# == The same training step in four ways ===============================================

def load(**settings):
    """As the program starts: model, documents to train on and held out, generator."""
    docs, rng = microgpt.load_docs(os.path.join(ROOT, "input.txt")), random.Random(42)
    rng.shuffle(docs)
    model = microgpt.Model(sorted(set("".join(docs))), rng, **settings)
    return model, *microgpt.split_docs(docs), rng

def tokenized(docs, model):
    return [microgpt.tokenize(doc, model.chars, model.block_size) for doc in docs]

def scalar_step(model):
    """Returns the loss as a Value; that holds the graph until the next one is whole."""
    weights = scalar_gpt.weights_from(floats(model))
    m, v = [0.0] * len(model.params), [0.0] * len(model.params)
    return lambda tokens, t: scalar_gpt.train_step(
        tokens, weights, m, v, t, 0.01, N_HEAD, model.n_layer)

def scalar_freed_step(model):
    """The same, but each graph is freed before the next one is built."""
    step = scalar_step(model)
    return lambda tokens, t: step(tokens, t).data

def microgpt_step(model):
    m, v = [0.0] * len(model.params), [0.0] * len(model.params)
    def step(tokens, t):
        loss = microgpt.backprop(model, tokens)
        microgpt.adam(model.params, m, v, t, 0.01)
        return loss
    return step

def float_step(model):
    weights = floats(model)
    adam = float_gpt.Adam(weights)
    return lambda tokens, t: float_gpt.train_step(
        tokens, weights, adam, 0.01, N_HEAD, model.n_layer)[0]

def torch_step(model):
    return torch_parts(floats(model))[0]

SCALAR, TORCH = "one node for every + and *", "PyTorch, CPU, float64, one thread"
WAYS = {SCALAR: scalar_step, "the same, each graph freed first": scalar_freed_step,
        "microgpt.py": microgpt_step,
        "floats, gradients derived by hand": float_step, TORCH: torch_step}

def torch_parts(weights):
    """step and log_probs in PyTorch, for a process that can import it."""
    import torch
    import torch_gpt
    torch.set_num_threads(1)
    params = torch_gpt.parameters(weights)
    adam, n_layer = torch_gpt.optimizer(params, 0.01), len(weights) // 6
    def step(tokens, t, rate=0.01):
        return torch_gpt.train_step(params, adam, tokens, rate, N_HEAD, n_layer)
    @torch.no_grad()
    def log_probs(tokens, temperature=1):
        logits = torch_gpt.logits(params, tokens, N_HEAD, n_layer)
        return (logits / temperature).log_softmax(-1)
    return step, log_probs

def alone(way, n_embd, num_steps):
    """Train as a script would; print the losses, and the seconds from step to step."""
    model, docs, _, _ = load(n_embd=n_embd)
    step, losses, times = WAYS[way](model), [], [time.perf_counter()]
    for t, tokens in enumerate(tokenized(docs[:num_steps], model), 1):
        loss = step(tokens, t)
        losses.append(getattr(loss, "data", loss))
        times.append(time.perf_counter())
    print(json.dumps([losses, [b - a for a, b in zip(times, times[1:])]]))

def torch_only(num_steps):
    """Do and print what `python microgpt.py` does, in PyTorch."""
    model, train_docs, held_out, rng = load()
    train_docs, held_out = tokenized(train_docs, model), tokenized(held_out, model)
    (step, log_probs), bos = torch_parts(floats(model)), len(model.chars)
    for t in range(num_steps):
        loss = step(train_docs[t % len(train_docs)], t, 0.01 * (1 - t / num_steps))
        print(f"step {t + 1:4d} / {num_steps} | loss {loss:.4f}", flush=True)
    losses = []
    for tokens in held_out:
        found = log_probs(tokens[:-1])
        losses += (-found[range(len(found)), tokens[1:]]).tolist()
    print(f"held-out loss: {statistics.fmean(losses):.4f}")
    for i in range(1, NUM_SAMPLES + 1):
        tokens = [bos]
        while len(tokens) <= BLOCK_SIZE and tokens[1:][-1:] != [bos]:
            probs = log_probs(tokens, 0.5)[-1].exp()
            tokens += rng.choices(range(bos + 1), probs.tolist())
        text = "".join(model.chars[token] for token in tokens if token != bos)
        print(f"sample {i:2d}: {text}", flush=True)


# == Tables ============================================================================

def progress(text):
    print(f"benchmark: {text}", file=sys.stderr, flush=True)

def table(title, header, rows):
    rows = [header.split(" | "), ["---"] * (header.count(" | ") + 1), *rows]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    print(f"\n{title}\n", *lines, sep="\n", flush=True)

def spread(numbers):
    """The median, and how far the numbers reach, as two columns."""
    return [f"{statistics.median(numbers):,.2f}",
            f"{min(numbers):,.2f} - {max(numbers):,.2f}"]

def race(n_embd, num_steps, warm_up, rounds, torch_python):
    """Way -> seconds of each step. The program ends here if the losses differ."""
    seconds = {name: [] for name in WAYS if name != TORCH or torch_python}
    losses = {}
    for i in range(rounds):
        for name in seconds:
            progress(f"n_embd {n_embd}, round {i + 1} of {rounds}: {name}")
            python = torch_python if name == TORCH else sys.executable
            run = subprocess.run(
                [python, THIS, "--alone", name, "--n-embd", str(n_embd),
                 "--num-steps", str(warm_up + num_steps)],
                check=True, stdout=subprocess.PIPE, encoding="utf-8")
            losses[name], times = json.loads(run.stdout)
            seconds[name] += times[warm_up:]
    for name, found in losses.items():
        for t, (loss, expected) in enumerate(zip(found, losses["microgpt.py"])):
            if not abs(loss - expected) < 1e-9:
                sys.exit(f"benchmark: error: step {t + 1}, {name}: loss {loss}, "
                         f"not {expected}")
    return seconds

def peak_memory(step, short, longest):
    """Bytes that one step needs at its peak, on top of what stood there before."""
    tracemalloc.start()
    step(short, 1)  # replaces every number of the model with one that is traced
    gc.collect()
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    step(longest, 2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak - before

def compare(n_embd, num_steps, warm_up, rounds, with_memory, torch_python):
    """All ways on one size of model: time, and the peak memory of a step."""
    seconds = race(n_embd, num_steps, warm_up, rounds, torch_python)
    first, _, _, floor, *_ = map(statistics.median, seconds.values())
    model, docs, _, _ = load(n_embd=n_embd)
    docs = tokenized(docs, model)
    rows, peaks = [], []
    for name, times in seconds.items():
        mid = statistics.median(times)
        rows.append([name, *spread([1000 * s for s in times]), f"{first / mid:.1f}",
                     f"{mid / floor:.2f}"])
        if name != TORCH and with_memory and tracemalloc:
            progress(f"n_embd {n_embd}: memory of a step, {name}")
            peaks.append(peak_memory(WAYS[name](load(n_embd=n_embd)[0]),
                                     min(docs, key=len), max(docs, key=len)))
            rows[-1] += [f"{peaks[-1] / 1e6:,.2f}", f"{peaks[0] / peaks[-1]:.1f}"]
        else:
            rows[-1] += ["n/a" if name != TORCH and not tracemalloc else "-"] * 2
    if not torch_python:
        rows.append([TORCH, NOT_INSTALLED, *"-----"])
    table(f"One training step, n_embd {n_embd}, n_head {N_HEAD}, n_layer 1: "
          f"{len(model.params):,} parameters",
          "implementation | ms, median | min - max | times faster than one node for "
          "every + and * | multiple of floats by hand | peak memory, MB | "
          "times smaller", rows)

def memory_over_time(moments):
    """Does anything pile up? All that is held after few steps, and after many."""
    rows = []
    if tracemalloc:
        tracemalloc.start()
        model, docs, _, _ = load(n_embd=4, block_size=4)
        for t, _ in enumerate(microgpt.train(model, docs, moments[-1]), 1):
            if t % 400 == 1:
                progress(f"memory over time: step {t} of {moments[-1]}")
            if t in moments:
                gc.collect()
                held, _ = tracemalloc.get_traced_memory()
                rows.append([f"{t:,}", f"{held:,}", f"{len(gc.get_objects()):,}"])
        tracemalloc.stop()
    table("Memory held while microgpt.py trains, n_embd 4, block_size 4",
          "after step | bytes | objects known to the garbage collector",
          rows or [[f"{t:,}", "n/a", "n/a"] for t in moments])

def scaling(sizes, warm_up, rounds):
    """microgpt.py alone on random letters, with one size varied at a time, in turns."""
    rng, runs = random.Random(0), []
    for name, values in sizes.items():
        for value in values:
            length = value if name == "tokens" else BLOCK_SIZE
            size = {} if name == "tokens" else {name: value}
            model = load(block_size=length, **size)[0]
            runs.append((f"{name} {value}", model, microgpt_step(model), []))
    for t in range(1, warm_up + rounds + 1):
        progress(f"scaling: a step of each size, round {t} of {warm_up + rounds}")
        for _, model, step, seconds in runs:
            tokens = rng.choices(range(len(model.chars)), k=model.block_size + 1)
            start = time.perf_counter()
            step(tokens, t)
            seconds.append(time.perf_counter() - start)
    rows = []
    for name, model, _, seconds in runs:
        params, length = len(model.params), model.block_size
        mid = statistics.median(seconds[warm_up:])
        rows.append([name, f"{params:,}", f"{length}", f"{params * length:,}",
                     f"{model.n_layer * model.n_embd * length**2:,}",
                     f"{1e3 * mid:,.1f}", f"{1e9 * mid / params / length:.0f}"])
    table("One step of microgpt.py by size (otherwise n_embd 16, n_layer 1, 16 tokens)",
          "varied | parameters | tokens | parameters x tokens | attention: n_layer x "
          "n_embd x tokens^2 | ms, median | ns per parameter x token", rows)

def whole_command(num_steps, rounds, torch_python):
    """From start to exit, in turns; equal held-out losses show equal work."""
    script = os.path.join(ROOT, "microgpt.py")
    commands = {"python microgpt.py": [sys.executable, script]}
    if torch_python:
        commands["the same in PyTorch"] = [torch_python, THIS, "--torch-only"]
    seconds, losses = {name: [] for name in commands}, {}
    for i in range(rounds):
        for name, command in commands.items():
            progress(f"whole command, {i + 1} of {rounds}: {name}")
            start = time.perf_counter()
            run = subprocess.run([*command, "--num-steps", str(num_steps)], check=True,
                                 stdout=subprocess.PIPE, encoding="utf-8")
            seconds[name].append(time.perf_counter() - start)
            losses[name] = run.stdout.partition("held-out loss: ")[2].split()[0]
    rows = [[name, *spread(times), losses[name]] for name, times in seconds.items()]
    if not torch_python:
        rows.append(["the same in PyTorch", NOT_INSTALLED, *"--"])
    table(f"From start to exit, imports included: {num_steps} steps, held-out loss, "
          f"{NUM_SAMPLES} samples",
          "command | seconds, median | min - max | held-out loss", rows)

def describe_machine(torch_version):
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        cpu = next((line.split(": ")[1].strip() for line in file
                    if line.startswith("model name")), cpu)
    python = f"{platform.python_implementation()} {platform.python_version()}"
    if PYPY:
        python += " (PyPy {}.{}.{})".format(*sys.pypy_version_info)
    print(f"- machine: {cpu}, {os.cpu_count()} cores",
          f"- system: {platform.platform()}", f"- Python: {python}",
          f"- PyTorch: {torch_version or NOT_INSTALLED}", sep="\n", flush=True)

def main():
    parser = argparse.ArgumentParser(description="Measure microgpt.py beside others.")
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer repetitions and sizes")
    add("--torch-python", metavar="PATH", default=sys.executable,
        help="the Python to run the PyTorch side with (default: the same)")
    add("--alone", choices=WAYS, metavar="WAY", help="only train in this way")
    add("--torch-only", action="store_true", help="only train and sample in PyTorch")
    add("--n-embd", type=int, default=16, help="for --alone (default: 16)")
    add("--num-steps", type=int, default=1000, help="for these two (default: 1000)")
    args = parser.parse_args()
    if args.alone:
        return alone(args.alone, args.n_embd, args.num_steps)
    if args.torch_only:
        return torch_only(args.num_steps)
    progress("looking for PyTorch")
    try:
        version = subprocess.run(
            [args.torch_python, "-c", "import torch; print(torch.__version__)"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8").stdout
    except OSError as error:
        parser.error(f"cannot run {args.torch_python}: {error.strerror}")
    torch_python, quick = version and args.torch_python, args.quick
    describe_machine(version.strip())
    compare(16, 10 if quick else 40, 300 if PYPY else 5, 1 if quick else 3, True,
            torch_python)
    compare(64, 1 if quick else 4, 5 if PYPY else 1, 1 if quick else 2, not quick,
            torch_python)
    memory_over_time([50, 200] if quick else [200, 2000])
    end = -1 if quick else None
    scaling({"n_embd": [16, 32, 64, 128][:end], "n_layer": [1, 2, 4][:end],
             "tokens": [4, 16, 64, 256][:end]}, 30 if PYPY else 1, 3 if quick else 7)
    whole_command(200 if quick else 1000, 1 if quick else 3, torch_python)

if __name__ == "__main__":
    main()
