"""microgpt: a complete GPT (generative pre-trained transformer) in plain Python.

Read it top to bottom, like lecture notes; `python3 microgpt.py` runs it. Below, [n] is
a list of n numbers, and [n_out][n_in] is a matrix: n_out rows of n_in numbers each.
"""
import contextlib, math, operator
def require(condition, message):
    """Raise ValueError with the message unless the condition holds."""
    if not condition: raise ValueError(message)

# ## 1. Data and tokens ################################################################
# A language model predicts each token (the target) of a text from the ones before it.
# Our text is a list of documents, each a name; the tokens are characters, represented
# by integers called ids. One more token, BOS ("beginning of sequence"), marks both ends
# of a document. When the model predicts the second BOS, the document is complete.

def load_docs(path):
    """Return the nonempty lines of a UTF-8 file, without surrounding whitespace."""
    with open(path, encoding="utf-8-sig") as file:  # -sig skips a byte-order mark
        return [line.strip() for line in file if line.strip()]

def build_vocab(docs):
    """Return the sorted distinct characters; the id of a character is its index."""
    return sorted(set("".join(docs)))

def split_docs(docs):
    """Split shuffled documents: 90% to train on, up to 200 of the rest to hold out."""
    num_train = len(docs) - len(docs) // 10
    seen = set(docs[:num_train])  # test only on unseen names: memorizing must not help
    return docs[:num_train], [d for d in docs[num_train:][:200] if d not in seen]

def tokenize(doc, chars, block_size):
    """'ana' -> [26, 0, 13, 0, 26] for a-z; at most block_size + 1 tokens."""
    require(set(doc) <= set(chars), f"{doc!r} has characters unknown to the model")
    bos = len(chars)  # the next id after those of the characters
    # gpt() can read only block_size tokens; one more is predicted but never read.
    return [bos, *map(chars.index, doc), bos][:block_size + 1]

# ## 2. Autograd #######################################################################
# The model is a function with thousands of adjustable numbers, its parameters. The loss
# is one number that says how wrong the predictions are. To reduce it, we need each
# parameter's gradient: the derivative of the loss with respect to that parameter. Each
# Value is a node of a graph from parameters to loss; its children are the Values used
# to compute it. A child affects the loss through all nodes that use it, so dloss/dchild
# is the sum over these nodes of dloss/dnode * dnode/dchild: the chain rule. Applying it
# from loss to leaves (Values without children) is backpropagation (Linnainmaa, 1970).

class Value:
    """A number that knows how it was computed and what its gradient is."""
    __slots__ = ("data", "grad", "_children", "_local_grads")  # saves memory
    tape = None  # an optimization: recording(), below, makes it a list of new nodes
    def __init__(self, data, children=(), local_grads=()):
        self.data = float(data)
        self.grad = 0.0  # dloss/dself, once loss.backward() has computed it
        self._children = children  # the Values that self was computed from
        self._local_grads = local_grads  # dself/dchild for each child
        if children and Value.tape is not None: Value.tape.append(self)
    def __add__(self, other):  # d(a + b)/da = 1, d(a + b)/db = 1
        if not isinstance(other, Value): other = Value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0))
    def __mul__(self, other):  # d(a b)/da = b, d(a b)/db = a
        if not isinstance(other, Value): other = Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))
    def __pow__(self, n):  # d(a^n)/da = n a^(n-1); n is a plain number, not a Value
        return Value(self.data ** n, (self,), (n * self.data ** (n - 1),))
    def exp(self): return Value(math.exp(self.data), (self,), (math.exp(self.data),))
    def log(self): return Value(math.log(self.data), (self,), (1 / self.data,))
    def relu(self):  # d(max(a, 0))/da is 1 if a > 0, otherwise 0
        return Value(max(self.data, 0.0), (self,), (1.0,) if self.data > 0 else (0.0,))
    def __neg__(self): return self * -1
    def __sub__(self, other): return self + -other
    def __truediv__(self, other): return self * other ** -1
    __radd__, __rmul__ = __add__, __mul__  # for 1 + a, 2 * a; sum() starts with 0 + a
    def __rsub__(self, other): return -self + other
    def __rtruediv__(self, other): return self ** -1 * other
    def __repr__(self): return f"Value(data={self.data}, grad={self.grad})"

    def backward(self, order=None):
        """Add dself/dleaf to the grad of each leaf that self (the loss) depends on."""
        # A node's gradient is complete once all nodes that use it have contributed. So
        # we go backward through a list in which each node comes after its children.
        order = order or self.topological_order()  # train() has such a list: its tape
        # Leaves are not listed: their gradients add up over calls; train() resets them.
        for node in order: node.grad = 0.0  # in case an earlier backward() set it
        self.grad = 1.0  # dself/dself
        for node in reversed(order):
            if (grad := node.grad) == 0: continue  # nothing to pass on: saves time
            for child, local_grad in zip(node._children, node._local_grads):
                child.grad += local_grad * grad  # += sums over all uses (two in a * a)

    def topological_order(self):
        """List self and the nodes it depends on, except leaves, children first."""
        # If Python did not limit recursion, visit(self) would suffice; visit(node) is:
        #
        #     if node not in visited:
        #         visited.add(node)
        #         for child in node._children: visit(child)  # if not a leaf
        #         order.append(node)
        order, visited, stack = [], set(), [(self, False)]  # (node, False): visit node
        while stack:
            node, children_visited = stack.pop()
            if children_visited: order.append(node)
            elif node not in visited:
                visited.add(node)
                stack.append((node, True))  # below its children, so popped after them
                stack += [(c, False) for c in node._children if c._children]
        return order

@contextlib.contextmanager
def recording():
    """`with recording() as tape:` lists new nodes, except leaves, children first."""
    Value.tape = tape = []  # nodes are made after their children, so in the right order
    try:
        yield tape  # here, the block runs
        require(Value.tape is tape, "another thread has begun to train: use just one")
    finally: Value.tape = None  # stop recording, even after an error or Ctrl-C

def dot(x, w):
    """Two lists, [n] and [n] -> one Value: x[0] w[0] + ... + x[n-1] w[n-1]."""
    # d(x . w)/dx[i] = w[i], d(x . w)/dw[i] = x[i]. One node with 2n children (x + w
    # joins lists) instead of 2n nodes for * and + makes training 4 to 5 times as fast.
    if len(x) != len(w): raise ValueError(f"lengths {len(x)} and {len(w)} differ")
    x_data, w_data = [xi.data for xi in x], [wi.data for wi in w]
    return Value(sum(map(operator.mul, x_data, w_data)), x + w, w_data + x_data)

# ## 3. Parameters #####################################################################
# Parameters start random: equal ones would get equal gradients, and so stay equal. They
# start small: at first, the model should find all tokens about equally likely.

def matrix(n_out, n_in, rng):
    """[n_out][n_in] Values from a normal distribution with standard deviation 0.08."""
    return [[Value(rng.gauss(0, 0.08)) for _ in range(n_in)] for _ in range(n_out)]

class Model:
    """Settings, params (4,192 by default for a-z), and matrices (see section 4)."""
    def __init__(self, chars, rng, n_embd=16, n_layer=1, n_head=4, block_size=16):
        require(n_head > 0 and n_embd % n_head == 0, f"{n_head=} must divide {n_embd=}")
        self.chars = chars            # without BOS: vocab_size is len(chars) + 1
        self.n_embd = n_embd          # a token becomes x: n_embd numbers ("channels")
        self.n_layer, self.layers = n_layer, range(n_layer)  # layer = attention + MLP
        self.n_head = n_head          # attention works in n_head parts, called heads
        self.block_size = block_size  # context length: how many tokens gpt() can read
        w = self.state_dict = {}  # wte, wpe: embeddings; lm_head: language-model output
        w["wte"] = matrix(len(chars) + 1, n_embd, rng)      # row i: token i as a vector
        w["wpe"] = matrix(block_size, n_embd, rng)          # row i: position i likewise
        w["lm_head"] = matrix(len(chars) + 1, n_embd, rng)  # dot(x, row i): i's score
        for i in range(n_layer):  # see attention() and mlp(); fc: "fully connected"
            w[f"layer{i}.attn_wq"] = matrix(n_embd, n_embd, rng)  # query: what x seeks
            w[f"layer{i}.attn_wk"] = matrix(n_embd, n_embd, rng)  # key: how x is found
            w[f"layer{i}.attn_wv"] = matrix(n_embd, n_embd, rng)  # value: what x offers
            w[f"layer{i}.attn_wo"] = matrix(n_embd, n_embd, rng)  # combines the heads
            w[f"layer{i}.mlp_fc1"] = matrix(4 * n_embd, n_embd, rng)  # 4: as in GPT-2
            w[f"layer{i}.mlp_fc2"] = matrix(n_embd, 4 * n_embd, rng)  # back to n_embd
        self.params = [p for rows in w.values() for row in rows for p in row]

# ## 4. The model ######################################################################
# Our GPT reads one token at a time and gives each possible next token a score (logit).
# Inside, a token becomes its embedding, a vector x of n_embd channels. Each layer adds
# to x twice: attention adds what it gathers from the tokens read so far, and the MLP
# (multilayer perceptron) adds what it computes from x alone. Adding f(x) to x is a
# residual connection: its derivative 1 + f'(x) lets gradients through even if f' is 0.

def linear(x, w):
    """[n_in], [n_out][n_in] -> [n_out]: the matrix-vector product."""
    return [dot(x, row) for row in w]

def softmax(logits):
    """[n] -> [n]: turn scores z into probabilities exp(z_i) / sum of all exp(z_j)."""
    largest = max(logit.data for logit in logits)  # cancels out: needs no gradient
    exps = [(logit - largest).exp() for logit in logits]  # no overflow, same ratios
    scale = sum(exps) ** -1  # 1 / total, computed once
    return [e * scale for e in exps]

def rmsnorm(x):
    """[n] -> [n]: x divided by its root mean square (Zhang and Sennrich, 2019)."""
    scale = (dot(x, x) / len(x) + 1e-5) ** -0.5  # 1e-5 prevents division by zero
    return [xi * scale for xi in x]  # so attention and the MLP get no huge or tiny x

def attention(x, keys, values, wq, wk, wv, wo, n_head):
    """[n_embd] -> [n_embd]; also append this token's key and value to the two lists."""
    # Tokens share information only here (Vaswani et al., 2017). Each has a query (what
    # it seeks), a key (how it is found), and a value (what it offers). Each gets the
    # mean of the values so far, weighted by how well its query fits each token's key.
    q = linear(x, wq)
    keys.append(linear(x, wk))
    values.append(linear(x, wv))
    # Later tokens are not in these lists (the "KV cache") yet, so the model cannot peek
    # at its target in training. Other programs hide later tokens with a "causal mask".
    head_dim = len(x) // n_head
    output = []  # each head can seek something different, in its slice of the vectors
    for start in range(0, len(x), head_dim):
        head = slice(start, start + head_dim)
        # A query fits a key if their dot product is large. A sum of n random terms near
        # +1 or -1 is about sqrt(n) in size, so we divide by that. Otherwise, softmax()
        # would give one weight near 1 and hardly react to changes in the scores.
        scores = [dot(q[head], key[head]) / math.sqrt(head_dim) for key in keys]
        weights = softmax(scores)  # one for each token read so far
        for channel in range(start, start + head_dim):  # weighted mean of the values
            output.append(dot(weights, [value[channel] for value in values]))
    return linear(output, wo)  # wo mixes the channels of all heads

def mlp(x, fc1, fc2):
    """[n_embd] -> [n_embd]: widen, apply squared ReLU (So et al., 2021), and narrow."""
    # Without a nonlinearity, one matrix could replace both. Squaring ReLU is optional.
    return linear([h.relu() ** 2 for h in linear(x, fc1)], fc2)

def add(x, y):
    """[n], [n] -> [n]: the sum of two vectors."""
    require(len(x) == len(y), f"cannot add vectors of lengths {len(x)} and {len(y)}")
    return [xi + yi for xi, yi in zip(x, y)]

def gpt(token_id, pos_id, keys, values, model):
    """One token -> [vocab_size] logits; keys, values: [layers][tokens read][n_embd]."""
    w, n_head = model.state_dict, model.n_head
    # Attention takes a mean, which ignores order, so we add a position vector to the
    # token's. The sum is small: without rmsnorm(), later additions could drown it out.
    x = rmsnorm(add(w["wte"][token_id], w["wpe"][pos_id]))
    for i in model.layers:
        wq, wk, wv, wo = (w[f"layer{i}.attn_{m}"] for m in ("wq", "wk", "wv", "wo"))
        x = add(x, attention(rmsnorm(x), keys[i], values[i], wq, wk, wv, wo, n_head))
        x = add(x, mlp(rmsnorm(x), w[f"layer{i}.mlp_fc1"], w[f"layer{i}.mlp_fc2"]))
    return linear(x, w["lm_head"])  # GPT-2 normalizes x first; here, this does not help

# ## 5. Loss and Adam ##################################################################
# The loss for a token to which the model gave probability p is its surprise, -log(p).
# A text's probability is the product of its tokens', so their losses add up. Guessing
# among 27 tokens costs log(27) = 3.30 nats (natural log); our final 2.3 is like
# guessing among e^2.3 (10). Gradient descent moves parameters against their gradients.

def cross_entropy(logits, target):
    """[vocab_size], id -> one Value: -log(softmax(logits)[target]), in nats."""
    largest = max(logit.data for logit in logits)
    z = [logit - largest for logit in logits]  # as in softmax()
    total = sum(zi.exp() for zi in z)
    # This is -log(exp(z[target]) / total), but does not fail if exp() is rounded to 0.
    return total.log() - z[target]

def adam(params, m, v, t, learning_rate, beta1=0.85, beta2=0.99, eps_adam=1e-8):
    """Do step t >= 1 of Adam, a form of gradient descent (Kingma and Ba, 2014)."""
    correction1, correction2 = 1 - beta1 ** t, 1 - beta2 ** t
    for i, p in enumerate(params):
        # One document's gradient g is noisy, so m is a running mean of g, and v of g^2.
        m[i] = beta1 * m[i] + (1 - beta1) * p.grad  # by default, 85% old, 15% new
        v[i] = beta2 * v[i] + (1 - beta2) * p.grad * p.grad  # by default, 99% old
        # Both start at 0: after t steps with the same g, m is only (1 - beta1^t) g.
        m_hat = m[i] / correction1
        v_hat = v[i] / correction2
        # For constant g, m_hat / sqrt(v_hat) is g / |g|: p moves by learning_rate even
        # if g is tiny: one rate suits all. If g keeps changing sign, p hardly moves.
        p.data -= learning_rate * m_hat / (math.sqrt(v_hat) + eps_adam)  # avoids 0 / 0

# ## 6. Training loop ##################################################################
# Each step takes a document through a forward pass, a backward pass, and an update.

def document_losses(model, doc):
    """Return one loss per token that tokenize() returns, except the first BOS."""
    tokens = tokenize(doc, model.chars, model.block_size)
    keys, values = [[] for _ in model.layers], [[] for _ in model.layers]  # none yet
    losses = []
    for pos_id in range(len(tokens) - 1):
        token_id, target = tokens[pos_id], tokens[pos_id + 1]
        logits = gpt(token_id, pos_id, keys, values, model)
        losses.append(cross_entropy(logits, target))
    return losses

def train(model, docs, num_steps=1000, learning_rate=0.01):
    """Yield the loss of each step: `for loss in train(model, docs): print(loss)`."""
    require(docs, "there are no documents to train on")
    m, v = [0.0] * len(model.params), [0.0] * len(model.params)  # Adam's running means
    for step in range(num_steps):
        doc = docs[step % len(docs)]
        with recording() as tape:  # 1. forward pass; the tape cuts the time by a third
            losses = document_losses(model, doc)
            loss = sum(losses) / len(losses)  # long names count no more than short ones
        for p in model.params: p.grad = 0.0  # because backward() adds to the gradients
        loss.backward(tape)  # 2. backward pass, through the tape in reverse
        rate = learning_rate * (1 - step / num_steps)  # decays, so training can settle
        adam(model.params, m, v, step + 1, rate)  # 3. update
        yield loss.data  # here, the caller's loop runs: it can print or stop
        del loss, losses, tape  # frees this graph before the next one is built

def mean_loss(model, docs):
    """Return the mean loss per token over all documents, in nats, without training."""
    require(docs, "there are no documents to measure the loss on")
    losses = [loss.data for doc in docs for loss in document_losses(model, doc)]
    return sum(losses) / len(losses)

# ## 7. Inference loop #################################################################
# To invent a name, we ask the model what follows BOS, draw a token from the predicted
# probabilities, make it the next input, and so on until BOS is drawn. In training, the
# next input comes from the data; here (after the prompt, if any) the model chooses it.

def generate(model, rng, temperature=0.5, prompt=""):
    """Return the prompt and its continuation, at most block_size characters in all."""
    require(len(prompt) < model.block_size, f"{prompt!r} is too long to continue")
    prompt_ids = tokenize(prompt, model.chars, model.block_size)[1:-1]  # without BOS
    keys, values = [[] for _ in model.layers], [[] for _ in model.layers]
    text, token_id = "", len(model.chars)  # begin with BOS
    for pos_id in range(model.block_size):
        logits = gpt(token_id, pos_id, keys, values, model)  # fills keys, values
        if pos_id < len(prompt_ids): token_id = prompt_ids[pos_id]  # given, not drawn
        else:
            # A temperature < 1 widens gaps: likely tokens gain. At 0, the top one wins.
            probs = softmax([logit / max(temperature, 1e-9) for logit in logits])
            token_id = rng.choices(range(len(probs)), [p.data for p in probs])[0]
        if token_id == len(model.chars): break  # BOS: the document is complete
        text += model.chars[token_id]
    return text
# After this file, read nanoGPT (PyTorch). The README says how GPT-2 differs from ours.

# ## 8. The command line ###############################################################
# run() is the program in brief. attempt(name, f, x) is f(x), but adds name to errors.
import argparse, gc, json, os, random, sys, time

def run(args):
    """The program: load data, make or load a model, train it, and sample from it."""
    docs = attempt(args.file, load_docs, args.file)
    require(docs and "\0" not in "".join(docs), f"{args.file} is empty or not text")
    rng = random.Random(args.seed)
    rng.shuffle(docs)
    if args.load is None:
        model = Model(build_vocab(docs), rng, args.n_embd, args.n_layer, args.n_head,
                      args.block_size)
    else:
        model = attempt(args.load, load, args.load)
        if not args.num_steps: docs = [d for d in docs if set(d) <= set(model.chars)]
    train_docs, held_out = split_docs(docs)
    check(args, docs, model)  # refuses, for example, to train on unknown characters
    print(f"num docs: {len(docs)}\nvocab size: {len(model.chars) + 1}")
    print(f"num params: {len(model.params)}", flush=True)
    seconds, failure = learn(model, train_docs, args)  # runs train(), prints, saves
    loss = f"{mean_loss(model, held_out):.4f}" if held_out else "none held out"
    print(f"held-out loss: {loss} (uniform guess: {math.log(len(model.chars)+1):.4f})")
    print(f"training time: {seconds:.2f}s\n\n--- inference ---", flush=True)
    for i in range(1, args.num_samples + 1):
        sample = generate(model, rng, args.temperature, args.prompt)
        print(f"sample {i:2d}: {sample}" + " (in data)" * (sample in docs), flush=True)
    if failure: raise failure  # the model could not be saved, but samples come first

FLAGS = {  # name: (default, minimum, help); with --load, the model sets the sizes
    "n_embd": (16, 1, "channels of each token's vector"),
    "n_layer": (1, 1, "layers, each with attention and an MLP"),
    "n_head": (4, 1, "attention heads; must divide n_embd"),
    "block_size": (16, 1, "context length, in tokens"),
    "num_steps": (1000, 0, "training steps, one document each; default with --load: 0"),
    "learning_rate": (0.01, 0, "learning rate at the first step; decays toward 0"),
    "seed": (42, 0, "seed of the random number generator"),
    "temperature": (0.5, 0, "sampling temperature; 0 takes the likeliest token"),
    "num_samples": (20, 0, "number of documents to generate")}

def parse_args(argv):
    """Return the settings; raise a ValueError if a flag is out of range."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description="Train a GPT.")
    parser.error, add = lambda message: require(False, message), parser.add_argument
    data = os.path.join(os.path.dirname(os.path.realpath(__file__)), "input.txt")
    add("file", nargs="?", default=data if os.path.isfile(data) else "input.txt",
        metavar="FILE", help="UTF-8 text, one document per line (default: input.txt)")
    for name, (default, _, text) in FLAGS.items():
        add("--" + name.replace("_", "-"), type=type(default), metavar="N",
            help=f"{text} (default: {default})")
    add("--prompt", metavar="TEXT", default="", help="begin every sample with TEXT")
    add("--save", metavar="FILE", help="write the trained model to FILE as JSON")
    add("--load", metavar="FILE", help="start from a saved model instead of a new one")
    args = parser.parse_args(argv)
    require([] not in vars(args).values(), "-- is not a value")  # from --save=--
    if args.load and args.num_steps is None: args.num_steps = 0
    for name, (default, least, _) in FLAGS.items():
        value, flag = getattr(args, name), "--" + name.replace("_", "-")
        require(value is None or least <= value < 1e100, f"{flag} cannot be {value}")
        require(value is None or not (least and args.load), f"{flag} is set by --load")
        if value is None: setattr(args, name, default)
    return args

def attempt(what, function, *args):
    """Return function(*args); turn an error into a ValueError that names the input."""
    try: return function(*args)
    except (OSError, RecursionError, ValueError) as error:
        raise ValueError(f"{what}: {error}") from error

def check(args, docs, model):
    """Refuse data, a prompt, or a save path that will not work with the model."""
    unknown = sorted(set("".join(docs) + args.prompt) - set(model.chars))
    shown = ", ".join(f"{char!r} (U+{ord(char):04X})" for char in unknown[:9])
    require(not unknown, f"not in the model's vocabulary: {shown}")
    attempt("--prompt", generate, model, random, 1, args.prompt)
    if (path := args.save) is not None:
        if os.path.isfile(path): attempt(f"--save: {path} is not a model", load, path)
        else: require(path and not os.path.exists(path), f"--save {path!r}: not a file")
        attempt("--save", save, path, model, True)

def learn(model, docs, args):
    """Train and save the model, showing each step; return (seconds, save error)."""
    losses, seconds, failure, start = [], 0.0, None, time.perf_counter()
    terminal = sys.stdout.isatty()  # if so, each line replaces the one before
    try:
        steps = train(model, docs, args.num_steps, args.learning_rate)
        for step, loss in enumerate(steps if args.num_steps else [], 1):
            losses.append(loss)
            seconds = time.perf_counter() - start
            line = f"step {step:4d} / {args.num_steps} | loss {loss:.4f}"
            if terminal:
                line += f" | {seconds * (args.num_steps / step - 1):.0f}s left  "
                line = line[:os.get_terminal_size().columns - 1]
            print(line, end="\r" if terminal else "\n", flush=True)
            if not loss < 1e4: break  # too large, or nan: diverged
    except (KeyboardInterrupt, OSError):  # OSError: the output has been closed
        if not losses: raise
    except ArithmeticError: losses.append(math.inf)
    if losses and terminal: print()
    if not all(abs(x) < 1e4 for x in losses[-1:] + [p.data for p in model.params]):
        raise ArithmeticError("training diverged; try a smaller --learning-rate")
    if args.save is not None:
        try: save(args.save, model)
        except OSError as error: failure = OSError(f"cannot save the model: {error}")
        else: print(f"note: saved {args.save!r} at step {len(losses)}", file=sys.stderr)
    if n := min(len(losses), 50):
        print(f"mean loss last {n} steps: {sum(losses[-n:]) / n:.4f}", flush=True)
    if len(losses) < args.num_steps:
        print("note: interrupted; samples follow; Ctrl-C quits", file=sys.stderr)
    return seconds, failure

def save(path, model, dry_run=False):
    """Write the model as JSON, all or nothing; a dry run does all but replace path."""
    saved = {"chars": model.chars, "n_head": model.n_head, "weights": model.state_dict}
    path = os.path.realpath(path)
    part = f"{path}.{os.getpid()}.part"
    try:
        with open(part, "w", encoding="ascii") as file:
            file.write(json.dumps(saved, default=lambda p: p.data))
        if not dry_run: os.replace(part, path)
    finally:
        if os.path.exists(part): os.remove(part)

def load(path):
    """Return the model that save() wrote; a ValueError names the first faulty part."""
    with open(path, encoding="utf-8-sig") as file: text = file.read()
    saved = json.loads(text)
    require(type(saved) is dict, "it is not a JSON object")
    for key, kind in (("chars", list), ("n_head", int), ("weights", dict)):
        require(type(saved.get(key)) is kind, f"{key!r} is not of type {kind.__name__}")
    chars, n_head, weights = saved["chars"], saved["n_head"], saved["weights"]
    require(chars == sorted(set("".join(map(str, chars)))), "'chars' is not in order")
    wpe = weights.get("wpe")
    require(type(wpe) is list and wpe and type(wpe[0]) is list and wpe[0], "no 'wpe'")
    n_embd, n_layer = len(wpe[0]), max(1, sum("attn_wq" in name for name in weights))
    num_params = n_embd * (2 * len(chars) + len(wpe) + 12 * n_layer * n_embd)
    require(2 * num_params < len(text), "the file is too small for such a model")
    model = Model(chars, random, n_embd, n_layer, n_head, len(wpe))
    for name, matrix in model.state_dict.items():
        rows, n_in = weights.pop(name, None), len(matrix[0])
        require(type(rows) is list and len(rows) == len(matrix) and all(
            type(row) is list and len(row) == n_in and all(
                type(x) in (int, float) and abs(x) < 1e4 for x in row) for row in rows),
            f"{name!r} is not {len(matrix)} rows of {n_in} numbers below 1e4 in size")
        for params, numbers in zip(matrix, rows):
            for p, number in zip(params, numbers): p.data = float(number)
    require(not weights, f"unknown matrices: {[*weights][:9]}")
    return model

def main(argv=None):
    """Run the command line and set the exit status. Any traceback is a bug."""
    sys.stdout.reconfigure(errors="backslashreplace")
    if sys.implementation.name == "cpython": gc.disable()  # graphs have no cycles
    elif argv is None and os.name == "posix" and "PYPY_GC_NURSERY" not in os.environ:
        os.environ["PYPY_GC_NURSERY"] = "64M"  # PyPy: room for a graph, twice as fast
        os.execv(sys.executable, [sys.executable, *sys.argv])
    try: run(parse_args(argv))
    except KeyboardInterrupt: os._exit(130)  # 128 + SIGINT
    except BrokenPipeError: os._exit(141)  # 128 + SIGPIPE: stdout was closed
    except (ArithmeticError, OSError, ValueError) as error:
        print("microgpt: error:", *str(error).split(), file=sys.stderr)
        if isinstance(error, OSError): sys.stdout = None  # it may be unusable
        sys.exit(2 if isinstance(error, ValueError) else 1)

if __name__ == "__main__": main()
