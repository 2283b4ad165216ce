"""Writes a trained run as a checkpoint in Hugging Face layout, and what transformers computes with it.

    python export.py --run /tmp/moesaic-demo-run

The checkpoint goes to data/, the reference's logits to tests/golden/demo_model/logits.json, the record of the
training to train/record.json.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from examine import examine
from model import Model, Shape
from tokenizer import DATA

GOLDEN = DATA.parents[2] / "tests" / "golden" / "demo_model" / "logits.json"
RECORD = Path(__file__).parent / "record.json"
PROMPTS = [
    "<｜begin▁of▁sentence｜><｜User｜>Hello!<｜Assistant｜></think>",
    "<｜begin▁of▁sentence｜><｜User｜>What is 47 + 58?<｜Assistant｜><think>7 + 8 = 15, write 5 carry 1.",
    "<｜begin▁of▁sentence｜>You are a helpful assistant.<｜User｜>你好，我叫李明。<｜Assistant｜></think>",
    "<｜begin▁of▁sentence｜>Once upon a time there was a small fox who lived",
]


def config(s: Shape) -> dict:
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "vocab_size": s.vocab_size,
        "hidden_size": s.hidden_size,
        "intermediate_size": s.intermediate_size,
        "moe_intermediate_size": s.moe_intermediate_size,
        "num_hidden_layers": s.num_hidden_layers,
        "num_attention_heads": s.num_attention_heads,
        "num_key_value_heads": s.num_attention_heads,
        "n_shared_experts": 1,
        "n_routed_experts": s.n_routed_experts,
        "routed_scaling_factor": s.routed_scaling_factor,
        "kv_lora_rank": s.kv_lora_rank,
        "q_lora_rank": s.q_lora_rank,
        "qk_rope_head_dim": s.qk_rope_head_dim,
        "v_head_dim": s.v_head_dim,
        "qk_nope_head_dim": s.qk_nope_head_dim,
        "topk_method": "noaux_tc",
        "n_group": s.n_group,
        "topk_group": s.topk_group,
        "num_experts_per_tok": s.num_experts_per_tok,
        "moe_layer_freq": 1,
        "first_k_dense_replace": s.first_k_dense_replace,
        "norm_topk_prob": True,
        "scoring_func": "sigmoid",
        "num_nextn_predict_layers": 1,
        "hidden_act": "silu",
        # How long a prompt may be, not what the rotary embedding was made for: that is the factor below, as trained.
        "max_position_embeddings": 65536,
        "rms_norm_eps": s.rms_norm_eps,
        "rope_theta": s.rope_theta,
        "rope_scaling": {
            "type": "yarn",
            "factor": s.rope_factor,
            "original_max_position_embeddings": s.rope_original,
            "beta_fast": s.rope_beta_fast,
            "beta_slow": s.rope_beta_slow,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        },
        "attention_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "bfloat16",
    }


def layer_tensors(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One decoder layer: the trainer's names are the checkpoint's, but for the experts, which are stacked there."""
    tensors = {}
    for name, value in state.items():
        match name:
            case "mlp.router":
                tensors[f"{prefix}.mlp.gate.weight"] = value
            case "mlp.bias":
                tensors[f"{prefix}.mlp.gate.e_score_correction_bias"] = value
            case "mlp.gate_up":
                for expert, both in enumerate(value):
                    gate, up = both.chunk(2)
                    tensors[f"{prefix}.mlp.experts.{expert}.gate_proj.weight"] = gate
                    tensors[f"{prefix}.mlp.experts.{expert}.up_proj.weight"] = up
            case "mlp.down":
                for expert, down in enumerate(value):
                    tensors[f"{prefix}.mlp.experts.{expert}.down_proj.weight"] = down
            case _:
                tensors[f"{prefix}.{name}"] = value
    return tensors


def tensors(model: Model) -> dict[str, torch.Tensor]:
    state = model.state_dict()

    def below(prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}

    layers = model.s.num_hidden_layers
    named = {
        "model.embed_tokens.weight": state["embed_tokens"],
        "model.norm.weight": state["norm.weight"],
        "lm_head.weight": state["lm_head"],
    }
    for layer in range(layers):
        named |= layer_tensors(f"model.layers.{layer}", below(f"layers.{layer}."))
    predictor = f"model.layers.{layers}"
    named |= layer_tensors(predictor, below("predictor.layer."))
    named |= {
        f"{predictor}.embed_tokens.weight": state["embed_tokens"],
        f"{predictor}.enorm.weight": state["predictor.enorm.weight"],
        f"{predictor}.hnorm.weight": state["predictor.hnorm.weight"],
        f"{predictor}.eh_proj.weight": state["predictor.eh_proj.weight"],
        f"{predictor}.shared_head.norm.weight": state["predictor.norm.weight"],
        f"{predictor}.shared_head.head.weight": state["lm_head"],
    }
    return {
        name: (value if name.endswith("e_score_correction_bias") else value.bfloat16()).clone().contiguous()
        for name, value in named.items()
    }


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def record_logits(tokenizer: Tokenizer) -> None:
    """What transformers computes with the written checkpoint, in f32: the last position's row for each prompt."""
    reference = AutoModelForCausalLM.from_pretrained(DATA, dtype=torch.float32, attn_implementation="eager").eval()
    cases = []
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids
        row = reference(torch.tensor([ids])).logits[0, -1]
        cases.append({"prompt": prompt, "ids": ids, "logits": [round(value, 5) for value in row.tolist()]})
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    GOLDEN.write_text(f'{{"note": "transformers, f32, the last row of each prompt", "cases": [\n{lines}\n]}}\n', encoding="utf-8")


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--run", type=Path, required=True)
    run = arguments.parse_args().run
    tokenizer = Tokenizer.from_file(str(DATA / "tokenizer.json"))
    model = Model(Shape())
    saved = torch.load(run / "checkpoint.pt")
    model.load_state_dict(saved["model"])
    named = tensors(model)
    save_file(named, DATA / "model.safetensors", metadata={"format": "pt"})
    write_json(DATA / "config.json", config(model.s))
    write_json(DATA / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 1, "do_sample": True, "temperature": 0.2, "top_p": 0.95, "max_new_tokens": 8192})
    record_logits(tokenizer)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    # A step that was run again after an interruption counts as it was run last.
    curve = {line["step"]: [line["loss"], line["predictor_loss"]] for line in log if "loss" in line and line["step"] % 50 == 0}
    write_json(
        RECORD,
        {
            "steps": saved["step"],
            "parameters": sum(value.numel() for value in named.values()),
            "held_out": examine(model, tokenizer, documents=6000),
            "loss_and_predictor_loss": curve,
        },
    )


if __name__ == "__main__":
    main()
