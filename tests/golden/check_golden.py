#!/usr/bin/env python3
"""Checks the golden files against our definition of the model, in NumPy alone (numpy and h5py).

An independent witness: this forward pass is written from our kernels' contract (RMSNorm and
LayerNorm with eps inside the root, half-split rotary embedding, query head h reads key head
h / (H/K), GELU by tanh, weights [out, in], experts weighted with their gates), not from Hugging
Face's code. It must give the stored logits and losses from the stored weights, and the stored
gradients must be its derivatives.

Derivatives are by complex step: f'(x) d = Im f(x + i h d) / h (Squire & Trapp, 1998). Nothing
is subtracted, so with h = 1e-30 they are exact to rounding, and each parameter is checked along
random directions. `--full` also takes the derivative to every single element and replays the five
AdamW steps with it (a few minutes).

Tolerance 1e-12 relative: both sides are fp64 with sums of at most some hundred terms through
about 40 operations in a row, so rounding stays near sqrt(40 * 100) * 1.1e-16 = 7e-15, times the
condition of the deepest chain; 1e-12 leaves two orders for that and is three below the 1e-9 asked
of the program.

    python tests/golden/check_golden.py [--full]
"""

import pathlib
import sys

import h5py
import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parent
TOLERANCE = 1e-12
DIRECTIONS = 3
H = 1e-30


# Our model -------------------------------------------------------------------------------------

def norm(x, w, name, c):
    gamma, beta = w[name + ".weight"], w.get(name + ".bias")
    if c["norm"] == "layernorm":
        x = x - x.mean(-1, keepdims=True)
    y = x / np.sqrt((x * x).mean(-1, keepdims=True) + c["norm_eps"]) * gamma
    return y if beta is None else y + beta


def linear(x, w, name):
    y = x @ w[name + ".weight"].T
    return y + w[name + ".bias"] if name + ".bias" in w else y


def rope(x, theta):  # [B,T,H,D], pair (d, d + D/2)
    half = x.shape[-1] // 2
    frequency = theta ** (-2.0 * np.arange(half) / x.shape[-1])
    angle = np.arange(x.shape[1])[:, None, None] * frequency
    a, b = x[..., :half], x[..., half:]
    return np.concatenate(
        (a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)), -1)


def log_sum_exp(x):
    top = x.real.max(-1, keepdims=True)  # any real shift will do: complex steps pass through
    return np.log(np.exp(x - top).sum(-1, keepdims=True)) + top


def attention(x, w, p, c):
    batch, seq, _ = x.shape
    q = linear(x, w, p + "q").reshape(batch, seq, c["heads"], c["head_dim"])
    k = linear(x, w, p + "k").reshape(batch, seq, c["kv_heads"], c["head_dim"])
    v = linear(x, w, p + "v").reshape(batch, seq, c["kv_heads"], c["head_dim"])
    if c["position"] == "rope":
        q, k = rope(q, c["rope_theta"]), rope(k, c["rope_theta"])
    future = np.triu(np.ones((seq, seq), bool), 1)
    heads = []
    for h in range(c["heads"]):
        kv = h // (c["heads"] // c["kv_heads"])
        scores = q[:, :, h] @ k[:, :, kv].swapaxes(1, 2) / np.sqrt(c["head_dim"])
        scores = np.where(future, -1e300, scores)
        heads.append(np.exp(scores - log_sum_exp(scores)) @ v[:, :, kv])
    return linear(np.concatenate(heads, -1), w, p + "out")


def mlp(x, w, p, c):
    up = linear(x, w, p + "up")
    if c["activation"] == "swiglu":
        gate = linear(x, w, p + "gate")
        inner = gate / (1 + np.exp(-gate)) * up
    else:
        inner = 0.5 * up * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up * up * up)))
    return linear(inner, w, p + "down")


def route(x, w, p, c):
    """Gates [B,T,E], zero where not chosen, and each sequence's auxiliary losses with factors."""
    logits = x @ w[p + "router.weight"].T
    lse = log_sum_exp(logits)
    probs = np.exp(logits - lse)
    k, seq, experts = c["moe_top_k"], x.shape[1], c["moe_experts"]
    # A token chooses an expert that fewer than k others beat. A complex step moves no choice.
    beaten_by = (probs.real[..., None, :] > probs.real[..., None]).sum(-1)
    chosen = beaten_by < k
    assert (chosen.sum(-1) == k).all(), "a tie"
    gates = probs * chosen
    if c["moe_renormalize"]:
        gates = gates / gates.sum(-1, keepdims=True)
    balance = experts / (k * seq**2) * (chosen.sum(1) * probs.sum(1)).sum(-1)
    z = (lse[..., 0] * lse[..., 0]).mean(-1)
    return gates, c["moe_aux_loss"] * balance + c["moe_z_loss"] * z


def moe(x, w, p, c):
    """Every expert on every token, most of them times zero."""
    gates, aux = route(x, w, p, c)
    y = mlp(x, w, p + "shared.", c) if c["moe_shared_experts"] else 0.0
    for e in range(c["moe_experts"]):
        y = y + gates[..., e, None] * mlp(x, w, p + f"experts.{e}.", c)
    return y, aux


def has_experts(c, i):
    return "moe_experts" in c and i % c["moe_every"] == c["moe_every"] - 1


def forward(w, tokens, c):
    """Logits, and the auxiliary losses with their factors: the mean over the sequences."""
    aux_loss = 0.0
    x = w["embed.tokens.weight"][tokens]
    if c["position"] == "learned":
        x = x + w["embed.positions.weight"][: tokens.shape[1]]
    for i in range(c["layers"]):
        p = f"blocks.{i}."
        x = x + attention(norm(x, w, p + "attention_norm", c), w, p + "attention.", c)
        y = norm(x, w, p + "mlp_norm", c)
        if has_experts(c, i):
            y, aux = moe(y, w, p + "moe.", c)
            aux_loss = aux_loss + aux.mean()
        else:
            y = mlp(y, w, p + "mlp.", c)
        x = x + y
    head = "embed.tokens.weight" if c["tie_embeddings"] else "lm_head.weight"
    return norm(x, w, "final_norm", c) @ w[head].T, aux_loss


def mean_loss(logits, targets):
    valid = targets >= 0
    rows = logits[valid]
    chosen = np.take_along_axis(rows, targets[valid][:, None], -1)
    return (log_sum_exp(rows) - chosen).sum() / valid.sum()


def expected_shapes(c):
    hidden, ffn = c["hidden"], c["ffn"]
    q, kv = c["heads"] * c["head_dim"], c["kv_heads"] * c["head_dim"]
    shapes = {"embed.tokens.weight": (c["vocab"], hidden)}
    if c["position"] == "learned":
        shapes["embed.positions.weight"] = (c["max_seq"], hidden)

    def add(name, *shape, bias=c["bias"]):
        shapes[name + ".weight"] = shape
        if bias:
            shapes[name + ".bias"] = shape[:1]

    def add_mlp(p, width):
        if c["activation"] == "swiglu":
            add(p + "gate", width, hidden)
        add(p + "up", width, hidden)
        add(p + "down", hidden, width)

    for i in range(c["layers"]):
        p = f"blocks.{i}."
        add(p + "attention_norm", hidden)
        add(p + "attention.q", q, hidden)
        add(p + "attention.k", kv, hidden)
        add(p + "attention.v", kv, hidden)
        add(p + "attention.out", hidden, q)
        add(p + "mlp_norm", hidden)
        if not has_experts(c, i):
            add_mlp(p + "mlp.", ffn)
            continue
        add(p + "moe.router", c["moe_experts"], hidden, bias=False)
        for e in range(c["moe_experts"]):
            add_mlp(p + f"moe.experts.{e}.", c["moe_ffn"])
        if c["moe_shared_experts"]:
            add_mlp(p + "moe.shared.", c["moe_shared_experts"] * c["moe_ffn"])
    add("final_norm", hidden)
    if not c["tie_embeddings"]:
        add("lm_head", c["vocab"], hidden, bias=False)
    return shapes


# The checks ------------------------------------------------------------------------------------

worst = 0.0


def check(what, deviation):
    global worst
    worst = max(worst, deviation)
    if not deviation <= TOLERANCE:
        sys.exit(f"{what}: relative deviation {deviation:.3e} is above {TOLERANCE:.0e}")


def derivative(w, name, direction, tokens, targets, c):
    """Of the loss with the auxiliary ones, along `direction` in parameter `name`."""
    moved = dict(w)
    moved[name] = w[name] + 1j * H * direction
    logits, aux_loss = forward(moved, tokens, c)
    return (mean_loss(logits, targets) + aux_loss).imag / H


def check_gradients(file, w, tokens, targets, c, rng):
    """The error e of a gradient shows along a random direction as e . d, about |e|."""
    total = np.sqrt(sum((file["grads"][name][:] ** 2).sum() for name in w))
    rows = []
    for name in w:
        gradient = file["grads"][name][:]
        assert gradient.shape == w[name].shape, name
        # Some gradients are zero in mathematics (the key bias of GPT-2: softmax ignores a shift);
        # they have rounding of the whole backward pass instead, hence the floor.
        size = max(np.linalg.norm(gradient), 1e-3 * total)
        for _ in range(DIRECTIONS):
            d = rng.standard_normal(gradient.shape)
            error = abs(derivative(w, name, d, tokens, targets, c) - (gradient * d).sum())
            rows.append(error / size)
            check(f"{file.filename}: grads/{name}", rows[-1])
    return max(rows)


def check_training(file, w, tokens, targets, c):
    """Replays AdamW (Loshchilov & Hutter 2019) with gradients of this file's own model."""
    o = {key[len("optimizer_"):]: c[key] for key in c if key.startswith("optimizer_")}
    w = dict(w)
    m = {name: np.zeros_like(x) for name, x in w.items()}
    v = {name: np.zeros_like(x) for name, x in w.items()}
    rows = []

    def record(what, got, want, floor=0.0):
        error = np.linalg.norm(got - want)
        rows.append(max(0.0, error - floor) / np.linalg.norm(want))
        check(f"{file.filename}: {what}", rows[-1])

    for step in range(1, len(file["losses"]) + 1):
        gradients = {}
        for name, x in w.items():
            g = np.zeros(x.size)
            for e in range(x.size):
                d = np.zeros(x.size)
                d[e] = 1
                g[e] = derivative(w, name, d.reshape(x.shape), tokens, targets, c)
            gradients[name] = g.reshape(x.shape)
        size = np.sqrt(sum((g * g).sum() for g in gradients.values()))
        loss = mean_loss(forward(w, tokens, c)[0], targets)
        record(f"losses[{step - 1}]", loss, file["losses"][step - 1])
        record(f"grad_norms[{step - 1}]", size, file["grad_norms"][step - 1])
        scale = min(1.0, o["clip"] / size)
        for name, g in gradients.items():
            g = g * scale
            m[name] = o["beta1"] * m[name] + (1 - o["beta1"]) * g
            v[name] = o["beta2"] * v[name] + (1 - o["beta2"]) * g * g
            mean = m[name] / (1 - o["beta1"] ** step)
            root = np.sqrt(v[name] / (1 - o["beta2"] ** step)) + o["eps"]
            decay = o["weight_decay"] if g.ndim >= 2 else 0.0
            w[name] = w[name] - o["lr"] * (mean / root + decay * w[name])
    for name, x in w.items():
        # A gradient that is zero in mathematics holds rounding, about 1e-17 an element where the
        # global norm is clipped to 1; far below eps, AdamW makes lr * 1e-17 / eps of it each step.
        zero = np.linalg.norm(file["grads"][name][:]) < 1e-12 * file["grad_norms"][0]
        noise = len(file["losses"]) * o["lr"] * 1e-17 / o["eps"] * np.sqrt(x.size)
        record(f"final_weights/{name}", x, file["final_weights"][name][:], noise if zero else 0.0)
    return max(rows)


def check_file(path, full):
    rng = np.random.default_rng(7)
    with h5py.File(path, "r") as file:
        c = {k: v.decode() if isinstance(v, bytes) else v for k, v in file.attrs.items()}
        w = {name: data[:].astype(np.float64) for name, data in file["weights"].items()}
        shapes = {name: x.shape for name, x in w.items()}
        assert shapes == expected_shapes(c), f"{path}: names or shapes differ"
        assert set(file["grads"]) == set(w), f"{path}: gradients and weights differ"
        tokens, targets = file["tokens"][:], file["targets"][:]

        logits, aux_loss = forward(w, tokens, c)
        stored = file["logits"][:]
        at_logits = np.linalg.norm(logits - stored) / np.linalg.norm(stored)
        check(f"{path.name}: logits", at_logits)
        loss = file["loss"][()]
        at_loss = abs(mean_loss(logits, targets) - loss) / loss
        check(f"{path.name}: loss", at_loss)
        if "moe_experts" in c:
            stored = file["aux_loss"][()]
            at_aux = abs(aux_loss - stored) / loss  # added to it, and may be zero
            check(f"{path.name}: aux_loss", at_aux)
        at_grads = check_gradients(file, w, tokens, targets, c, rng)
        line = f"logits {at_logits:.1e}, loss {at_loss:.1e}, gradients {at_grads:.1e}"
        if "moe_experts" in c:
            line += f", auxiliary losses {at_aux:.1e}"
        if "losses" in file:
            assert set(file["final_weights"]) == set(w), f"{path}: final weights differ"
            if full:
                line += f", training {check_training(file, w, tokens, targets, c):.1e}"
        print(f"{path.name}: {len(w)} parameters: {line}")


if __name__ == "__main__":
    for golden in sorted(FOLDER.glob("*.h5")):
        check_file(golden, "--full" in sys.argv[1:])
    print(f"greatest relative deviation {worst:.1e} (tolerance {TOLERANCE:.0e})")
