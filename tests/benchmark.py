"""How fast and how large is microgpt.py? The same GPT trained in several ways.

    python tests/benchmark.py [--quick] [--torch-python PATH] > tables.md

Tables in Markdown go to standard output, progress to standard error. Each way trains in
processes of its own, and the ways take turns, so that a busy machine slows all of them
alike. The comparison counts only if all ways compute the same losses, which is checked.
"""

import argparse
import contextlib
import functools
import gc
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import time

try:
    import tracemalloc
except ImportError:  # PyPy does not have it
    tracemalloc = None

THIS = os.path.abspath(__file__)
ROOT = os.path.dirname(os.path.dirname(THIS))
sys.path[:0] = [ROOT, os.path.dirname(THIS)]

import float_gpt  # noqa: E402
import scalar_gpt  # noqa: E402
from helpers import floats  # noqa: E402

import microgpt  # noqa: E402

PYPY = sys.implementation.name == "pypy"
NUM_SAMPLES = 20
# Processor time does not count other programs, but on Windows it is too coarse.
CLOCK = time.perf_counter if os.name == "nt" else time.process_time


# == The ways to train =================================================================
# Each is a generator, like microgpt.train: it trains for one step and yields the loss.

def load(**sizes):
    """As the program starts: model, documents to train on and held out, generator."""
    docs, rng = microgpt.load_docs(os.path.join(ROOT, "input.txt")), random.Random(42)
    rng.shuffle(docs)
    model = microgpt.Model(microgpt.build_vocab(docs), rng, **sizes)
    return model, *microgpt.split_docs(docs), rng

def schedule(model, docs, num_steps):
    """The number, the tokens and the learning rate of each step, as in microgpt.py."""
    for step in range(num_steps):
        doc = docs[step % len(docs)]
        tokens = microgpt.tokenize(doc, model.chars, model.block_size)
        yield step + 1, tokens, 0.01 * (1 - step / num_steps)

def usual_script(model, docs, num_steps, free=False):
    weights = scalar_gpt.weights_from(floats(model))
    m, v = [0.0] * len(model.params), [0.0] * len(model.params)
    for t, tokens, rate in schedule(model, docs, num_steps):
        loss = scalar_gpt.train_step(
            tokens, weights, m, v, t, rate, model.n_head, model.n_layer)
        yield loss.data
        if free:
            del loss  # otherwise it holds the graph until the next loss is assigned

def no_tape(model, docs, num_steps):
    microgpt.recording = contextlib.nullcontext  # backward(None) searches for an order
    return microgpt.train(model, docs, num_steps)

def no_dot(model, docs, num_steps):
    microgpt.dot = lambda x, w: sum(xi * wi for xi, wi in zip(x, w))
    return microgpt.train(model, docs, num_steps)

def by_hand(model, docs, num_steps):
    weights = floats(model)
    adam = float_gpt.Adam(weights)
    for _, tokens, rate in schedule(model, docs, num_steps):
        yield float_gpt.train_step(
            tokens, weights, adam, rate, model.n_head, model.n_layer)[0]

def pytorch(model, docs, num_steps):
    step, _ = torch_parts(model)
    for _, tokens, rate in schedule(model, docs, num_steps):
        yield step(tokens, rate)

def torch_parts(model):
    """step and log_probs in PyTorch, for a process that can import it."""
    import torch
    import torch_gpt
    torch.set_num_threads(1)
    params = torch_gpt.parameters(floats(model))
    adam, sizes = torch_gpt.optimizer(params, 0.01), (model.n_head, model.n_layer)
    def step(tokens, rate):
        return torch_gpt.train_step(params, adam, tokens, rate, *sizes)
    @torch.no_grad()
    def log_probs(tokens, temperature=1):
        logits = torch_gpt.logits(params, tokens, *sizes)
        return (logits / temperature).log_softmax(-1)
    return step, log_probs

SCRIPT, FREED, OURS, HAND, TORCH = (
    "usual script", "graphs freed", "microgpt.py", "by hand", "PyTorch")
WAYS = {  # name: (function, is the garbage collector on?, what it is)
    SCRIPT: (usual_script, True, """the baseline, one node for every + and *
  (`tests/scalar_gpt.py`). It is timed as a script runs it: the garbage collector is on,
  and the variable `loss` holds each graph until the next one is complete."""),
    FREED: (functools.partial(usual_script, free=True), True,
            "the same, but each graph is freed before the next one is built."),
    OURS: (microgpt.train, False, """its own training loop with the garbage collector
  off, as on its command line. The next three rows change one thing each."""),
    "collector on": (microgpt.train, True, "the garbage collector is left on."),
    "no tape": (no_tape, False, "every `backward()` searches the graph for an order."),
    "no dot": (no_dot, False, "dot products are made of * and +."),
    HAND: (by_hand, False, """floats without a graph, and gradients derived by hand
  (`tests/float_gpt.py`)."""),
    TORCH: (pytorch, True, "the same step in PyTorch: CPU, float64, one thread."),
}
if PYPY:
    del WAYS["collector on"]  # the command line leaves PyPy's collector as it is

def alone(way, n_embd, num_steps, memory):
    """Train in one way; print the losses and the seconds of each step as JSON."""
    train, collector, _ = WAYS[way]
    if not collector and not PYPY:
        gc.disable()
    model, docs, _, _ = load(n_embd=n_embd)
    if memory:
        return print(peak_memory(train, model, docs))
    losses, times = [], [CLOCK()]
    for loss in train(model, docs, num_steps):
        losses.append(loss)
        times.append(CLOCK())
    print(json.dumps([losses, [b - a for a, b in zip(times, times[1:])]]))

def peak_memory(train, model, docs):
    """Bytes that a step on the longest document takes, besides those held before."""
    tokenize, before, peak = microgpt.tokenize, 0, 0
    def start_of_step(*args):  # every way begins a step with the tokens
        nonlocal before
        for p in model.params:
            p.grad = 0.0  # the gradients belong to the step
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        return tokenize(*args)
    microgpt.tokenize = start_of_step
    tracemalloc.start()
    # The first step replaces every number of the model with one that is traced.
    for _ in train(model, [min(docs, key=len), max(docs, key=len)], 2):
        _, peak = tracemalloc.get_traced_memory()
    return peak - before

def torch_only(num_steps):
    """Do and print what `python microgpt.py` does, in PyTorch."""
    model, train_docs, held_out, rng = load()
    (step, log_probs), bos = torch_parts(model), len(model.chars)
    for t, tokens, rate in schedule(model, train_docs, num_steps):
        loss = step(tokens, rate)
        print(f"step {t:4d} / {num_steps} | loss {loss:.4f}", flush=True)
    losses = []
    for doc in held_out:
        tokens = microgpt.tokenize(doc, model.chars, model.block_size)
        found = log_probs(tokens[:-1])
        losses += (-found[range(len(found)), tokens[1:]]).tolist()
    print(f"held-out loss: {statistics.fmean(losses):.4f}")
    for i in range(1, NUM_SAMPLES + 1):
        tokens = [bos]
        while len(tokens) <= model.block_size and tokens[1:][-1:] != [bos]:
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
    """The median and the range, as two columns."""
    return [f"{statistics.median(numbers):,.2f}",
            f"{min(numbers):,.2f} - {max(numbers):,.2f}"]

def run_alone(way, n_embd, torch_python, *flags):
    """What alone() prints, in a process of its own."""
    python = torch_python if way == TORCH else sys.executable
    return json.loads(subprocess.check_output(
        [python, THIS, "--alone", way, "--n-embd", str(n_embd), *flags]))

def race(n_embd, num_steps, warm_up, rounds, torch_python):
    """Way -> seconds of each step. The program ends here if the losses differ."""
    seconds = {way: [] for way in WAYS if way != TORCH or torch_python}
    losses = {}
    for i in range(rounds):
        for way in seconds:
            progress(f"n_embd {n_embd}, round {i + 1} of {rounds}: {way}")
            losses[way], times = run_alone(
                way, n_embd, torch_python, "--num-steps", str(warm_up + num_steps))
            seconds[way] += times[warm_up:]
    for way, found in losses.items():
        for t, (loss, expected) in enumerate(zip(found, losses[OURS]), 1):
            if not abs(loss - expected) < 1e-9:
                sys.exit(f"benchmark: error: step {t}, {way}: loss {loss}, "
                         f"not {expected}")
    return seconds

def compare(n_embd, num_steps, warm_up, rounds, with_memory, torch_python):
    """All ways with one size of model: time, and the memory of a step."""
    seconds = race(n_embd, num_steps, warm_up, rounds, torch_python)
    median = {way: statistics.median(times) for way, times in seconds.items()}
    memory, rows = {}, []
    for way, times in seconds.items():
        if way != TORCH and with_memory and tracemalloc:
            progress(f"n_embd {n_embd}, memory of a step: {way}")
            memory[way] = run_alone(way, n_embd, torch_python, "--memory")
        rows.append([
            way, *spread([1000 * s for s in times]),
            *(f"{median[base] / median[way]:.1f}" for base in (SCRIPT, FREED)),
            f"{median[way] / median[HAND]:.2f}",
            *([f"{memory[way] / 1e6:,.2f}", f"{memory[SCRIPT] / memory[way]:.1f}"]
              if way in memory else "--")])
    table(f"One training step, n_embd {n_embd}, {len(load(n_embd=n_embd)[0].params):,} "
          f"parameters: the processor time of {rounds} x {num_steps} steps, the memory",
          f"way | ms, median | range | times as fast as {SCRIPT} | as {FREED} | "
          f"time / {HAND} | peak MB | times smaller", rows)

def memory_over_time(moments):
    """Does memory grow from step to step? The same documents come again and again."""
    rows = []
    model, docs, _, _ = load(n_embd=4, block_size=4)
    tracemalloc.start()
    losses = microgpt.train(model, docs[:moments[0]], moments[-1])
    for t, _ in enumerate(losses, 1):
        if t in moments:
            progress(f"memory over time: step {t} of {moments[-1]}")
            held, _ = tracemalloc.get_traced_memory()
            rows.append([f"{t:,}", f"{held:,}", f"{len(gc.get_objects()):,}"])
    tracemalloc.stop()
    table("Memory held while microgpt.py trains, n_embd 4, block_size 4",
          "after step | bytes | objects known to the garbage collector", rows)

def scaling(sizes, warm_up, rounds):
    """Each size of microgpt.py once, on random letters; the sizes take turns."""
    rng, runs = random.Random(0), []
    for size in sizes:
        model = load(**size)[0]
        docs = ["".join(rng.choices(model.chars, k=model.block_size))]
        runs.append((size, model, microgpt.train(model, docs, warm_up + rounds), []))
    for i in range(warm_up + rounds):
        progress(f"scaling: a step of each size, round {i + 1} of {warm_up + rounds}")
        for _, _, training, seconds in runs:
            start = CLOCK()
            next(training)
            seconds.append(CLOCK() - start)
    rows = []
    for size, model, _, seconds in runs:
        params, length = len(model.params), model.block_size
        median = statistics.median(seconds[warm_up:])
        name = ", ".join(f"{key} {value}" for key, value in size.items()) or "default"
        rows.append([name, f"{params:,}", f"{length}", f"{1e3 * median:,.1f}",
                     f"{1e9 * median / params / length:.0f}"])
    table("One step of microgpt.py by size (default: n_embd 16, n_layer 1, "
          "block_size 16), with as many tokens as block_size",
          "model | parameters | tokens | ms | ns / parameter / token", rows)

def whole_command(num_steps, rounds, torch_python):
    """From start to exit, in turns; equal held-out losses show equal work."""
    commands = {"microgpt.py": [sys.executable, os.path.join(ROOT, "microgpt.py")]}
    if torch_python:
        commands["the same in PyTorch"] = [torch_python, THIS, "--torch-only"]
    seconds, losses = {name: [] for name in commands}, {}
    for i in range(rounds):
        for name, command in commands.items():
            progress(f"whole command, round {i + 1} of {rounds}: {name}")
            start = time.perf_counter()
            output = subprocess.check_output(
                [*command, "--num-steps", str(num_steps)], encoding="utf-8")
            seconds[name].append(time.perf_counter() - start)
            losses[name] = output.partition("held-out loss: ")[2].split()[0]
    table(f"From start to exit: {num_steps} steps, held-out loss, "
          f"{NUM_SAMPLES} samples", "command | seconds | range | held-out loss",
          [[name, *spread(times), losses[name]] for name, times in seconds.items()])

def describe(torch_version):
    """Print the machine, the versions and the meaning of the rows."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        cpu = next((line.split(": ")[1].strip() for line in file
                    if line.startswith("model name")), cpu)
    print(f"- machine: {cpu}, {os.cpu_count()} cores, {platform.platform()}",
          f"- {platform.python_implementation()} {' '.join(sys.version.split())}",
          f"- PyTorch: {torch_version or 'not installed'}", "",
          *(f"- **{way}**: {text}" for way, (_, _, text) in WAYS.items()),
          sep="\n", flush=True)

def main():
    parser = argparse.ArgumentParser(description="Measure microgpt.py beside others.")
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer repetitions and sizes")
    add("--torch-python", metavar="PATH", default=sys.executable,
        help="the Python to run PyTorch with (default: the same)")
    add("--alone", choices=WAYS, metavar="WAY", help="only train in this way")
    add("--memory", action="store_true", help="only measure the memory of --alone")
    add("--torch-only", action="store_true", help="only train and sample in PyTorch")
    add("--n-embd", type=int, default=16, help="for --alone (default: 16)")
    add("--num-steps", type=int, default=1000, help="(default: 1000)")
    args = parser.parse_args()
    if args.alone:
        return alone(args.alone, args.n_embd, args.num_steps, args.memory)
    if args.torch_only:
        return torch_only(args.num_steps)
    progress("looking for PyTorch")
    if not shutil.which(args.torch_python):
        parser.error(f"cannot run {args.torch_python}")
    version = subprocess.run(
        [args.torch_python, "-c", "import torch; print(torch.__version__)"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8").stdout
    torch_python, quick = version and args.torch_python, args.quick
    if not PYPY:
        gc.disable()  # as microgpt.py does
    describe(version.strip())
    compare(16, 10 if quick else 20, 300 if PYPY else 5, 1 if quick else 7, True,
            torch_python)
    compare(64, 1 if quick else 3, 5 if PYPY else 1, 1 if quick else 3, not quick,
            torch_python)
    if tracemalloc:
        memory_over_time([50, 200] if quick else [200, 2000])
    sizes = [{}, {"n_embd": 32}, {"n_embd": 64}, {"n_layer": 2}, {"n_layer": 4},
             {"block_size": 4}, {"block_size": 64}]
    if not quick:
        sizes += [{"n_embd": 128}, {"block_size": 256}]
    scaling(sizes, 30 if PYPY else 1, 3 if quick else 9)
    whole_command(200 if quick else 1000, 1 if quick else 3, torch_python)

if __name__ == "__main__":
    main()
