"""The same GPT in the usual way: a graph with one node for every single + and *.

Here a dot product is `sum(x * y for x, y in zip(a, b))`, as in other scripts of this
kind: n products and, starting from 0, n sums. The order of the backward pass is found
by a search through the graph at each step. This is how autograd is mostly taught, and
the benchmark compares microgpt.py with it. The two share no code, so that each can
check the losses and the gradients of the other.
"""

import math


class Value:
    """A number in the graph, with at most two children."""

    __slots__ = ("data", "grad", "children", "slopes")

    def __init__(self, data, children=(), slopes=()):
        self.data = data
        self.grad = 0.0
        self.children = children
        self.slopes = slopes  # dself/dchild, one for each child

    def __add__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    def __pow__(self, n):
        return Value(self.data**n, (self,), (n * self.data ** (n - 1),))

    def __radd__(self, other): return self + other
    def __neg__(self): return self * -1.0
    def __sub__(self, other): return self + -other
    def __truediv__(self, other): return self * other**-1

    def exp(self):
        e = math.exp(self.data)
        return Value(e, (self,), (e,))

    def log(self):
        return Value(math.log(self.data), (self,), (1.0 / self.data,))

    def relu(self):
        on = self.data > 0.0
        return Value(self.data if on else 0.0, (self,), (float(on),))

    def backward(self):
        """Sort the graph depth first, then apply the chain rule from this node down."""
        topo, visited, path = [], {self}, [(self, iter(self.children))]
        while path:
            node, unseen = path[-1]
            for child in unseen:
                if child not in visited:
                    visited.add(child)
                    path.append((child, iter(child.children)))
                    break
            else:  # all children are in topo by now
                topo.append(node)
                path.pop()
        self.grad = 1.0
        for node in reversed(topo):
            for child, slope in zip(node.children, node.slopes):
                child.grad += slope * node.grad


def weights_from(matrices):
    """name -> [n_out][n_in] floats, as leaves of a graph of Values of this file."""
    return {name: [[Value(x) for x in row] for row in rows]
            for name, rows in matrices.items()}


def dot(a, b):
    return sum(x * y for x, y in zip(a, b))


def linear(x, w):
    return [dot(row, x) for row in w]


def add(a, b):
    return [x + y for x, y in zip(a, b)]


def softmax(logits):
    largest = max(logit.data for logit in logits)
    exps = [(logit - largest).exp() for logit in logits]
    total = sum(exps)
    return [e / total for e in exps]


def rmsnorm(x):
    scale = (dot(x, x) * (1.0 / len(x)) + 1e-5) ** -0.5
    return [xi * scale for xi in x]


def attention(x, w, layer, keys, values, n_head):
    q = linear(x, w[f"layer{layer}.attn_wq"])
    keys.append(linear(x, w[f"layer{layer}.attn_wk"]))
    values.append(linear(x, w[f"layer{layer}.attn_wv"]))
    head_dim = len(x) // n_head
    heads = []
    for a in range(0, len(x), head_dim):
        b = a + head_dim
        probs = softmax([dot(q[a:b], k[a:b]) * head_dim**-0.5 for k in keys])
        heads += [dot(probs, [v[channel] for v in values]) for channel in range(a, b)]
    return linear(heads, w[f"layer{layer}.attn_wo"])


def document_loss(tokens, w, n_head, n_layer):
    """Mean over the positions of -log softmax(logits)[target], as one Value."""
    keys, values = [[] for _ in range(n_layer)], [[] for _ in range(n_layer)]
    losses = []
    for position in range(len(tokens) - 1):
        x = rmsnorm(add(w["wte"][tokens[position]], w["wpe"][position]))
        for i in range(n_layer):
            x = add(x, attention(rmsnorm(x), w, i, keys[i], values[i], n_head))
            hidden = [h.relu() ** 2 for h in linear(rmsnorm(x), w[f"layer{i}.mlp_fc1"])]
            x = add(x, linear(hidden, w[f"layer{i}.mlp_fc2"]))
        losses.append(-softmax(linear(x, w["lm_head"]))[tokens[position + 1]].log())
    return sum(losses) * (1.0 / len(losses))


def adam_step(weights, m, v, step, learning_rate):
    """Step 1, 2, ... of Adam; m and v hold a float for each parameter."""
    for i, p in enumerate(p for w in weights.values() for row in w for p in row):
        m[i] = 0.85 * m[i] + 0.15 * p.grad
        v[i] = 0.99 * v[i] + 0.01 * p.grad**2
        m_hat, v_hat = m[i] / (1 - 0.85**step), v[i] / (1 - 0.99**step)
        p.data -= learning_rate * m_hat / (math.sqrt(v_hat) + 1e-8)
        p.grad = 0.0


def train_step(tokens, weights, m, v, step, learning_rate, n_head, n_layer):
    """Step 1, 2, ... on one document; m and v hold a float for each parameter.

    Like the training loop of a script, it returns the loss and with it the graph.
    """
    loss = document_loss(tokens, weights, n_head, n_layer)
    loss.backward()
    adam_step(weights, m, v, step, learning_rate)
    return loss
