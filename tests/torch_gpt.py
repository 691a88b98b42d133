"""The same GPT in PyTorch, in float64, with all positions computed at once.

PyTorch's own functions do the work (rms_norm, scaled_dot_product_attention,
cross_entropy, Adam), so this file shares no code with microgpt.py.
"""

import torch
import torch.nn.functional as F


def parameters(weights):
    """name -> [n_out][n_in] floats, as tensors that require gradients."""
    return {
        name: torch.tensor(matrix, dtype=torch.float64, requires_grad=True)
        for name, matrix in weights.items()
    }


def optimizer(params, learning_rate):
    return torch.optim.Adam(
        params.values(), lr=learning_rate, betas=(0.85, 0.99), eps=1e-8
    )


def logits(params, tokens, n_head, n_layer):
    """[time] token ids -> [time, vocab_size]."""

    def norm(x):
        return F.rms_norm(x, x.shape[-1:], eps=1e-5)

    def heads(x):  # [time, n_embd] -> [n_head, time, head_dim]
        return x.view(len(x), n_head, -1).transpose(0, 1)

    ids = torch.tensor(tokens)
    x = norm(params["wte"][ids] + params["wpe"][: len(ids)])
    for i in range(n_layer):
        w = {name: params[f"layer{i}.{name}"] for name in NAMES}
        h = norm(x)
        q, k, v = (heads(h @ w[f"attn_w{name}"].T) for name in "qkv")
        heads_out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + heads_out.transpose(0, 1).reshape(x.shape) @ w["attn_wo"].T
        x = x + F.relu(norm(x) @ w["mlp_fc1"].T).square() @ w["mlp_fc2"].T
    return x @ params["lm_head"].T


NAMES = ("attn_wq", "attn_wk", "attn_wv", "attn_wo", "mlp_fc1", "mlp_fc2")


def train_step(params, adam, tokens, learning_rate, n_head, n_layer):
    """One step on the tokens of one document; return the loss."""
    for group in adam.param_groups:
        group["lr"] = learning_rate
    adam.zero_grad()
    loss = F.cross_entropy(
        logits(params, tokens[:-1], n_head, n_layer), torch.tensor(tokens[1:])
    )
    loss.backward()
    adam.step()
    return loss.item()
