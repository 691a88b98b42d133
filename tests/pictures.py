"""The picture at the top of the README: how the loss falls, and where the heads look.

    pip install ".[pictures]"
    python tests/pictures.py

This trains the default model as `python microgpt.py` does, prints the numbers that it
draws, and writes .github/microgpt-light.svg and .github/microgpt-dark.svg. On the left
are the loss of every step and the mean of the 50 losses up to it; the two lines are
what guessing and counting bigrams achieve. On the right are the attention weights along
a name: for each head, a row for each token that looks, a column for each it looks at.
"""

import gc
import math
import random
import sys
from collections import Counter
from pathlib import Path

from matplotlib import rcParams
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import microgpt  # noqa: E402

NAME = "edgar"  # in this one the heads differ clearly
WINDOW = 50  # steps in the running mean, as in the last mean that the command prints
GUESSING = math.log(27)
THEMES = {  # GitHub's colors, on its white and on its black; shades: weight 0 to 1
    "light": {"text": "#1f2328", "back": "#ffffff",
              "loss": "#0969da", "bigrams": "#bc4c00",
              "shades": ["#e6f2fd", "#54aeff", "#0969da", "#0a3069"]},
    "dark": {"text": "#f0f6fc", "back": "#0d1117",
             "loss": "#58a6ff", "bigrams": "#f0883e",
             "shades": ["#15233a", "#1f6feb", "#79c0ff", "#e6f4ff"]},
}
WIDTH, HEIGHT = 720, 376  # in points, of which an inch has 72
rcParams.update({
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "Arial"],
    "font.size": 16,
    "path.simplify": False,  # draw each point
    "svg.fonttype": "none",  # text remains text
    "svg.hashsalt": "microgpt",  # the same file each time
})


# ---- the numbers ---------------------------------------------------------------------


def pairs_of(doc):
    return zip("." + doc, doc + ".")


def bigram_loss(train_docs, held_out):
    """What counting pairs of neighbors achieves, with one added to every count."""
    pairs = Counter(pair for doc in train_docs for pair in pairs_of(doc))
    firsts = Counter(first for first, _ in pairs.elements())
    losses = [-math.log((pairs[pair] + 1) / (firsts[pair[0]] + 27))
              for doc in held_out for pair in pairs_of(doc)]
    return sum(losses) / len(losses)


def attention_weights(model, name):
    """[n_head][position][position looked at], of a model with one layer."""
    w, head_dim = model.state_dict, model.n_embd // model.n_head
    keys, values = [[]], [[]]
    heads = [[] for _ in range(model.n_head)]
    tokens = microgpt.tokenize(name, model.chars, model.block_size)[:-1]
    for pos, token in enumerate(tokens):
        microgpt.gpt(token, pos, keys, values, model)  # adds this token's key to keys
        x = microgpt.rmsnorm([t + p for t, p in zip(w["wte"][token], w["wpe"][pos])])
        q = microgpt.linear(microgpt.rmsnorm(x), w["layer0.attn_wq"])
        for i, head in enumerate(heads):
            part = slice(i * head_dim, (i + 1) * head_dim)
            scores = microgpt.linear(q[part], [key[part] for key in keys[0]])
            weights = microgpt.softmax([s / math.sqrt(head_dim) for s in scores])
            head.append([weight.data for weight in weights])
    return heads


def compute():
    """Train as the command does: all losses, three losses to compare, the weights."""
    gc.disable()  # the graphs have no cycles, so searching for them is lost time
    rng = random.Random(42)
    docs = microgpt.load_docs(ROOT / "input.txt")
    rng.shuffle(docs)
    train_docs, held_out = microgpt.split_docs(docs)
    model = microgpt.Model(microgpt.build_vocab(docs), rng)
    losses = list(microgpt.train(model, train_docs))
    return (losses, microgpt.mean_loss(model, held_out),
            bigram_loss(train_docs, held_out), attention_weights(model, NAME))


# ---- the picture ---------------------------------------------------------------------


def panel(figure, theme, left, bottom, width, height):
    """A part of the figure for one plot; lengths in points, as WIDTH and HEIGHT."""
    ax = figure.add_axes(
        (left / WIDTH, bottom / HEIGHT, width / WIDTH, height / HEIGHT))
    ax.spines[:].set_visible(False)  # no frame
    ax.tick_params(colors=theme["text"], length=0)
    return ax


def draw_loss(ax, theme, losses, means, held_out, bigrams):
    last = len(losses)
    # A dot is a line of length 0 with round ends, which takes less space than a marker.
    dots = [(x, y) for x, loss in enumerate(losses, 1) for y in (loss, loss, math.nan)]
    ax.plot(*zip(*dots), color=theme["loss"], alpha=0.35, linewidth=2.5,
            solid_capstyle="round")
    ax.axhline(GUESSING, color=theme["text"], linewidth=2)
    ax.axhline(bigrams, color=theme["bigrams"], linewidth=2)
    ax.plot(range(WINDOW, last + 1), means, color=theme["loss"], linewidth=3.5)
    ax.plot(last, held_out, "D", color=theme["text"], markersize=10, clip_on=False,
            markeredgecolor=theme["back"], zorder=3)
    for x, y, side, color, label in (
        (last, GUESSING + 0.06, "right", "text", f"guessing: ln 27 = {GUESSING:.2f}"),
        (90, 2.92, "left", "loss", f"mean of {WINDOW} steps"),
        (last, 2.65, "right", "bigrams", f"counting bigrams: {bigrams:.2f}"),
    ):
        ax.text(x, y, label, color=theme[color], ha=side)
    ax.annotate(f"held-out names: {held_out:.2f}", (last, held_out), (last, 2.02),
                color=theme["text"], ha="right",  # a line joins it to its mark
                arrowprops={"arrowstyle": "-", "color": theme["text"], "shrinkA": 0,
                            "shrinkB": 0, "relpos": (1, 0.9), "linewidth": 2})
    ax.set(xlim=(1, last), ylim=(1.5, 3.8), yticks=(2, 2.5, 3, 3.5))
    ax.set_xticks((1, last // 2, last), ("step 1", f"{last // 2:,}", f"{last:,}"))
    for label, side in zip(ax.get_xticklabels(), ("left", "center", "right")):
        label.set_ha(side)


def draw_head(ax, theme, title, weights):
    shade = LinearSegmentedColormap.from_list("weights", theme["shades"])
    size = len(weights)
    for row in range(size):
        for column, weight in enumerate(weights[row]):
            color = red, green, blue, _ = shade(weight)
            ax.add_patch(Rectangle((column + 0.03, row + 0.03), 0.94, 0.94,
                                   color=color, linewidth=0))
            bright = 0.21 * red + 0.72 * green + 0.07 * blue > 0.5
            ax.text(column + 0.5, row + 0.5, f"{100 * weight:.0f}", fontsize=10,
                    color="#0d1117" if bright else "#ffffff",
                    ha="center", va="center_baseline")
    ax.text(size, 0.1, title, color=theme["text"], ha="right", va="top")
    ax.set(xlim=(0, size), ylim=(size, 0))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks([i + 0.5 for i in range(size)], ["BOS", *NAME])
        axis.get_ticklabels()[0].set_size(12)
    ax.tick_params("x", pad=15)
    for label in ax.get_xticklabels():
        label.set_va("baseline")


def draw(path, theme, losses, means, held_out, bigrams, heads):
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72))
    for x, title in ((6, "loss: one dot per step"),
                     (350, "attention: row looks at column, in %")):
        figure.text(x / WIDTH, 1 - 18 / HEIGHT, title, color=theme["text"],
                    weight="bold")
    ax = panel(figure, theme, 38, 24, 290, 318)
    draw_loss(ax, theme, losses, means, held_out, bigrams)
    for i, weights in enumerate(heads):
        ax = panel(figure, theme, 386 + i % 2 * 186, 198 - i // 2 * 174, 140, 140)
        draw_head(ax, theme, f"head {i + 1}", weights)
    figure.savefig(path, transparent=True, metadata={"Creator": None, "Date": None})


def main():
    losses, held_out, bigrams, heads = compute()
    means = [sum(losses[end - WINDOW:end]) / WINDOW
             for end in range(WINDOW, len(losses) + 1)]
    print(f"uniform guess: {GUESSING:.4f}")
    print(f"bigrams: {bigrams:.4f}")
    print(f"mean loss last {WINDOW} steps: {means[-1]:.4f}")
    print(f"held-out loss: {held_out:.4f}")
    for mode, theme in THEMES.items():
        path = ROOT / ".github" / f"microgpt-{mode}.svg"
        draw(path, theme, losses, means, held_out, bigrams, heads)


if __name__ == "__main__":
    main()
