"""Mixture-of-experts models for make_golden.py: their cases, their modules, our auxiliary losses.

Whose code computes what:
    mixtral_top2   MixtralForCausalLM, all of it: the two largest of a softmax, over their sum.
    qwen_moe       LlamaForCausalLM whose every second block has OlmoeSparseMoeBlock (the three
                   largest of a softmax as they are) beside a LlamaMLP for all tokens; the sum of
                   the two is ours. Qwen2MoeForCausalLM itself would not do: it has a gate before
                   the shared experts and a bias on q, k and v.
    switch_gelu    GPT2LMHeadModel whose every block has SwitchTransformersSparseMLP (the largest
                   of a softmax as it is) over experts that are GPT2MLP, with room for all tokens.
So routers, experts and their sums are Hugging Face's. Ours, in PyTorch, are the load-balance loss
and the z-loss, which are per sequence here and per batch there (see `auxiliary_loss`).

A token's choice must be the same in any precision: `probe_routing` insists on a distance.
"""

import copy
import functools

import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig, MixtralConfig, MixtralForCausalLM, OlmoeConfig
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock
from transformers.models.switch_transformers.modeling_switch_transformers import (
    SwitchTransformersSparseMLP)

SMALLEST_GAP = 1e-3  # of the last expert chosen to the first one not, relative

CASES = {
    # Grouped KV heads, untied, both auxiliary losses, ignored targets (their tokens are routed).
    "mixtral_top2": dict(
        seed=23, batch=2, seq=13, ignored=[(0, 3), (1, 0), (1, 12)], clip=2.0, layers=2, hidden=20,
        heads=4, kv_heads=2, head_dim=6, ffn=40, vocab=43, max_seq=16, rope_theta=10000.0,
        norm_eps=1e-5, norm="rmsnorm", activation="swiglu", position="rope", bias=0,
        tie_embeddings=0, moe_experts=5, moe_top_k=2, moe_ffn=11, moe_router="top_k",
        moe_renormalize=1, moe_shared_experts=0, moe_every=1, moe_aux_loss=0.05, moe_z_loss=0.02),
    # Dense and sparse blocks by turns, a shared expert two widths wide, no division by the sum.
    "qwen_moe": dict(
        seed=25, batch=3, seq=8, ignored=[(1, 2)], clip=None, layers=4, hidden=18, heads=3,
        kv_heads=1, head_dim=6, ffn=31, vocab=41, max_seq=8, rope_theta=1000000.0, norm_eps=1e-6,
        norm="rmsnorm", activation="swiglu", position="rope", bias=0, tie_embeddings=0,
        moe_experts=6, moe_top_k=3, moe_ffn=7, moe_router="top_k", moe_renormalize=0,
        moe_shared_experts=2, moe_every=2, moe_aux_loss=0.0, moe_z_loss=0.0),
    # One expert a token, experts with biases, LayerNorm and learned positions; z-loss alone.
    "switch_gelu": dict(
        seed=24, batch=3, seq=9, ignored=[(0, 8), (2, 1)], clip=1.0, layers=2, hidden=16, heads=4,
        kv_heads=4, head_dim=4, ffn=64, vocab=37, max_seq=12, rope_theta=10000.0, norm_eps=1e-5,
        norm="layernorm", activation="gelu", position="learned", bias=1, tie_embeddings=1,
        moe_experts=4, moe_top_k=1, moe_ffn=23, moe_router="switch", moe_renormalize=0,
        moe_shared_experts=0, moe_every=1, moe_aux_loss=0.0, moe_z_loss=0.02),
}


# Modules ---------------------------------------------------------------------------------------

def mixtral(case):
    return MixtralForCausalLM(MixtralConfig(
        vocab_size=case["vocab"], hidden_size=case["hidden"], intermediate_size=case["moe_ffn"],
        num_hidden_layers=case["layers"], num_attention_heads=case["heads"],
        num_key_value_heads=case["kv_heads"], head_dim=case["head_dim"],
        max_position_embeddings=case["max_seq"], rope_theta=case["rope_theta"],
        rms_norm_eps=case["norm_eps"], tie_word_embeddings=bool(case["tie_embeddings"]),
        num_local_experts=case["moe_experts"], num_experts_per_tok=case["moe_top_k"],
        router_aux_loss_coef=0.0, router_jitter_noise=0.0, sliding_window=None,
        attention_dropout=0.0, hidden_act="silu", attn_implementation="eager", use_cache=False))


class RoutedBesideShared(nn.Module):
    """In place of LlamaMLP. Keeps the router's logits of the last forward pass."""

    def __init__(self, case):
        super().__init__()
        self.routed = OlmoeSparseMoeBlock(OlmoeConfig(
            hidden_size=case["hidden"], intermediate_size=case["moe_ffn"], hidden_act="silu",
            num_experts=case["moe_experts"], num_experts_per_tok=case["moe_top_k"],
            norm_topk_prob=bool(case["moe_renormalize"])))
        self.shared = LlamaMLP(LlamaConfig(
            hidden_size=case["hidden"], hidden_act="silu", mlp_bias=False,
            intermediate_size=case["moe_shared_experts"] * case["moe_ffn"]))

    def forward(self, x):
        y, self.router_logits = self.routed(x)
        return y + self.shared(x)


class SwitchExperts(SwitchTransformersSparseMLP):
    """In place of GPT2MLP. Keeps the router's logits of the last forward pass."""

    def __init__(self, gpt2_config, case):
        config = copy.deepcopy(gpt2_config)
        config.update(dict(
            num_experts=case["moe_experts"], expert_capacity=case["seq"], router_bias=False,
            router_jitter_noise=0.0, router_ignore_padding_tokens=False, router_dtype="float32"))
        super().__init__(config, functools.partial(GPT2MLP, case["moe_ffn"]))

    def forward(self, x):
        y, (self.router_logits, _) = super().forward(x)
        return y


def insert_experts(model, case):
    """Into every `moe_every`-th block of a LlamaForCausalLM or GPT2LMHeadModel."""
    is_switch = case["moe_router"] == "switch"
    for i, block in enumerate(model.transformer.h if is_switch else model.model.layers):
        if (i + 1) % case["moe_every"] == 0:
            block.mlp = SwitchExperts(model.config, case) if is_switch else RoutedBesideShared(case)
    return model


def experts_in(block):
    """(router, experts, shared experts or None) of a block; None when it is dense."""
    mlp = getattr(block, "block_sparse_moe", None) or block.mlp
    if isinstance(mlp, MixtralSparseMoeBlock):
        return mlp.gate, list(mlp.experts), None
    if isinstance(mlp, RoutedBesideShared):
        return mlp.routed.gate, list(mlp.routed.experts), mlp.shared
    if isinstance(mlp, SwitchExperts):
        return mlp.router.classifier, list(mlp.experts.values()), None
    return None


def routers_in_double(model):
    """Switch Transformers' router has its own type, fp32 whatever the model's."""
    for module in model.modules():
        if isinstance(module, SwitchExperts):
            module.router.dtype = torch.float64


# Routing ---------------------------------------------------------------------------------------

def router_logits(model, output, case):
    """[B,T,E] of each layer with experts, after the forward pass that gave `output`."""
    logits = output.get("router_logits") or [
        module.router_logits for module in model.modules() if hasattr(module, "router_logits")]
    assert len(logits) == case["layers"] // case["moe_every"]
    return [x.view(case["batch"], case["seq"], case["moe_experts"]) for x in logits]


def auxiliary_loss(logits, case):
    """Mean over the sequences of sum over the layers of moe_aux_loss * aux + moe_z_loss * z.

    For T tokens of a sequence, of which counts[e] chose expert e among their top k, with p the
    softmax over all E experts of the router's logits: aux = E / (k T^2) sum_e counts[e] sum_t
    p[t,e], the counts being constants (Fedus et al. 2021); z = 1/T sum_t logsumexp(logits[t])^2
    (Zoph et al. 2022).
    """
    k, seq, experts = case["moe_top_k"], case["seq"], case["moe_experts"]
    total = 0.0
    for x in logits:
        p = x.softmax(-1)
        counts = F.one_hot(p.topk(k).indices, experts).sum((1, 2))
        aux = experts / (k * seq**2) * (counts * p.sum(1)).sum(-1)
        z = x.logsumexp(-1).square().mean(-1)
        total = total + (case["moe_aux_loss"] * aux + case["moe_z_loss"] * z).mean()
    return total


def probe_routing(logits, case):
    """The smallest gap; fails where a choice is close or an expert idle (it gets no gradient)."""
    k, gaps = case["moe_top_k"], []
    for x in logits:
        p, order = x.detach().softmax(-1).sort(-1, descending=True)
        gaps.append(((p[..., k - 1] - p[..., k]) / p[..., k - 1]).min().item())
        idle = set(range(case["moe_experts"])) - set(order[..., :k].flatten().tolist())
        assert not idle, f"no token chose the experts {idle}: take another seed"
    assert min(gaps) >= SMALLEST_GAP, f"a choice within {min(gaps):.1e}: take another seed"
    return min(gaps)
