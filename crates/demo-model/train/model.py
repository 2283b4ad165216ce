"""DeepSeek-V3's architecture in plain torch, for training: the same names and shapes as the checkpoint it becomes."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """The fields of config.json that decide shapes and mathematics."""

    vocab_size: int = 1536
    hidden_size: int = 256
    intermediate_size: int = 512
    moe_intermediate_size: int = 48
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    q_lora_rank: int = 96
    kv_lora_rank: int = 64
    qk_nope_head_dim: int = 32
    qk_rope_head_dim: int = 16
    v_head_dim: int = 32
    n_routed_experts: int = 16
    num_experts_per_tok: int = 4
    n_group: int = 4
    topk_group: int = 2
    routed_scaling_factor: float = 2.5
    first_k_dense_replace: int = 1
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_factor: float = 4.0
    rope_original: int = 2048
    rope_beta_fast: float = 32.0
    rope_beta_slow: float = 1.0


def yarn_frequencies(shape: Shape) -> Tensor:
    """Inverse frequencies, stretched by YaRN where the wavelength exceeds the original context."""
    d, base = shape.qk_rope_head_dim, shape.rope_theta
    plain = base ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)

    def corner(turns: float) -> float:
        return d * math.log(shape.rope_original / (2 * math.pi * turns)) / (2 * math.log(base))

    low, high = max(math.floor(corner(shape.rope_beta_fast)), 0), min(math.ceil(corner(shape.rope_beta_slow)), d - 1)
    ramp = ((torch.arange(d // 2) - low) / (high - low if high > low else 0.001)).clamp(0, 1)
    return (plain / shape.rope_factor * ramp + plain * (1 - ramp)).float()


class Norm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class Rotary:
    """Cosines and sines, [positions, rope / 2]; rotation of interleaved pairs."""

    def __init__(self, shape: Shape, positions: int):
        angles = torch.outer(torch.arange(positions).float(), yarn_frequencies(shape))
        self.cos, self.sin = angles.cos(), angles.sin()

    def __call__(self, x: Tensor) -> Tensor:
        length = x.shape[-2]
        cos, sin = self.cos[:length].to(x.dtype), self.sin[:length].to(x.dtype)
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.cat([even * cos - odd * sin, even * sin + odd * cos], -1)


class Attention(nn.Module):
    """Multi-head latent attention in its naive form. (Rotated halves are stored apart: scores do not care.)"""

    def __init__(self, s: Shape):
        super().__init__()
        self.s = s
        per_query = s.qk_nope_head_dim + s.qk_rope_head_dim
        self.q_a_proj = nn.Linear(s.hidden_size, s.q_lora_rank, bias=False)
        self.q_a_layernorm = Norm(s.q_lora_rank, 1e-6)
        self.q_b_proj = nn.Linear(s.q_lora_rank, s.num_attention_heads * per_query, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(s.hidden_size, s.kv_lora_rank + s.qk_rope_head_dim, bias=False)
        self.kv_a_layernorm = Norm(s.kv_lora_rank, 1e-6)
        self.kv_b_proj = nn.Linear(s.kv_lora_rank, s.num_attention_heads * (s.qk_nope_head_dim + s.v_head_dim), bias=False)
        self.o_proj = nn.Linear(s.num_attention_heads * s.v_head_dim, s.hidden_size, bias=False)
        stretch = 0.1 * math.log(s.rope_factor) + 1.0
        self.scale = per_query**-0.5 * stretch * stretch

    def forward(self, x: Tensor, rotary: Rotary) -> Tensor:
        s, (batch, length, _) = self.s, x.shape
        heads, nope, rope = s.num_attention_heads, s.qk_nope_head_dim, s.qk_rope_head_dim
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))).view(batch, length, heads, nope + rope).transpose(1, 2)
        q_nope, q_rope = q.split([nope, rope], -1)
        latent, k_rope = self.kv_a_proj_with_mqa(x).split([s.kv_lora_rank, rope], -1)
        kv = self.kv_b_proj(self.kv_a_layernorm(latent)).view(batch, length, heads, nope + s.v_head_dim).transpose(1, 2)
        k_nope, value = kv.split([nope, s.v_head_dim], -1)
        query = torch.cat([q_nope, rotary(q_rope)], -1)
        keys = torch.cat([k_nope, rotary(k_rope[:, None]).expand(batch, heads, length, rope)], -1)
        query, keys, value = (part.flatten(0, 1) for part in (query, keys, value))
        # The plain form: on a CPU in bf16 the fused kernel is slower at these lengths.
        future = torch.full((length, length), -math.inf, dtype=query.dtype).triu(1)
        scores = torch.baddbmm(future.expand(batch * heads, -1, -1), query, keys.mT, alpha=self.scale)
        out = torch.bmm(scores.softmax(-1), value).view(batch, heads, length, s.v_head_dim)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, heads * s.v_head_dim))


class Mlp(nn.Module):
    def __init__(self, hidden: int, inner: int):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Dispatch(torch.autograd.Function):
    """Copies each token's row into its experts' slots. (Indexing alone would add gradients row by row.)"""

    @staticmethod
    def forward(context, rows: Tensor, token_of_slot: Tensor, slots: Tensor) -> Tensor:
        context.save_for_backward(slots)
        return rows.index_select(0, token_of_slot)

    @staticmethod
    def backward(context, gradient: Tensor):
        (slots,) = context.saved_tensors
        return gradient.index_select(0, slots.flatten()).view(*slots.shape, -1).sum(1), None, None


class Collect(torch.autograd.Function):
    """Takes each token's results out of the slots: [slots, hidden] → [tokens, k, hidden]."""

    @staticmethod
    def forward(context, results: Tensor, slots: Tensor) -> Tensor:
        context.save_for_backward(slots)
        context.count = len(results)
        return results.index_select(0, slots.flatten()).view(*slots.shape, -1)

    @staticmethod
    def backward(context, gradient: Tensor):
        (slots,) = context.saved_tensors
        flat = gradient.flatten(0, 1)
        return flat.new_zeros(context.count, flat.shape[-1]).index_copy_(0, slots.flatten(), flat), None


class Experts(nn.Module):
    """The router (noaux_tc) and the experts: each expert gets equally many slots, so that one batched product serves
    all. Slots that no token needs compute on row 0 and are never read."""

    def __init__(self, s: Shape):
        super().__init__()
        self.s = s
        experts, hidden, inner = s.n_routed_experts, s.hidden_size, s.moe_intermediate_size
        self.router = nn.Parameter(torch.empty(experts, hidden))
        self.gate_up = nn.Parameter(torch.empty(experts, 2 * inner, hidden))
        self.down = nn.Parameter(torch.empty(experts, hidden, inner))
        self.shared_experts = Mlp(hidden, inner)
        self.register_buffer("bias", torch.zeros(experts))
        self.register_buffer("load", torch.zeros(experts), persistent=False)

    def choose(self, scores: Tensor) -> Tensor:
        s = self.s
        biased = scores.detach() + self.bias
        groups = biased.view(-1, s.n_group, s.n_routed_experts // s.n_group).topk(2, -1).values.sum(-1)
        kept = torch.zeros_like(groups).scatter_(1, groups.topk(s.topk_group, -1).indices, 1.0).bool()
        allowed = kept[:, :, None].expand(-1, -1, s.n_routed_experts // s.n_group).reshape_as(biased)
        return biased.masked_fill(~allowed, -math.inf).topk(s.num_experts_per_tok, -1).indices

    def slots(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Which token each slot computes, and the slots of each token: [experts * capacity], [tokens, k]."""
        flat = chosen.flatten()
        counts = torch.bincount(flat, minlength=self.s.n_routed_experts)
        if self.training:
            self.load += counts
        # A few sizes only: every new one costs the matrix library a compilation.
        capacity = -(-int(counts.max()) // 256) * 256
        order = flat.argsort(stable=True)
        starts = counts.cumsum(0) - counts
        places = torch.arange(len(flat)) - starts[flat[order]] + flat[order] * capacity
        slots = torch.empty_like(flat)
        slots[order] = places
        token_of_slot = torch.zeros(self.s.n_routed_experts * capacity, dtype=torch.long)
        token_of_slot[places] = order // self.s.num_experts_per_tok
        return token_of_slot, slots.view_as(chosen)

    def forward(self, x: Tensor) -> Tensor:
        s, rows = self.s, x.reshape(-1, x.shape[-1])
        with torch.autocast("cpu", enabled=False):
            scores = torch.sigmoid(rows.float() @ self.router.t())
        chosen = self.choose(scores)
        weights = scores.gather(1, chosen)
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20) * s.routed_scaling_factor
        token_of_slot, slots = self.slots(chosen)
        inputs = Dispatch.apply(rows, token_of_slot, slots).view(s.n_routed_experts, -1, rows.shape[-1])
        gate, up = torch.bmm(inputs, self.gate_up.to(rows.dtype).mT).chunk(2, -1)
        results = torch.bmm(F.silu(gate) * up, self.down.to(rows.dtype).mT)
        back = Collect.apply(results.flatten(0, 1), slots)
        mixed = torch.einsum("nkh,nk->nh", back, weights.to(back.dtype))
        return (mixed + self.shared_experts(rows)).view_as(x)


class Layer(nn.Module):
    def __init__(self, s: Shape, dense: bool):
        super().__init__()
        self.input_layernorm = Norm(s.hidden_size, s.rms_norm_eps)
        self.self_attn = Attention(s)
        self.post_attention_layernorm = Norm(s.hidden_size, s.rms_norm_eps)
        self.mlp = Mlp(s.hidden_size, s.intermediate_size) if dense else Experts(s)

    def forward(self, x: Tensor, rotary: Rotary) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotary)
        return x + self.mlp(self.post_attention_layernorm(x))


class Predictor(nn.Module):
    """The multi-token-prediction module: from a hidden state and the next token to the token after it."""

    def __init__(self, s: Shape):
        super().__init__()
        self.enorm, self.hnorm = Norm(s.hidden_size, s.rms_norm_eps), Norm(s.hidden_size, s.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * s.hidden_size, s.hidden_size, bias=False)
        self.layer = Layer(s, dense=False)
        self.norm = Norm(s.hidden_size, s.rms_norm_eps)

    def forward(self, embedded: Tensor, hidden: Tensor, rotary: Rotary) -> Tensor:
        x = self.eh_proj(torch.cat([self.enorm(embedded), self.hnorm(hidden)], -1))
        return self.norm(self.layer(x, rotary))


class Model(nn.Module):
    def __init__(self, s: Shape, positions: int = 2048):
        super().__init__()
        self.s = s
        self.embed_tokens = nn.Parameter(torch.empty(s.vocab_size, s.hidden_size))
        self.layers = nn.ModuleList(Layer(s, dense=i < s.first_k_dense_replace) for i in range(s.num_hidden_layers))
        self.norm = Norm(s.hidden_size, s.rms_norm_eps)
        self.lm_head = nn.Parameter(torch.empty(s.vocab_size, s.hidden_size))
        self.predictor = Predictor(s)
        self.rotary = Rotary(s, positions)
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                nn.init.normal_(parameter, std=0.02 if name == "embed_tokens" else parameter.shape[-1] ** -0.5 * 0.6)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """ids [batch, length] → final hidden states [batch, length, hidden] and the predictor's
        [batch, length - 1, hidden]: the head makes logits of the next token, and of the one after, from them."""
        embedded = F.embedding(ids, self.embed_tokens).to(self.activation_type())
        hidden = embedded
        for layer in self.layers:
            hidden = layer(hidden, self.rotary)
        hidden = self.norm(hidden)
        return hidden, self.predictor(embedded[:, 1:], hidden[:, :-1], self.rotary)

    def head(self, hidden: Tensor) -> Tensor:
        return hidden @ self.lm_head.to(hidden.dtype).t()

    def activation_type(self) -> torch.dtype:
        return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else self.lm_head.dtype

    def experts(self) -> list[Experts]:
        return [module for module in self.modules() if isinstance(module, Experts)]
