"""lm-eval, unchanged, against the embedded model served at MOESAIC_DEMO_URL, without a tokenizer of its own."""

import json
import math
import os
import urllib.request
from pathlib import Path

import pytest

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

import lm_eval
from lm_eval.tasks import TaskManager

URL = os.environ["MOESAIC_DEMO_URL"]
BEGIN = "<｜begin▁of▁sentence｜>"
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def manager(tmp_path_factory) -> TaskManager:
    import datasets

    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    return TaskManager(include_path=str(HERE), include_defaults=False)


def evaluate(manager, model: str, path: str, task: str, **more) -> tuple[dict, list[dict]]:
    """A task's results and samples."""
    arguments = {"model": "moesaic-demo", "base_url": f"{URL}{path}", "max_retries": 1}
    chat = model == "local-chat-completions"
    results = lm_eval.simple_evaluate(
        model=model, model_args={**arguments, **more}, tasks=[task], task_manager=manager, apply_chat_template=chat,
        bootstrap_iters=0,
    )
    return results["results"][task], results["samples"][task]


def ask(path: str, **body) -> dict:
    request = urllib.request.Request(URL + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def logprobs(text: str) -> list[tuple[int, float]]:
    """Where each token of a text begins, and the logarithm of its probability, as the API itself says."""
    body = {"model": "moesaic-demo", "prompt": text, "add_special_tokens": False, "temperature": 0}
    said = ask("/v1/completions", **body, max_tokens=1, echo=True, logprobs=1)["choices"][0]["logprobs"]
    return list(zip(said["text_offset"], said["token_logprobs"]))[:-1]


@pytest.mark.parametrize("more", [{"tokenizer_backend": "remote"}, {"batch_size": 4}, {"num_concurrent": 4}], ids=str)
def test_choices(manager, more):
    results, samples = evaluate(manager, "local-completions", "/v1/completions", "choose", **more)
    assert results["acc,none"] == 1.0 and len(samples) == 3
    for sample in samples:
        for (context, choice), [(likelihood, is_greedy)] in zip(sample["arguments"], sample["resps"]):
            own = [logprob for at, logprob in logprobs(context + choice) if at >= len(context)]
            assert likelihood == pytest.approx(sum(own), abs=1e-4)
            assert is_greedy == all(logprob > math.log(0.5) for logprob in own)
        greedy = [is_greedy for [(_, is_greedy)] in sample["resps"]]
        assert greedy == [index == sample["doc"]["right"] for index in range(3)]


def test_rolling_likelihood(manager):
    # It would take the id 0 for none at all, and begin with another token.
    more = {"tokenizer_backend": "remote", "custom_prefix_token_id": 0}
    results, samples = evaluate(manager, "local-completions", "/v1/completions", "surprise", **more)
    total, words = 0.0, 0
    for sample in samples:
        [text] = sample["arguments"][0]
        own = sum(logprob for _, logprob in logprobs(BEGIN + text) if logprob is not None)
        assert sample["resps"][0] == pytest.approx([own], abs=1e-3)
        total, words = total + own, words + len(text.split())
    assert len(samples) == 3 and results["word_perplexity,none"] == pytest.approx(math.exp(-total / words), rel=1e-3)


@pytest.mark.parametrize(("model", "path", "task"), [
    ("local-completions", "/v1/completions", "answer"),
    ("local-chat-completions", "/v1/chat/completions", "answer_in_chat"),
])
def test_answers(manager, model, path, task):
    results, samples = evaluate(manager, model, path, task)
    assert results["exact_match,last_word"] == 1.0
    assert all(sample["doc"]["answer"] in sample["resps"][0][0] for sample in samples), samples


def test_tokenizer():
    from lm_eval.utils import RemoteTokenizer

    tokenizer = RemoteTokenizer(f"{URL}/v1/completions")
    text = "What is 47 + 58? 你好"
    tokens = tokenizer.encode(text)
    assert tokens == ask("/tokenize", prompt=text, add_special_tokens=False)["tokens"] and len(tokens) > 5
    assert tokenizer.decode(tokens) == text
    assert tokenizer.bos_token == BEGIN and tokenizer.encode(BEGIN) == [tokenizer.bos_token_id] != [tokenizer.eos_token_id]
    assert "<｜Assistant｜>" in tokenizer.tokenizer_info["chat_template"]
