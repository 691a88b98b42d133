"""The same GPT on plain lists of floats, with a backward pass derived by hand.

There is no graph and no `Value`. Each layer has a forward function and next to it a
function that turns the gradient of its output into the gradients of its inputs. This
file shares no code with microgpt.py, so that the two can check each other. It is about
as fast as plain Python can be, which gives the benchmark a lower limit.
"""

import math
from operator import mul


def dot(a, b):
    return math.fsum(map(mul, a, b))


def zeros_like(matrix):
    return [[0.0] * len(row) for row in matrix]


# ---- layers: y = f(x), and dx = dL/dx computed from dy = dL/dy -----------------------


def linear(x, w):
    return [dot(x, row) for row in w]


def linear_backward(x, w, dy, dw):
    """y_o = sum_i w_oi x_i, so dw_oi += dy_o x_i and dx_i = sum_o w_oi dy_o."""
    dx = [0.0] * len(x)
    for row, dw_row, g in zip(w, dw, dy):
        if g:
            dw_row[:] = [d + g * xi for d, xi in zip(dw_row, x)]
            dx = [d + g * wi for d, wi in zip(dx, row)]
    return dx


def rmsnorm(x):
    scale = 1 / math.sqrt(dot(x, x) / len(x) + 1e-5)
    return [xi * scale for xi in x], scale


def rmsnorm_backward(y, scale, dy):
    """y = x s with ds/dx_i = -s^3 x_i / n, so dx_i = s (dy_i - y_i mean(dy . y))."""
    mean = dot(dy, y) / len(y)
    return [scale * (d - yi * mean) for d, yi in zip(dy, y)]


def softmax(logits):
    largest = max(logits)
    exps = [math.exp(logit - largest) for logit in logits]
    total = math.fsum(exps)
    return [e / total for e in exps]


def softmax_backward(p, dp):
    """dp_i/dz_j = p_i (1[i = j] - p_j), so dz_i = p_i (dp_i - sum_j dp_j p_j)."""
    inner = dot(dp, p)
    return [pi * (d - inner) for pi, d in zip(p, dp)]


def add(a, b):
    return [ai + bi for ai, bi in zip(a, b)]


# ---- the model: one document forward, then backward ----------------------------------


def forward(tokens, weights, n_head, n_layer):
    """Return the mean cross-entropy and, by position, what the backward pass needs."""
    caches, losses = [], []
    keys, values = [[] for _ in range(n_layer)], [[] for _ in range(n_layer)]
    for position, (token, target) in enumerate(zip(tokens, tokens[1:])):
        cache = {"embed": rmsnorm(add(weights["wte"][token], weights["wpe"][position]))}
        x = cache["embed"][0]
        for layer in range(n_layer):
            w = lambda name: weights[f"layer{layer}.{name}"]  # noqa: B023, E731
            x, cache[layer, "attention"] = attention(
                x, w, keys[layer], values[layer], n_head
            )
            x, cache[layer, "mlp"] = mlp(x, w)
        probs = softmax(linear(x, weights["lm_head"]))
        cache["head"] = (x, probs, target)
        losses.append(-math.log(probs[target]))
        caches.append(cache)
    return math.fsum(losses) / len(losses), (caches, keys, values)


def attention(x, w, keys, values, n_head):
    normed, scale = rmsnorm(x)
    q = linear(normed, w("attn_wq"))
    keys.append(linear(normed, w("attn_wk")))
    values.append(linear(normed, w("attn_wv")))
    head_dim = len(x) // n_head
    probs, mixed = [], []
    for start in range(0, len(x), head_dim):
        head = slice(start, start + head_dim)
        p = softmax([dot(q[head], k[head]) / math.sqrt(head_dim) for k in keys])
        mixed += [dot(p, column) for column in zip(*(v[head] for v in values))]
        probs.append(p)
    return add(x, linear(mixed, w("attn_wo"))), (normed, scale, q, probs, mixed)


def mlp(x, w):
    normed, scale = rmsnorm(x)
    hidden = [max(h, 0.0) for h in linear(normed, w("mlp_fc1"))]
    squared = [h * h for h in hidden]
    return add(x, linear(squared, w("mlp_fc2"))), (normed, scale, hidden, squared)


def backward(tokens, weights, n_head, n_layer, cached):
    """Return dL/dw for every weight; go from the last position to the first."""
    caches, keys, values = cached
    grads = {name: zeros_like(matrix) for name, matrix in weights.items()}
    dkeys = [zeros_like(k) for k in keys]
    dvalues = [zeros_like(v) for v in values]
    for position in reversed(range(len(caches))):
        cache = caches[position]
        x, probs, target = cache["head"]
        dlogits = [p / len(caches) for p in probs]
        dlogits[target] -= 1 / len(caches)
        dx = linear_backward(x, weights["lm_head"], dlogits, grads["lm_head"])
        for layer in reversed(range(n_layer)):
            w = lambda name: [d[f"layer{layer}.{name}"] for d in (weights, grads)]  # noqa: B023, E731
            dx = mlp_backward(dx, w, cache[layer, "mlp"])
            dx = attention_backward(
                dx, w, cache[layer, "attention"], position, n_head,
                keys[layer], values[layer], dkeys[layer], dvalues[layer],
            )  # fmt: skip
        dx = rmsnorm_backward(*cache["embed"], dx)
        for row in (grads["wte"][tokens[position]], grads["wpe"][position]):
            row[:] = add(row, dx)
    return grads


def mlp_backward(dx, w, cache):
    normed, scale, hidden, squared = cache
    (fc1, dfc1), (fc2, dfc2) = w("mlp_fc1"), w("mlp_fc2")
    dsquared = linear_backward(squared, fc2, dx, dfc2)
    dhidden = [2 * h * d for h, d in zip(hidden, dsquared)]
    dnormed = linear_backward(normed, fc1, dhidden, dfc1)
    return add(dx, rmsnorm_backward(normed, scale, dnormed))


def attention_backward(dx, w, cache, position, n_head, keys, values, dkeys, dvalues):
    """Later positions were processed before, so dkeys[position] is complete by now."""
    normed, scale, q, probs, mixed = cache
    (wq, dwq), (wk, dwk), (wv, dwv) = w("attn_wq"), w("attn_wk"), w("attn_wv")
    wo, dwo = w("attn_wo")
    dmixed = linear_backward(mixed, wo, dx, dwo)
    dq = [0.0] * len(q)
    head_dim = len(q) // n_head
    for head_index, p in enumerate(probs):
        head = slice(head_index * head_dim, (head_index + 1) * head_dim)
        dout = dmixed[head]
        dp = [dot(dout, values[t][head]) for t in range(position + 1)]
        for t, (pt, ds) in enumerate(zip(p, softmax_backward(p, dp))):
            ds /= math.sqrt(head_dim)
            dvalues[t][head] = [d + pt * g for d, g in zip(dvalues[t][head], dout)]
            dkeys[t][head] = [d + ds * qi for d, qi in zip(dkeys[t][head], q[head])]
            dq[head] = [d + ds * ki for d, ki in zip(dq[head], keys[t][head])]
    dnormed = linear_backward(normed, wq, dq, dwq)
    dnormed = add(dnormed, linear_backward(normed, wk, dkeys[position], dwk))
    dnormed = add(dnormed, linear_backward(normed, wv, dvalues[position], dwv))
    return add(dx, rmsnorm_backward(normed, scale, dnormed))


class Adam:
    """Adam (Kingma and Ba, 2014), with the bias corrections as in the paper."""

    def __init__(self, weights):
        self.m = {name: zeros_like(matrix) for name, matrix in weights.items()}
        self.v = {name: zeros_like(matrix) for name, matrix in weights.items()}
        self.steps = 0

    def step(self, weights, grads, learning_rate):
        self.steps += 1
        correction1, correction2 = 1 - 0.85**self.steps, 1 - 0.99**self.steps
        for name, matrix in weights.items():
            for w, g, m, v in zip(matrix, grads[name], self.m[name], self.v[name]):
                m[:] = [0.85 * mi + 0.15 * gi for mi, gi in zip(m, g)]
                v[:] = [0.99 * vi + 0.01 * gi * gi for vi, gi in zip(v, g)]
                m_hat = [mi / correction1 for mi in m]
                v_hat = [vi / correction2 for vi in v]
                w[:] = [
                    wi - learning_rate * mi / (math.sqrt(vi) + 1e-8)
                    for wi, mi, vi in zip(w, m_hat, v_hat)
                ]


def train_step(tokens, weights, adam, learning_rate, n_head, n_layer):
    """One step on the tokens of one document; return the loss and the gradients."""
    loss, cached = forward(tokens, weights, n_head, n_layer)
    grads = backward(tokens, weights, n_head, n_layer, cached)
    adam.step(weights, grads, learning_rate)
    return loss, grads
