#!/usr/bin/env python3
"""The models of bench_gpu_training in PyTorch, on the same GPU: the same sizes, batch and step.

    python3 tests/bench/pytorch_train.py --like FILE --case NAME [--out FILE] [--steps N]

FILE has the lines of JSON that bench_gpu_training wrote with --out; the result is one line of the
same kind. What is PyTorch's own here: torch.compile of the whole model, fp32 weights with bf16
autocast (so that master weights are the weights, and gradients and moments are fp32 as ours are),
AdamW(fused=True), scaled_dot_product_attention (flash or cuDNN: its choice). "full" checkpoints each
block; for "selective" and "none" the compiler decides what it saves. When memory is short, blocks
are checkpointed, then layers are left out: the line says what was run.
"""
import argparse
import gc
import json
import math
import statistics
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

PEAK_FLOPS = 989e12  # dense bf16, as the vendor states it for the H100 and H200


def rotate(x, cos, sin):
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = c["heads"], c["kv_heads"], c["head_dim"]
        self.llama = c["family"] == "llama"
        hidden, ffn, bias = c["hidden"], c["ffn"], not self.llama
        norm = nn.RMSNorm if self.llama else nn.LayerNorm
        self.norm1, self.norm2 = norm(hidden, eps=1e-5), norm(hidden, eps=1e-5)
        width = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.qkv = nn.Linear(hidden, width, bias=bias)
        self.out = nn.Linear(self.heads * self.head_dim, hidden, bias=bias)
        self.up = nn.Linear(hidden, 2 * ffn if self.llama else ffn, bias=bias)
        self.down = nn.Linear(ffn, hidden, bias=bias)

    def attend(self, x, cos, sin):
        batch, seq, _ = x.shape
        qkv = self.qkv(x).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        q, k, v = qkv.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
        if self.llama:
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        o = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=self.kv_heads != self.heads
        )
        return self.out(o.transpose(1, 2).reshape(batch, seq, -1))

    def forward(self, x, cos, sin):
        x = x + self.attend(self.norm1(x), cos, sin)
        h = self.up(self.norm2(x))
        if self.llama:
            gate, up = h.chunk(2, dim=-1)
            h = F.silu(gate) * up
        else:
            h = F.gelu(h, approximate="tanh")
        return x + self.down(h)


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.llama = c["family"] == "llama"
        hidden = c["hidden"]
        self.tokens = nn.Embedding(c["vocab"], hidden)
        self.positions = None if self.llama else nn.Embedding(c["seq"], hidden)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c["layers"]))
        self.norm = (nn.RMSNorm if self.llama else nn.LayerNorm)(hidden, eps=1e-5)
        self.head = nn.Linear(hidden, c["vocab"], bias=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02 / (math.sqrt(2 * c["layers"]) if "out." in name else 1))
        if not self.llama:
            self.head.weight = self.tokens.weight
        at = torch.arange(c["seq"], dtype=torch.float32)[:, None]
        turn = c["rope_theta"] ** (-torch.arange(0, c["head_dim"], 2).float() / c["head_dim"])
        self.register_buffer("cos", torch.cos(at * turn), persistent=False)
        self.register_buffer("sin", torch.sin(at * turn), persistent=False)

    def forward(self, ids, targets):
        x = self.tokens(ids)
        if self.positions is not None:
            x = x + self.positions.weight
        # The stream is bf16 as it is in ours; autocast alone would leave it in fp32.
        x = x.to(torch.bfloat16)
        for block in self.blocks:
            if self.c["recompute"] == "full":
                x = checkpoint(block, x, self.cos, self.sin, use_reentrant=False)
            else:
                x = block(x, self.cos, self.sin)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.float().view(-1, logits.size(-1)), targets.view(-1))


def flops_a_token(c):
    """Six for each weight in a product, and causal attention: as model/flops.cpp counts."""
    hidden, gated = c["hidden"], c["family"] == "llama"
    width = c["heads"] * c["head_dim"]
    block = hidden * (width + 2 * c["kv_heads"] * c["head_dim"]) + width * hidden
    block += (3 if gated else 2) * hidden * c["ffn"]
    weights = c["layers"] * block + c["vocab"] * hidden
    return 6.0 * weights + 12.0 * (c["seq"] + 1) / 2 * width * c["layers"]


def product_rate(device):
    n = 8192 if device == "cuda" else 256
    a, b = (torch.randn(n, n, device=device).to(torch.bfloat16) for _ in range(2))
    best = 0.0
    for _ in range(3):
        a @ b
        finish(device)
        begin = time.perf_counter()
        for _ in range(5):
            a @ b
        finish(device)
        best = max(best, 5 * 2.0 * n**3 / (time.perf_counter() - begin))
    return best


def finish(device):
    if device == "cuda":
        torch.cuda.synchronize()


def train(c, arguments, device):
    torch.manual_seed(1)
    with torch.device(device):
        model = Model(c)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    step_model = model if arguments.compile == "none" else torch.compile(model)
    # Ids as frequent as words are.
    uniform = torch.rand(c["micro_batch"], c["seq"] + 1, device=device)
    ids = (c["vocab"] ** uniform - 1).long().clamp_(0, c["vocab"] - 1)
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def step():
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = step_model(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    for _ in range(4):
        step()
    finish(device)
    seconds, last = [], time.perf_counter()
    for i in range(arguments.steps):
        loss = step()
        if i + 1 == arguments.steps:
            finish(device)
        now = time.perf_counter()
        seconds.append(now - last)
        last = now
    parameters = sum(p.numel() for p in model.parameters())
    return seconds, loss, parameters


def attempt(c, arguments, device):
    """None when the GPU has too little memory."""
    try:
        return train(c, arguments, device)
    except torch.OutOfMemoryError:
        pass
    gc.collect()
    torch._dynamo.reset()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return None


def asked_for(arguments):
    """The last line of the case in the file."""
    found = None
    with open(arguments.like, encoding="utf-8") as lines:
        for line in lines:
            entry = json.loads(line)
            if entry.get("case") == arguments.case and entry.get("program") == "pentagrid":
                found = entry
    if found is None:
        sys.exit(f"{arguments.like} has no line of {arguments.case}")
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--like", required=True)
    parser.add_argument("--case", required=True)
    parser.add_argument("--out", default="")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--compile", choices=("whole", "none"), default="whole")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments = parser.parse_args()

    c = asked_for(arguments)
    device = arguments.device
    rate = product_rate(device)
    result = attempt(c, arguments, device)
    if result is None and c["recompute"] != "full":
        c["recompute"] = "full"
        result = attempt(c, arguments, device)
    while result is None and c["layers"] > 2:
        c["layers"] -= 2
        result = attempt(c, arguments, device)
    if result is None:
        sys.exit(f"{c['case']}: out of memory")
    seconds, loss, parameters = result
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    rate = max(rate, product_rate(device))

    step = statistics.median(seconds)
    tokens = c["micro_batch"] * c["seq"]
    flops = flops_a_token(c) * tokens / step
    name = f"PyTorch {torch.__version__}"
    print(
        f"{c['case']:<20} {name} {c['layers']} layers, {c['micro_batch']} x {c['seq']}, recompute "
        f"{c['recompute']}: {tokens / step:.0f} tokens/s, {flops * 1e-12:.1f} TFLOP/s, "
        f"{100 * flops / rate:.1f} % of the product's {rate * 1e-12:.1f}, "
        f"{100 * flops / PEAK_FLOPS:.1f} % of 989; step {step * 1e3:.1f} ms "
        f"({min(seconds) * 1e3:.1f} to {max(seconds) * 1e3:.1f}), peak {peak / 2**30:.1f} GiB, "
        f"loss {loss:.3f}"
    )
    c.update(
        program=name,
        gpu=torch.cuda.get_device_name() if device == "cuda" else "cpu",
        parameters=parameters,
        tokens_per_s=tokens / step,
        step_s=step,
        step_least_s=min(seconds),
        step_most_s=max(seconds),
        steps=arguments.steps,
        flops_a_token=flops_a_token(c),
        model_flops=flops,
        product_flops=rate,
        peak_bytes=peak,
        planned_bytes=0,
        grown_bytes=0,
        loss=loss,
    )
    if arguments.out:
        with open(arguments.out, "a", encoding="utf-8") as out:
            out.write(json.dumps(c) + "\n")


if __name__ == "__main__":
    main()
