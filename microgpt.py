"""microgpt: a whole GPT, from raw text to invented names, in one file of plain Python.

- `python microgpt.py` learns from input.txt, then prints twenty new names.
- `from microgpt import Value` takes the parts to play with; importing runs nothing.

What travels through the file, by example (the default model, the name 'ana'):

- `tokens` [26, 0, 13, 0, 26]: the name as ids; 26 is BOS, the mark at both ends
- `x` [16]: one token's vector of Values, on its way up the model
- `w` [64][16]: a weight matrix [n_out][n_in], one row per output
- `keys` [1][4][16]: [layer][time][channel], one longer with each token read
- `logits` [27]: a score for every token that could come next
"""

import gc
import math
import random
import sys


# 1. Data and tokens
# --------------------------------------------------------------------------------------
# A language model needs no labels. The text is its own answer sheet: each character is
# the right answer to "what comes after the ones before it?". The text here is a list of
# documents, one a line, each a name. A network computes with numbers, so each distinct
# character gets an id, and one more id, BOS ("beginning of sequence"), stands at both
# ends: as the first input it asks how names begin, as the last target it says to stop.

def load_docs(path):
    """The lines of a UTF-8 file, stripped, none empty. Raises OSError, UnicodeError."""
    # "-sig", because a byte-order mark left in place would become a token.
    with open(path, encoding="utf-8-sig") as file:
        return [line.strip() for line in file if line.strip()]

def split_docs(docs):
    """Shuffled documents -> (those to train on, up to 200 others to test on)."""
    # The last tenth is never trained on: has the model learnt how names are made, or
    # only the names? A document that is in both parts would blur the answer.
    num_train = len(docs) - len(docs) // 10
    seen = set(docs[:num_train])
    return docs[:num_train], [d for d in docs[num_train:][:200] if d not in seen]

def tokenize(doc, chars, block_size):
    """'ana' -> [26, 0, 13, 0, 26], cut to ask for block_size predictions at most."""
    bos = len(chars)
    return [bos, *map(chars.index, doc[:block_size]), bos][:block_size + 1]


# 2. Autograd
# --------------------------------------------------------------------------------------
# Learning asks of every parameter: if it grew a little, how many times as much would
# the loss grow? That is its gradient, `dloss/dp`. A `Value` remembers its children, the
# Values it was computed from, and the local derivative towards each. So the chain rule
# can walk from the loss back to the leaves, the numbers that were not computed:
# `dloss/dchild = sum of dloss/dnode * dnode/dchild` over all nodes that use the child
# (reverse-mode differentiation: Linnainmaa, 1970).
#
# A node may have any number of children: a dot product of n pairs is one node with 2n
# children, where n products and n - 1 sums would be 2n - 1 nodes with two each. Most
# of the time would go into those nodes: run tests/benchmark.py to see.

class Value:
    """One number, its gradient, its children and the local derivative towards each."""
    __slots__ = ("data", "grad", "_children", "_local_grads")
    tape = None  # while a list stands here, each new operation is appended to it

    def __init__(self, data, children=(), local_grads=()):
        if not children:
            data = float(+data)  # the + refuses text
        elif (tape := Value.tape) is not None:
            tape.append(self)
        self.data = data
        self.grad = 0.0  # dloss/dself, once loss.backward() has run
        self._children = children
        self._local_grads = local_grads

    def __repr__(self): return f"Value(data={self.data}, grad={self.grad})"

    # Beside each operation stands its derivative, which the new node keeps as a number.
    def __add__(self, other):  # d(a + b)/da = 1, d(a + b)/db = 1
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0))
    def __mul__(self, other):  # d(a b)/da = b, d(a b)/db = a
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))
    def __pow__(self, n):  # d(a^n)/da = n a^(n-1), for a number n
        if not isinstance(n, (int, float)):
            raise TypeError(f"the exponent must be a number, not {n!r}")
        slope = n * self.data ** (n - 1) if n else 0.0
        return Value(float(self.data ** n), (self,), (slope,))
    def exp(self):  # d(e^a)/da = e^a
        e = math.exp(self.data)
        return Value(e, (self,), (e,))
    def log(self):  # d(ln a)/da = 1/a
        return Value(math.log(self.data), (self,), (1 / self.data,))
    def relu(self):  # d(max(0, a))/da = 1 if a > 0, else 0; nan stays nan, to be seen
        off = self.data <= 0
        return Value(0.0 if off else self.data, (self,), (0.0 if off else 1.0,))
    def __neg__(self): return self * -1
    def __sub__(self, other): return self + -other
    def __truediv__(self, other): return self * other ** -1
    def __rsub__(self, other): return -self + other
    def __rtruediv__(self, other): return self ** -1 * other
    __radd__, __rmul__ = __add__, __mul__

    def backward(self, tape=None):
        """Add dself/dleaf to the grad of each leaf; a tape lists all operations."""
        # Before a node passes its gradient on, all its uses must have added theirs. So
        # we take nodes from the last computed to the first: uses before children.
        nodes = self.operations() if tape is None else tape
        for node in nodes:  # the leaves are not among them: what they have, they keep
            node.grad = 0.0
        self.grad += 1.0  # dself/dself = 1
        for node in reversed(nodes):
            if grad := node.grad:  # zero has nothing to pass on
                # `+=`, because a node used twice moves the loss in two ways, and they
                # add up. So they would from step to step: adam() zeroes the leaves.
                for child, local_grad in zip(node._children, node._local_grads):
                    child.grad += local_grad * grad

    def operations(self):
        """All operations that led to self, children before uses, self the last."""
        # A node goes on the stack to be opened and, below its children, a second time
        # to be listed after them. Recursion would fail a thousand operations deep.
        order, seen, stack = [], set(), [(self, False)]
        while stack:
            node, children_listed = stack.pop()
            if children_listed:
                order.append(node)
            elif node not in seen and node._children:
                seen.add(node)
                stack.append((node, True))
                stack += [(child, False) for child in node._children]
        return order

class Dot(Value):
    """The dot product of x and row, two lists of n Values: one node, 2n children."""
    # The rows of a matrix share the list x, and all tokens share row. So a Dot refers
    # to both and joins them when asked; copies would make the graph half again as big.
    __slots__ = ("x", "row", "x_data", "row_data")

    def __init__(self, x, row, x_data):
        row_data = [wi.data for wi in row]
        total = 0.0  # in a loop: sum() of floats rounds differently from Python 3.12 on
        for xi, wi in zip(x_data, row_data):
            total += xi * wi
        self.data, self.grad = total, 0.0
        self.x, self.row = x, row
        self.x_data, self.row_data = x_data, row_data
        if (tape := Value.tape) is not None:
            tape.append(self)

    @property
    def _children(self): return self.x + self.row
    @property
    def _local_grads(self): return self.row_data + self.x_data  # d/dx = w, d/dw = x


# 3. Parameters
# --------------------------------------------------------------------------------------
# All that the model will ever know is in these matrices. They start as small random
# numbers: random, because channels that start equal get equal gradients and stay equal;
# small, so that the untrained model finds all tokens about equally likely.

def shapes(vocab_size, n_embd, n_layer, block_size):
    """Yield (name, n_out, n_in) of each matrix, in the order of their drawing."""
    yield "wte", vocab_size, n_embd  # embedding: a vector for each token
    yield "wpe", block_size, n_embd  # embedding: a vector for each position
    yield "lm_head", vocab_size, n_embd  # turns the last x into logits
    for layer in range(n_layer):
        for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo"):
            yield f"layer{layer}.{name}", n_embd, n_embd
        yield f"layer{layer}.mlp_fc1", 4 * n_embd, n_embd
        yield f"layer{layer}.mlp_fc2", n_embd, 4 * n_embd

class Model:
    """Settings, the characters, and state_dict: name -> [n_out][n_in] Values."""
    # By default `27*16 + 16*16 + 27*16 + 4 * 16*16 + 64*16 + 16*64 = 4,192` parameters.
    def __init__(self, chars, rng, n_embd=16, n_layer=1, n_head=4, block_size=16):
        if n_embd % n_head:
            raise ValueError(f"n_head {n_head} does not divide n_embd {n_embd}")
        self.chars, self.n_embd, self.n_layer = chars, n_embd, n_layer
        self.n_head, self.block_size = n_head, block_size
        self.state_dict = {
            name: [[Value(rng.gauss(0, 0.08)) for _ in range(n_in)]
                   for _ in range(n_out)]
            for name, n_out, n_in in shapes(len(chars) + 1, n_embd, n_layer, block_size)
        }
        self.params = [p for w in self.state_dict.values() for row in w for p in row]


# 4. The model
# --------------------------------------------------------------------------------------
# A GPT maps the tokens so far to a score for each token that could be next. A token is
# a vector x of n_embd channels, and each layer adds to it twice: what attention found
# in the tokens so far, then what the MLP makes of it. As layers add to x and never
# replace it, gradients have a straight way back through any number of them.

def linear(x, w):
    """[n_in], [n_out][n_in] -> [n_out]: the dot product of x with each row of w."""
    x_data = [xi.data for xi in x]
    return [Dot(x, row, x_data) for row in w]

def logsumexp(logits):
    """[n] -> one Value, log(sum(exp(logits))), as a single node; its slope: softmax."""
    top = max(logit.data for logit in logits)
    exps = [math.exp(logit.data - top) for logit in logits]  # at most 1: no overflow
    total = math.fsum(exps)
    return Value(top + math.log(total), tuple(logits), [e / total for e in exps])

def softmax(logits):
    """[n] -> [n]: scores to probabilities; none is below 0, together they make 1."""
    minus_log_total = -logsumexp(logits)
    return [(logit + minus_log_total).exp() for logit in logits]  # e^a / e^b = e^(a-b)

def rmsnorm(x):
    """[n] -> [n]: x scaled to root mean square 1 (Zhang and Sennrich, 2019)."""
    # However large the sums in x have grown, what reads it sees numbers of one size.
    mean_square = linear(x, [x])[0] * (1 / len(x))  # x dot x: each xi is used twice
    scale = (mean_square + 1e-5) ** -0.5  # 1e-5: no division by zero at x = 0
    return [xi * scale for xi in x]

def attention(x, keys, values, wq, wk, wv, wo, n_head):
    """[n_embd] -> [n_embd]: gather from the tokens so far (Vaswani et al., 2017)."""
    # The only place where tokens meet. Each asks with its query, is found by its key,
    # and hands over its value. keys and values: [time][n_embd], this token the last.
    # Where is the causal mask? Here: what is not in the lists yet cannot be seen. This
    # holds in training too, and as the lists hold Values, gradients flow through them.
    keys.append(linear(x, wk))
    values.append(linear(x, wv))
    # Sums of head_dim products spread like sqrt(head_dim). Left so, wide heads would
    # soon see one token only, and hardly any gradient would reach the others.
    head_dim = len(x) // n_head
    scale = Value(1 / math.sqrt(head_dim))
    q = [qi * scale for qi in linear(x, wq)]
    # Each head has some of the channels to itself, and so can look for something else.
    found = []
    for start in range(0, len(x), head_dim):
        head = slice(start, start + head_dim)
        weights = softmax(linear(q[head], [key[head] for key in keys]))  # [time]
        columns = [list(column) for column in zip(*(value[head] for value in values))]
        found += linear(weights, columns)  # [time], [head_dim][time] -> [head_dim]
    return linear(found, wo)  # mixes what the heads have found

def mlp(x, fc1, fc2):
    """[n_embd] -> [n_embd]: widen fourfold, bend, narrow (Primer: So et al., 2021)."""
    # The bend is relu(h)^2. Without one, two linear maps in a row are no more than one.
    hidden = [h.relu() for h in linear(x, fc1)]
    return linear([h * h for h in hidden], fc2)

def gpt(token_id, pos_id, keys, values, model):
    """One token, after those in keys and values, which grow -> logits, [vocab_size]."""
    w = model.state_dict
    x = [t + p for t, p in zip(w["wte"][token_id], w["wpe"][pos_id])]
    # Each layer norms its own input, so why here? The layers add to x itself, and
    # lm_head reads the sum: unnormed, x would start it at 0.1 a channel, not at 1.
    x = rmsnorm(x)
    for i in range(model.n_layer):
        attn = [w[f"layer{i}.attn_{name}"] for name in ("wq", "wk", "wv", "wo")]
        found = attention(rmsnorm(x), keys[i], values[i], *attn, model.n_head)
        x = [a + b for a, b in zip(x, found)]
        made = mlp(rmsnorm(x), w[f"layer{i}.mlp_fc1"], w[f"layer{i}.mlp_fc2"])
        x = [a + b for a, b in zip(x, made)]
    return linear(x, w["lm_head"])


# 5. Loss and Adam
# --------------------------------------------------------------------------------------
# The loss is surprise: -log of the probability that the model gave to the token that
# came. Guessing among 27 tokens costs ln 27 = 3.30 nats; at 2.3 the model wavers as if
# among e^2.3 = 10 of them. The gradients say which way to turn 4,192 knobs to lower it.

def cross_entropy(logits, target):
    """-log(softmax(logits)[target]) in nats, in a form that never meets log(0)."""
    return logsumexp(logits) - logits[target]

def document_losses(model, tokens):
    """[n + 1] tokens -> [n] losses, of each token predicted from those before it."""
    keys, values = ([[] for _ in range(model.n_layer)] for _ in range(2))
    return [cross_entropy(gpt(token, pos, keys, values, model), target)
            for pos, (token, target) in enumerate(zip(tokens, tokens[1:]))]

def adam(params, m, v, t, learning_rate, beta1=0.85, beta2=0.99, eps_adam=1e-8):
    """Step t = 1, 2, ... of Adam (Kingma and Ba, 2014); leaves the gradients zeroed."""
    # m and v are running means of each gradient and its square. A gradient that stays
    # as it is has m / sqrt(v) near 1 or -1, a full step; one that wavers, a small one.
    # As both begin at 0, after t steps only the share 1 - beta ** t of them is filled.
    new1, new2, sqrt = 1 - beta1, 1 - beta2, math.sqrt
    share1, share2 = 1 - beta1 ** t, 1 - beta2 ** t
    rate = learning_rate / share1
    for i, p in enumerate(params):
        grad = p.grad
        m[i] = mean = beta1 * m[i] + new1 * grad
        v[i] = square = beta2 * v[i] + new2 * grad * grad
        p.data -= rate * mean / (sqrt(square / share2) + eps_adam)  # eps: never 0 / 0
        p.grad = 0.0


# 6. Training loop
# --------------------------------------------------------------------------------------
# One step: take a document, compute its loss and so build the graph, walk back through
# it for the gradients, and let Adam move every parameter a little downhill. Then the
# graph is dropped: the next document builds its own, from the moved parameters.

def backprop(model, tokens):
    """Add dloss/dp to each parameter's grad; return the loss, a document's mean."""
    # Two shortcuts. The order of computing, kept on a tape, serves backward as it is.
    # And CPython's garbage collector rests: time and again it would search the growing
    # graph for cycles, and it has none, since children are older than their uses.
    rest = gc.isenabled() and sys.implementation.name == "cpython"
    if rest:
        gc.disable()
    Value.tape = tape = []
    try:
        losses = document_losses(model, tokens)
        loss = sum(losses) * (1 / len(losses))  # a sum of Values, by their own +
        loss.backward(tape)
    finally:
        Value.tape = None
        if rest:
            gc.enable()
    return loss.data

def train(model, docs, num_steps=1000, learning_rate=0.01):
    """Yield the loss of each step; FloatingPointError when training diverges."""
    m, v = [0.0] * len(model.params), [0.0] * len(model.params)
    for step in range(num_steps):
        doc = docs[step % len(docs)]
        loss = backprop(model, tokenize(doc, model.chars, model.block_size))
        # Guessing costs log(vocab_size); a thousand times that is divergence.
        if not loss < 1000 * math.log(len(model.chars) + 1):  # nan is not less, either
            raise FloatingPointError(f"diverged at step {step + 1}")
        # Long strides first, then ever shorter ones, so that it can settle.
        adam(model.params, m, v, step + 1, learning_rate * (1 - step / num_steps))
        yield loss

def mean_loss(model, docs):
    """Mean loss per token over the documents, in nats; nothing is learnt from them."""
    losses = [loss.data for doc in docs for loss in document_losses(
        model, tokenize(doc, model.chars, model.block_size))]
    return math.fsum(losses) / len(losses)


# 7. Inference loop
# --------------------------------------------------------------------------------------
# To invent a name, ask what follows BOS, draw a token by the answer, feed it in as if
# it had been read, and go on until BOS is drawn. It is the same gpt(); but in training
# the next input came from the data, whatever the model had thought, and here it is the
# model's own word. There is no right answer, so no loss and no learning; the graph that
# gpt() builds all the same is dropped. Is a sample invented, or remembered? Look it up
# in the data, as the command line does.

def generate(model, rng, temperature=0.5, prompt=""):
    """The prompt, a str, continued by up to block_size characters in all."""
    if not temperature >= 0:  # a negative one would favour the unlikely
        raise ValueError(f"temperature {temperature} is not at least 0")
    keys, values = ([[] for _ in range(model.n_layer)] for _ in range(2))
    bos = len(model.chars)
    tokens = [bos, *map(model.chars.index, prompt)]
    for pos in range(model.block_size):
        logits = [z.data for z in gpt(tokens[pos], pos, keys, values, model)]
        if pos + 1 < len(tokens):
            continue  # the prompt goes on: the next token is given
        if not all(map(math.isfinite, logits)):
            raise FloatingPointError("the model computes numbers that are not finite")
        # Below 1, the temperature widens the gaps between logits and favours the
        # likely; above, it evens them out. choices() does the dividing of softmax.
        top = max(logits)
        if temperature == 0:
            token = logits.index(top)
        else:
            weights = [math.exp((z - top) / temperature) for z in logits]
            token = rng.choices(range(bos + 1), weights)[0]
        if token == bos:
            break
        tokens.append(token)
    return "".join(model.chars[token] for token in tokens[1:])

# A real GPT differs in scale and speed, not in kind: tokens are pieces of words, all
# positions of many documents are computed at once, as tensors on GPUs (then a mask must
# hide the future), parameters are counted in billions, and conversation is taught
# afterwards. Read on: nanoGPT, then llm.c.


# 8. The command line
# --------------------------------------------------------------------------------------
# Flags, messages and files: what a program needs, and nothing that a GPT is made of.
# Results go to standard output; whatever is wrong becomes one line on standard error.

import argparse
import contextlib
import functools
import itertools
import json
import os
import signal
import time

FLAGS = [  # name, kind, least value, default, help
    ("n_embd", int, 1, 16, "channels of each token's vector"),
    ("n_layer", int, 1, 1, "layers of attention and MLP"),
    ("n_head", int, 1, 4, "attention heads; must divide n_embd"),
    ("block_size", int, 1, 16, "positions, the most tokens read at once"),
    ("num_steps", int, 0, 1000, "training steps, one document each"),
    ("learning_rate", float, 0, 0.01, "of the first step; falls in a line to 0"),
    ("seed", int, 0, 42, "of all chance: same seed, same output"),
    ("temperature", float, 0, 0.5, "of sampling; 0 takes the likeliest token"),
    ("num_samples", int, 0, 20, "documents to invent"),
]

def fail(message, status=2):
    """End the program with one line on standard error."""
    print("microgpt: error:", *message.split(), file=sys.stderr)
    raise SystemExit(status)

def number(kind, least, text):
    """A flag's text as a number; argparse.ArgumentTypeError if it makes no sense."""
    with contextlib.suppress(ValueError):
        if least <= kind(text) < math.inf:  # which nan is not
            return kind(text)
    noun = "whole number" if kind is int else "finite number"
    raise argparse.ArgumentTypeError(f"{text!r} is not a {noun} of at least {least}")

def parse_args(argv):
    """All settings, checked as far as they can be before the data is read."""
    parser = argparse.ArgumentParser(
        argument_default=argparse.SUPPRESS, allow_abbrev=False,
        description="Train a small GPT on the lines of a text, and sample.")
    parser.error, add = fail, parser.add_argument
    add("file", metavar="FILE", nargs="?", help="UTF-8 text, one document a line "
        "(default: the input.txt beside the script, or else in this folder)")
    for name, kind, least, default, text in FLAGS:
        add("--" + name.replace("_", "-"), type=functools.partial(number, kind, least),
            metavar="F" if kind is float else "N", help=f"{text} (default: {default})")
    add("--prompt", metavar="TEXT", help="begin every sample with TEXT")
    add("--save", metavar="FILE", help="write the trained model and its data as JSON")
    add("--load", metavar="FILE", help="train nothing, sample from a model so written")
    given = vars(parser.parse_args(argv))
    for name in (name for name, value in given.items() if value == []):
        fail(f"argument --{name.replace('_', '-')}: '--' is no value")  # argparse bug
    settings = {name: default for name, _, _, default, _ in FLAGS}
    beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "input.txt")
    settings.update(file=beside if os.path.isfile(beside) else "input.txt",
                    prompt="", save=None, load=None)
    if "load" in given:
        settings["file"] = None  # the model brings its documents
        for name in (name for name in ("save", *list(settings)[:6]) if name in given):
            fail(f"--load trains nothing: leave out --{name.replace('_', '-')}")
        settings.update(read(load, given["load"], "a model that --save wrote"))
    args = argparse.Namespace(**{**settings, **given})
    if args.n_embd % args.n_head:
        fail(f"--n-head {args.n_head} does not divide --n-embd {args.n_embd}, "
             f"but {math.gcd(args.n_head, args.n_embd)} would")
    if args.save is not None:
        path, exists = os.path.abspath(args.save or "."), os.path.exists
        if exists(path) and exists(args.file) and os.path.samefile(path, args.file):
            fail(f"--save {args.save!r} would overwrite the data")
        if not os.path.isdir(os.path.dirname(path)) or (
                exists(path) and not os.path.isfile(path)):
            fail(f"--save {args.save!r}: give a file in a folder that exists")
    return args

def read(reader, path, what):
    """reader(path), or one line that says why the file cannot be used."""
    try:
        return reader(path)
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}; give {what}")
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError,
            ValueError) as error:
        fail(f"{path} is not {what}: {error}")

def read_data(path):
    """The documents of FILE, of which there must be some."""
    docs = read(load_docs, path, "a FILE of UTF-8 text, one document a line")
    if not docs or any("\0" in doc for doc in docs):
        fail(f"{path} is {'binary' if docs else 'empty'}; give a FILE of UTF-8 text")
    return docs

def save(path, model, docs, seed):
    """Write it all as JSON: whole, or not at all, and then the old file remains."""
    names = ("n_embd", "n_layer", "n_head", "block_size")
    text = json.dumps({
        "settings": {**{name: getattr(model, name) for name in names}, "seed": seed},
        "chars": model.chars, "docs": docs,
        "weights": {name: [[p.data for p in row] for row in matrix]
                    for name, matrix in model.state_dict.items()}})
    path = os.path.realpath(path)
    part = f"{path}.{os.getpid()}.part"
    try:
        with open(part, "x", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(part)

def load(path):
    """What save wrote, as settings; raises one of many errors if anything is amiss."""
    with open(path, encoding="ascii") as file:
        saved = json.load(file)
    settings, docs, weights = saved["settings"], saved["docs"], saved["weights"]
    names = ("n_embd", "n_layer", "n_head", "block_size", "seed")
    settings = {name: settings[name] for name in names}
    n_embd, n_layer, n_head, block_size, _ = settings.values()
    if any(type(number) is not int for number in settings.values()) or (
            min(n_embd, n_layer, n_head, block_size) < 1 or n_embd % n_head):
        raise ValueError("its settings make no sense")
    chars = sorted(set("".join(docs)))
    if type(docs) is not list or not docs or saved["chars"] != chars:
        raise ValueError("its characters are not those of its documents")
    found = [(name, len(rows), *set(map(len, rows))) for name, rows in weights.items()]
    expected = shapes(len(chars) + 1, n_embd, n_layer, block_size)
    if found != list(itertools.islice(expected, len(found) + 1)):
        raise ValueError("its weights do not fit its settings")
    weights = [w for rows in weights.values() for row in rows for w in row]
    if not all(type(w) in (int, float) and math.isfinite(w) for w in weights):
        raise ValueError("its weights are not all finite numbers")
    return {**settings, "docs": docs, "weights": weights}

def run_training(model, docs, args):
    """Train with one line a step until done, or Ctrl-C; return losses and seconds."""
    losses, pressed, terminal = [], [], sys.stdout.isatty()
    def stop(*_):
        pressed.append(True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\ninterrupted: samples follow; Ctrl-C again to quit", file=sys.stderr)
    before = signal.signal(signal.SIGINT, stop)
    start = time.perf_counter()
    try:
        for loss in train(model, docs, args.num_steps, args.learning_rate):
            losses.append(loss)
            step, end = len(losses), "\n"
            line = f"step {step:4d} / {args.num_steps} | loss {loss:.4f}"
            if terminal:  # rewritten in place, with a bar and the time left
                left = (time.perf_counter() - start) * (args.num_steps / step - 1)
                bar, end = "#" * (20 * step // args.num_steps), ""
                line = f"\r{line} | {bar:.<20} | {left:.0f}s left  "
            print(line, end=end, flush=True)
            if pressed:
                break
    finally:
        signal.signal(signal.SIGINT, before)
        if terminal:
            print()
    seconds = time.perf_counter() - start
    if not all(abs(p.data) < 1e6 for p in model.params):  # seen by no step after it
        raise FloatingPointError(f"diverged at step {len(losses)}")
    return losses, seconds

def learn(model, docs, args):
    """Train, save and measure; return what went wrong in saving, or None."""
    train_docs, held_out = split_docs(docs)
    losses, seconds = run_training(model, train_docs, args)
    trouble = None
    try:
        if args.save is not None:
            save(args.save, model, docs, args.seed)
    except (OSError, ValueError) as error:
        trouble = f"cannot save {args.save}: {error}"
    if losses:
        last = losses[-50:]
        print(f"mean loss last {len(last)} steps: {math.fsum(last) / len(last):.4f}")
    held_out_loss = f"{mean_loss(model, held_out):.4f}" if held_out else "none held out"
    print(f"held-out loss: {held_out_loss} "
          f"(uniform guess: {math.log(len(model.chars) + 1):.4f})")
    print(f"training time: {seconds:.2f}s", flush=True)
    return trouble

def run(args):
    """The command, from the data to the samples."""
    # A loaded model goes the same way as a new one, so that the same random numbers
    # are used up before samples are drawn; only then do its weights take their places.
    loaded = args.load is not None
    docs = args.docs if loaded else read_data(args.file)
    known = set(read_data(args.file) if loaded and args.file is not None else docs)
    rng = random.Random(args.seed)
    rng.shuffle(docs)
    chars = sorted(set("".join(docs)))
    if unknown := "".join(sorted(set(args.prompt) - set(chars))):
        fail(f"--prompt {args.prompt!r}: leave out {unknown!r}, not found in the data")
    if len(args.prompt) >= args.block_size:
        fail(f"--prompt {args.prompt!r} must be shorter than --block-size, "
             f"{args.block_size}")
    model = Model(chars, rng, args.n_embd, args.n_layer, args.n_head, args.block_size)
    print(f"num docs: {len(docs)}\nvocab size: {len(chars) + 1}\n"
          f"num params: {len(model.params)}", flush=True)
    too_long = sum(len(doc) >= args.block_size for doc in docs)
    if too_long and not loaded:
        print(f"note: {too_long} of {len(docs)} documents do not fit whole in "
              f"--block-size {args.block_size}; the rest is not used", file=sys.stderr)
    for p, weight in zip(model.params, args.weights if loaded else ()):
        p.data = float(weight)
    trouble = None if loaded else learn(model, docs, args)
    print("\n--- inference ---", flush=True)
    for i in range(1, args.num_samples + 1):
        text = generate(model, rng, args.temperature, args.prompt)
        print(f"sample {i:2d}: {text}" + " (in data)" * (text in known), flush=True)
    if trouble:
        fail(trouble, 1)

def main(argv=None):
    """Run the command line. Known errors become one line; a traceback is our bug."""
    for name in ("stdout", "stderr"):  # None where it was closed
        setattr(sys, name, getattr(sys, name) or open(os.devnull, "w"))
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        run(parse_args(argv))
    except KeyboardInterrupt:
        sys.exit(130)
    except ArithmeticError as error:
        fail(f"{error}; try a smaller --learning-rate", 1)
    except MemoryError:
        fail("out of memory; try smaller sizes", 1)
    except OSError as error:  # of standard output: a full disk, or closed by `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141) if isinstance(error, BrokenPipeError) else fail(str(error), 1)

if __name__ == "__main__":
    main()
