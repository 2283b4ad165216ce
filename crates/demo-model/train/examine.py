"""Examines the model on conversations that training never draws: held-out pairs, names, words and questions.

An answer counts as right when every token that decides it is the model's first choice, given the answer up to it;
greedy decoding then says the same. The predictor counts as right when its first choice is the main model's own.
"""

from collections import defaultdict

import numpy as np
import torch
from tokenizers import Tokenizer

from model import Model
from render import ANSWER, FIRST_KEY, GIVEN, TASKS, document, encode
from world.common import Source


@torch.no_grad()
def examine(model: Model, tokenizer: Tokenizer, documents: int, seed: int = 99) -> dict[str, float]:
    """Shares of right answers by task, the mean loss over answers, and how often the predictor agrees."""
    source = Source(seed, examination=True)
    encoded = sorted(encode(tokenizer, [document(source) for _ in range(documents)]), key=lambda pair: len(pair[0]))
    right, asked = defaultdict(int), defaultdict(int)
    agreed = guessed = 0
    loss_sum = loss_count = 0.0
    model.eval()
    for begin in range(0, len(encoded), 64):
        group = encoded[begin : begin + 64]
        length = max(len(ids) for ids, _ in group)
        ids = torch.full((len(group), length), 2)
        kinds = np.zeros((len(group), length), dtype=np.uint8)
        for row, (tokens, kind) in enumerate(group):
            ids[row, : len(tokens)] = torch.from_numpy(tokens.astype(np.int64))
            kinds[row, : len(tokens)] = kind
        with torch.autocast("cpu", dtype=torch.bfloat16):
            following, ahead = (model.head(hidden) for hidden in model(ids))
        scores = following[:, :-1].float().log_softmax(-1)
        each = -scores.gather(-1, ids[:, 1:, None])[..., 0].numpy()
        answers = kinds[:, 1:] != GIVEN
        loss_sum += each[answers].sum()
        loss_count += answers.sum()
        first = following.argmax(-1).numpy()
        # The predictor at i speaks about i + 2, the main model at i + 1; only where the text is the model's own.
        own = (kinds[:, 2:] != GIVEN) & (first[:, :-2] == ids[:, 1:-1].numpy())
        agreed += (ahead.argmax(-1).numpy()[:, : length - 2] == first[:, 1:-1])[own].sum()
        guessed += own.sum()
        count(first, ids.numpy(), kinds, right, asked)
    model.train()
    result = {task: round(right[task] / asked[task], 4) for task in TASKS if asked[task]}
    result["all"] = round(sum(right.values()) / sum(asked.values()), 4)
    result["loss"] = round(float(loss_sum / loss_count), 4)
    result["predictor"] = round(float(agreed / guessed), 4)
    return result


def count(first: np.ndarray, ids: np.ndarray, kinds: np.ndarray, right: dict, asked: dict) -> None:
    for row in range(len(ids)):
        task, good = None, True
        for position in range(1, ids.shape[1]):
            kind = kinds[row, position]
            if kind >= FIRST_KEY:
                task = TASKS[kind - FIRST_KEY]
                good &= first[row, position - 1] == ids[row, position]
            if task and (kind == GIVEN or position == ids.shape[1] - 1):
                asked[task] += 1
                right[task] += int(good)
                task, good = None, True
            assert kind in (GIVEN, ANSWER) or kind - FIRST_KEY < len(TASKS)
