#!/usr/bin/env python3
"""Makes the golden files of this folder from Hugging Face's models in PyTorch, in fp64.

Llama and GPT-2 here; golden_moe.py has those with a mixture of experts and says whose code is used.

Only needed to remake the files: nothing that builds, runs or tests the program calls it. The
committed files were made with Python 3.11, torch 2.5.1 (on the CPU), transformers 4.48.3,
numpy 1.26.4 and h5py 3.12.1; each file names its own versions in the attribute `source`.

    python3 -m venv /tmp/golden && . /tmp/golden/bin/activate
    pip install torch==2.5.1 transformers==4.48.3 numpy==1.26.4 h5py==3.12.1
    python tests/golden/make_golden.py          # then run check_golden.py over what it wrote

A file holds one tiny model under our names and our layout, [out, in] for every matrix:
    attributes of /          the [model] section, key for key, with norm_eps and moe_*; optimizer_*
    /tokens, /targets        int32 [B,T]; target -1 is ignored
    /weights/NAME            fp32: the values are exact there, so that an fp32 run starts equal
    /logits [B,T,V], /loss   fp64; the mean cross-entropy over valid targets
    /aux_loss                fp64, with experts alone: the auxiliary losses times their factors
    /grads/NAME              fp64, of /loss + /aux_loss
    /losses, /grad_norms     five AdamW steps on the same batch: /loss before each update, global
    /final_weights/NAME      gradient norm before clipping, weights after the last update (fp64)

The code of Llama and its kin computes norms, softmax (the router's too) and the rotary table in
fp32 whatever its weights are. `in_double` lifts these to fp64; the unmodified code in fp32 is run
as well and must agree.
"""

import contextlib
import copy
import dataclasses
import math
import pathlib
import platform
import types

import h5py
import numpy as np
import torch
import torch.nn.functional as F
import transformers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers import MixtralForCausalLM
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from transformers.models.llama import modeling_llama
from transformers.models.mixtral import modeling_mixtral
from transformers.models.mixtral.modeling_mixtral import MixtralBlockSparseTop2MLP
from transformers.models.olmoe import modeling_olmoe

import golden_moe

FOLDER = pathlib.Path(__file__).resolve().parent
OPTIMIZER = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
STEPS = 5
LAYER_KEYS = dict(norm="rmsnorm", activation="swiglu", position="rope", bias=0)


# What is made ----------------------------------------------------------------------------------

CASES = {
    # Grouped KV heads, untied. Norms cross this clip after the second step: both branches run.
    "llama_gqa": dict(
        seed=11, batch=2, seq=13, ignored=[], clip=2.0, layers=2, hidden=24, heads=4, kv_heads=2,
        head_dim=6, ffn=40, vocab=61, max_seq=16, rope_theta=10000.0, norm_eps=1e-5,
        tie_embeddings=0, **LAYER_KEYS),
    # GPT-2 as it is: LayerNorm, biases, learned positions (rows 11..15 unused), tied.
    "gpt2_tied": dict(
        seed=12, batch=3, seq=11, ignored=[(0, 0), (1, 4), (1, 5), (2, 10)], clip=1.0, layers=2,
        hidden=20, heads=4, kv_heads=4, head_dim=5, ffn=80, vocab=53, max_seq=16,
        rope_theta=10000.0, norm_eps=1e-5, tie_embeddings=1, norm="layernorm", activation="gelu",
        position="learned", bias=1),
    # One KV head, head_dim that is not hidden / heads, odd sizes, other theta and eps, tied.
    "llama_mqa_tied": dict(
        seed=13, batch=3, seq=9, ignored=[(0, 8), (2, 0), (2, 3)], clip=None, layers=3, hidden=23,
        heads=3, kv_heads=1, head_dim=10, ffn=37, vocab=47, max_seq=9, rope_theta=500000.0,
        norm_eps=1e-6, tie_embeddings=1, **LAYER_KEYS),
} | golden_moe.CASES


def build(case):
    if "moe_experts" not in case:
        return build_dense(case)
    if case["moe_renormalize"]:  # as Mixtral alone does
        return golden_moe.mixtral(case)
    return golden_moe.insert_experts(build_dense(case), case)


def build_dense(case):
    if case["norm"] == "layernorm":
        return GPT2LMHeadModel(GPT2Config(
            vocab_size=case["vocab"], n_positions=case["max_seq"], n_embd=case["hidden"],
            n_layer=case["layers"], n_head=case["heads"], n_inner=case["ffn"],
            activation_function="gelu_new", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            layer_norm_epsilon=case["norm_eps"], attn_implementation="eager", use_cache=False))
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=case["vocab"], hidden_size=case["hidden"], intermediate_size=case["ffn"],
        num_hidden_layers=case["layers"], num_attention_heads=case["heads"],
        num_key_value_heads=case["kv_heads"], head_dim=case["head_dim"],
        max_position_embeddings=case["max_seq"], rope_theta=case["rope_theta"],
        rms_norm_eps=case["norm_eps"], tie_word_embeddings=bool(case["tie_embeddings"]),
        attention_bias=False, mlp_bias=False, attention_dropout=0.0, hidden_act="silu",
        attn_implementation="eager", use_cache=False))


# Our names and layout --------------------------------------------------------------------------

def same(x):
    return x


def transposed(x):  # GPT-2's Conv1D keeps [in, out]
    return x.t()


def third(i, width, axis):  # of GPT-2's packed c_attn
    def pick(x):
        part = x.narrow(axis, i * width, width)
        return part.t() if axis == 1 else part
    return pick


def mlp_parameters(mlp, p):
    """(our name, HF parameter, view of it in our layout); of a dense layer or of one expert."""
    if isinstance(mlp, GPT2MLP):
        for name, linear in ("up", mlp.c_fc), ("down", mlp.c_proj):
            yield p + name + ".weight", linear.weight, transposed
            yield p + name + ".bias", linear.bias, same
        return
    linears = ((mlp.w1, mlp.w3, mlp.w2) if isinstance(mlp, MixtralBlockSparseTop2MLP)
               else (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    for name, linear in zip(("gate", "up", "down"), linears):
        yield p + name + ".weight", linear.weight, same


def feed_forward_parameters(block, p):
    found = golden_moe.experts_in(block)
    if not found:
        yield from mlp_parameters(block.mlp, p + "mlp.")
        return
    router, experts, shared = found
    yield p + "moe.router.weight", router.weight, same
    for j, expert in enumerate(experts):
        yield from mlp_parameters(expert, p + f"moe.experts.{j}.")
    if shared is not None:
        yield from mlp_parameters(shared, p + "moe.shared.")


def llama_parameters(model):
    yield "embed.tokens.weight", model.model.embed_tokens.weight, same
    for i, block in enumerate(model.model.layers):
        at, p = block.self_attn, f"blocks.{i}."
        yield p + "attention_norm.weight", block.input_layernorm.weight, same
        yield p + "attention.q.weight", at.q_proj.weight, same
        yield p + "attention.k.weight", at.k_proj.weight, same
        yield p + "attention.v.weight", at.v_proj.weight, same
        yield p + "attention.out.weight", at.o_proj.weight, same
        yield p + "mlp_norm.weight", block.post_attention_layernorm.weight, same
        yield from feed_forward_parameters(block, p)
    yield "final_norm.weight", model.model.norm.weight, same
    if not model.config.tie_word_embeddings:
        yield "lm_head.weight", model.lm_head.weight, same


def gpt2_parameters(model):
    t, hidden = model.transformer, model.config.n_embd
    yield "embed.tokens.weight", t.wte.weight, same
    yield "embed.positions.weight", t.wpe.weight, same
    for i, block in enumerate(t.h):
        p = f"blocks.{i}."
        yield p + "attention_norm.weight", block.ln_1.weight, same
        yield p + "attention_norm.bias", block.ln_1.bias, same
        for j, name in enumerate("qkv"):
            yield p + f"attention.{name}.weight", block.attn.c_attn.weight, third(j, hidden, 1)
            yield p + f"attention.{name}.bias", block.attn.c_attn.bias, third(j, hidden, 0)
        yield p + "attention.out.weight", block.attn.c_proj.weight, transposed
        yield p + "attention.out.bias", block.attn.c_proj.bias, same
        yield p + "mlp_norm.weight", block.ln_2.weight, same
        yield p + "mlp_norm.bias", block.ln_2.bias, same
        yield from feed_forward_parameters(block, p)
    yield "final_norm.weight", t.ln_f.weight, same
    yield "final_norm.bias", t.ln_f.bias, same


def our_parameters(model):
    is_gpt2 = isinstance(model, GPT2LMHeadModel)
    return list(gpt2_parameters(model) if is_gpt2 else llama_parameters(model))


def randomize(model, rng):
    """No value that an initialiser would leave, no zero, no one: every gradient is exercised."""
    covered = 0
    for name, parameter, view in our_parameters(model):
        target = view(parameter.data)
        values = rng.standard_normal(tuple(target.shape))
        if name.endswith("norm.weight"):
            values = 1.0 + 0.3 * values
        elif name.endswith(".bias"):
            values = 0.2 * values
        elif name.startswith("embed."):
            values = 0.5 * values
        else:
            values = values / math.sqrt(target.shape[1])
        target.copy_(torch.from_numpy(values.astype(np.float32)))
        covered += target.numel()
    assert covered == sum(p.numel() for p in model.parameters()), "a parameter has no name"


# Llama and its kin in fp64 throughout ----------------------------------------------------------

class TorchWithoutFp32(types.ModuleType):
    """torch as their code sees it: where it asks for fp32, it gets fp64."""

    def __init__(self):
        super().__init__("torch")

    def __getattr__(self, name):
        return torch.float64 if name in ("float32", "float") else getattr(torch, name)


class RotaryTable(torch.nn.Module):
    """cos and sin of position * theta^(-2d/D), twice side by side, as LlamaRotaryEmbedding."""

    def __init__(self, config):
        super().__init__()
        exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
        self.frequency = config.rope_theta ** -exponent

    def forward(self, x, position_ids):
        angle = position_ids[..., None].double() * self.frequency
        angle = torch.cat((angle, angle), dim=-1)
        return angle.cos(), angle.sin()


@contextlib.contextmanager
def in_double(model):
    if not isinstance(model, GPT2LMHeadModel):
        model.model.rotary_emb = RotaryTable(model.config)
    golden_moe.routers_in_double(model)
    lifted = modeling_llama, modeling_mixtral, modeling_olmoe
    for module in lifted:
        module.torch = TorchWithoutFp32()
    try:
        yield
    finally:
        for module in lifted:
            module.torch = torch


# Reference values ------------------------------------------------------------------------------

@dataclasses.dataclass
class Pass:
    """A forward pass: logits, mean cross-entropy, auxiliary losses, smallest gap of the routing."""
    logits: torch.Tensor
    loss: torch.Tensor
    aux_loss: torch.Tensor | float = 0.0
    gap: float = math.inf


def run(model, tokens, targets, case):
    """Our targets are already shifted, so the label arithmetic of HF's `loss` is not used."""
    wanted = {"output_router_logits": True} if isinstance(model, MixtralForCausalLM) else {}
    output = model(input_ids=tokens, **wanted)
    loss = F.cross_entropy(output.logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
    if "moe_experts" not in case:
        return Pass(output.logits, loss)
    logits = golden_moe.router_logits(model, output, case)
    return Pass(output.logits, loss, golden_moe.auxiliary_loss(logits, case),
                golden_moe.probe_routing(logits, case))


def collect(model, of):
    """Our name -> fp64 array of `of(parameter)` in our layout."""
    return {name: view(of(p)).detach().double().contiguous().numpy().copy()
            for name, p, view in our_parameters(model)}


def train(model, tokens, targets, case):
    """Losses, norms, last weights, smallest gap. Clips by hand, as coefficient clip / norm above
    clip (torch's function adds 1e-6)."""
    o, clip = OPTIMIZER, case["clip"]
    parameters = list(model.parameters())  # the tied matrix once
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": o["weight_decay"]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["eps"])
    losses, norms, gaps = [], [], []
    for _ in range(STEPS):
        adamw.zero_grad()
        now = run(model, tokens, targets, case)
        (now.loss + now.aux_loss).backward()
        norm = math.sqrt(sum(p.grad.square().sum().item() for p in parameters))
        if norm > clip:
            for p in parameters:
                p.grad.mul_(clip / norm)
        adamw.step()
        losses.append(now.loss.item())
        norms.append(norm)
        gaps.append(now.gap)
    return np.array(losses), np.array(norms), collect(model, lambda p: p.data), min(gaps)


def deviation(got, want):
    """The greatest over the tensors, relative; to 1e-2 of the whole where one is only rounding."""
    whole = math.sqrt(sum((x * x).sum() for x in want.values()))
    sizes = {name: np.linalg.norm(x) for name, x in want.items()}
    return max(np.linalg.norm(got[name] - x)
               / (sizes[name] if sizes[name] > 1e-12 * whole else 1e-2 * whole)
               for name, x in want.items())


def make(name, case):
    rng = np.random.Generator(np.random.PCG64(case["seed"]))
    shape = (case["batch"], case["seq"])
    tokens = rng.integers(0, case["vocab"], shape)
    targets = rng.integers(0, case["vocab"], shape)
    targets[:, :-1] = tokens[:, 1:]
    for position in case["ignored"]:
        targets[position] = -1
    batch = torch.from_numpy(tokens), torch.from_numpy(targets)

    single = build(case).eval()
    randomize(single, rng)
    model = copy.deepcopy(single).double()
    fp32 = run(single, *batch, case)
    (fp32.loss + fp32.aux_loss).backward()

    path = FOLDER / f"{name}.h5"
    with in_double(model), h5py.File(path, "w", libver="earliest") as file:
        weights = collect(model, lambda p: p.data)
        fp64 = run(model, *batch, case)
        assert fp64.logits.dtype == torch.float64
        (fp64.loss + fp64.aux_loss).backward()
        logits = fp64.logits.detach().numpy()
        grads = collect(model, lambda p: p.grad)
        apart = deviation({"": fp32.logits.detach().double().numpy()}, {"": logits})
        assert 0 < apart < 1e-5, f"{name}: fp64 and the unmodified fp32 code: {apart}"
        line = (f"unmodified fp32 differs by {apart:.1e} in logits, "
                f"{deviation(collect(single, lambda p: p.grad), grads):.1e} in a gradient")

        file.attrs["source"] = np.bytes_(
            f"make_golden.py: Python {platform.python_version()}, torch {torch.__version__}, "
            f"transformers {transformers.__version__}, numpy {np.__version__}, "
            f"h5py {h5py.__version__}")
        for key, value in case.items():
            if key not in ("ignored", "clip"):
                file.attrs[key] = np.bytes_(value) if isinstance(value, str) else value
        file["tokens"], file["targets"] = tokens.astype(np.int32), targets.astype(np.int32)
        file["logits"], file["loss"] = logits, fp64.loss.item()
        if "moe_experts" in case:
            file["aux_loss"] = float(fp64.aux_loss)
            line += f"; auxiliary losses {float(fp64.aux_loss):.15f}, smallest gap {fp64.gap:.1e}"
        for parameter, value in weights.items():
            file[f"weights/{parameter}"] = value.astype(np.float32)
        for parameter, value in grads.items():
            file[f"grads/{parameter}"] = value
        if case["clip"]:
            for key, value in (OPTIMIZER | {"clip": case["clip"]}).items():
                file.attrs[f"optimizer_{key}"] = value
            file["losses"], file["grad_norms"], final, gap = train(model, *batch, case)
            for parameter, value in final.items():
                file[f"final_weights/{parameter}"] = value
            print(f"{name}: losses {file['losses'][:]}, norms {file['grad_norms'][:]}"
                  + (f", smallest gap {gap:.1e}" if "moe_experts" in case else ""))
    print(f"{name}: loss {fp64.loss.item():.15f}, {len(weights)} parameters, "
          f"{path.stat().st_size} bytes; {line}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, case in CASES.items():
        make(name, case)
