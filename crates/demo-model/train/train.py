"""Trains the demo model on CPU cores; resumable.

    python train.py --steps 2000 --run /tmp/demo-run

The run folder keeps the checkpoint, the curves (log.jsonl) and the last examination. Started again with the same
folder, training goes on where it stopped.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from examine import examine
from model import Model, Shape
from optimizer import Muon
from render import GIVEN, document, encode
from tokenizer import DATA
from world.common import Source

LENGTHS = [48, 64, 96, 128, 192, 256, 384, 640, 1024]
TOKENS_PER_BATCH = 6144
BATCHES_PER_STEP = 2
WARM_UP = 60
DECAY_SHARE = 0.45
PAD_ID = 2
PREDICTOR_WEIGHT = 0.3
# The bias moves fast at first, when the experts have not yet parted, and then as slowly as DeepSeek-V3's.
BALANCE_SPEED, BALANCE_SPEED_AT_FIRST, BALANCE_STEPS = 1e-3, 0.02, 400
EXAMINE_EVERY = 250


def batches(tokenizer: Tokenizer, seed: int, skip: int):
    """Endless micro-batches of documents of like length, padded on the right; a pure function of the seed.

    Only a few shapes occur, because every new one costs the matrix library a compilation."""
    waiting = {length: [] for length in LENGTHS}
    source, made = Source(seed, examination=False), 0
    while True:
        for pair in encode(tokenizer, [document(source) for _ in range(64)]):
            length = next((length for length in LENGTHS if length >= len(pair[0])), None)
            if length:
                waiting[length].append(pair)
        for length, group in waiting.items():
            rows = TOKENS_PER_BATCH // length
            if len(group) >= rows:
                made += 1
                if made > skip:
                    yield padded(group[:rows], length)
                waiting[length] = group[rows:]


def padded(group: list, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids, and which tokens belong to answers: both [documents, length]."""
    ids, answers = torch.full((len(group), length), PAD_ID), torch.zeros(len(group), length, dtype=torch.bool)
    for row, (tokens, kinds) in enumerate(group):
        ids[row, : len(tokens)] = torch.from_numpy(tokens.astype(np.int64))
        answers[row, : len(tokens)] = torch.from_numpy(kinds != GIVEN)
    return ids, answers


def losses(model: Model, ids: torch.Tensor, answers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed over the tokens of answers, which alone are learnt: of the main model and of the predictor."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden, ahead = model(ids)

        def of(states, steps):
            wanted = answers[:, steps:]
            logits = model.head(states[:, : ids.shape[1] - steps][wanted])
            return F.cross_entropy(logits.float(), ids[:, steps:][wanted], reduction="sum")

        return of(hidden, 1), of(ahead, 2)


def schedule(step: int, steps: int) -> float:
    """Warm-up, a plateau, and a linear descent."""
    return min(1.0, (step + 1) / WARM_UP, (steps - step) / (steps * DECAY_SHARE))


def balance(model: Model, step: int) -> float:
    """DeepSeek-V3's balancing without a loss: the bias of a crowded expert falls, that of an idle one rises."""
    worst = 0.0
    speed = max(BALANCE_SPEED, BALANCE_SPEED_AT_FIRST * (1 - step / BALANCE_STEPS))
    for experts in model.experts():
        mean = experts.load.mean()
        worst = max(worst, (experts.load.max() / mean).item())
        experts.bias += speed * ((mean - experts.load) / mean * 4).clamp(-1, 1)
        experts.load.zero_()
    return worst


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--run", type=Path, required=True)
    arguments.add_argument("--steps", type=int, required=True)
    arguments.add_argument("--seed", type=int, default=1)
    arguments = arguments.parse_args()
    arguments.run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)
    tokenizer = Tokenizer.from_file(str(DATA / "tokenizer.json"))
    model = Model(Shape())
    optimizer = Muon(model)
    checkpoint, log = arguments.run / "checkpoint.pt", arguments.run / "log.jsonl"
    first = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, from step {first} to {arguments.steps}", flush=True)
    began, seen = time.time(), 0
    source = batches(tokenizer, arguments.seed, first * BATCHES_PER_STEP)
    for step in range(first, arguments.steps):
        micro = [next(source) for _ in range(BATCHES_PER_STEP)]
        total = sum(answers[:, 1:].sum().item() for _, answers in micro)
        sums = [0.0, 0.0]
        for ids, answers in micro:
            main_loss, predictor_loss = losses(model, ids, answers)
            ((main_loss + PREDICTOR_WEIGHT * predictor_loss) / total).backward()
            sums = [sums[0] + main_loss.item(), sums[1] + predictor_loss.item()]
            seen += ids.numel()
        optimizer.step(schedule(step, arguments.steps))
        crowding = balance(model, step)
        if step % 10 == 0 or step == arguments.steps - 1:
            line = {"step": step, "loss": round(sums[0] / total, 4), "predictor_loss": round(sums[1] / total, 4),
                    "crowding": round(crowding, 2), "tokens_per_second": round(seen / (time.time() - began))}
            with log.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(line, flush=True)
        if (step + 1) % EXAMINE_EVERY == 0 or step == arguments.steps - 1:
            results = examine(model, tokenizer, documents=1500 if step + 1 < arguments.steps else 6000)
            with log.open("a") as file:
                file.write(json.dumps({"step": step, "examination": results}) + "\n")
            print(results, flush=True)
            partial = checkpoint.with_suffix(".new")
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, partial)
            partial.replace(checkpoint)


if __name__ == "__main__":
    main()
