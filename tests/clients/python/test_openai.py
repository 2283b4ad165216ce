"""The official OpenAI SDK, unchanged, against a served DeepSeek-V3-shaped checkpoint.

Every response and chunk is validated against the SDK's own types: it constructs them without
checking, so `strict` does the checking here.
"""

import asyncio

import openai
import pytest
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from prometheus_client.parser import text_string_to_metric_families

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say something about the sea. 海"}]


def strict(value):
    """Validates a response by the SDK's types and gives it back."""
    return type(value).model_validate(value.model_dump(mode="json"), strict=False)


def test_models(client):
    models = client.models.list().data
    assert [type(strict(model)) for model in models] == [Model]
    assert client.models.retrieve(models[0].id).id == models[0].id


def test_chat(client):
    answer = client.chat.completions.create(model=model(client), messages=MESSAGES, max_tokens=12, seed=7)
    assert isinstance(strict(answer), ChatCompletion)
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in ("length", "stop")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    again = client.chat.completions.create(model=model(client), messages=MESSAGES, max_tokens=12, seed=7)
    assert again.choices[0].message.content == choice.message.content
    assert again.system_fingerprint == answer.system_fingerprint


def test_chat_stream_equals_whole(client):
    request = dict(model=model(client), messages=MESSAGES, max_tokens=20, temperature=0, n=2)
    whole = client.chat.completions.create(**request)
    texts, finished, usage = {0: "", 1: ""}, {}, None
    for chunk in client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}):
        assert isinstance(strict(chunk), ChatCompletionChunk)
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                finished[choice.index] = choice.finish_reason
    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    assert finished == {choice.index: choice.finish_reason for choice in whole.choices}
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_stream_helper(client):
    request = dict(model=model(client), messages=MESSAGES, max_tokens=20, temperature=0)
    text = client.chat.completions.create(**request).choices[0].message.content
    # The helper takes an answer that ends for length as an error, so this one ends at a stop string.
    with client.chat.completions.stream(**request, stop=text[10:13]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "content.delta" in kinds and "chunk" in kinds
    assert final.choices[0].finish_reason == "stop"
    assert final.choices[0].message.content == text[: text.index(text[10:13])]


def test_async(async_client, client):
    name = model(client)

    async def ask(seed: int) -> str:
        stream = await async_client.chat.completions.create(
            model=name, messages=MESSAGES, max_tokens=10, seed=seed, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    async def ask_all() -> list[str]:
        return await asyncio.gather(*(ask(seed) for seed in range(8)))

    together = asyncio.run(ask_all())
    alone = [
        client.chat.completions.create(model=name, messages=MESSAGES, max_tokens=10, seed=seed).choices[0].message.content
        for seed in range(8)
    ]
    assert together == alone


def test_logprobs(client):
    answer = client.chat.completions.create(
        model=model(client), messages=MESSAGES, max_tokens=4, logprobs=True, top_logprobs=5, temperature=0
    )
    content = strict(answer).choices[0].logprobs.content
    assert len(content) == 4
    for token in content:
        assert len(token.top_logprobs) == 5
        # Greedy: the chosen token is the most likely one.
        assert token.token == token.top_logprobs[0].token and token.logprob == token.top_logprobs[0].logprob


def test_completions(client):
    answer = client.completions.create(
        model=model(client), prompt=["The sea", "Two ships"], n=2, max_tokens=5, temperature=0, echo=True
    )
    assert isinstance(strict(answer), Completion)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert all(choice.text.startswith(("The sea", "Two ships")[choice.index // 2]) for choice in answer.choices)
    pieces = {}
    for chunk in client.completions.create(
        model=model(client), prompt=["The sea", "Two ships"], n=2, max_tokens=5, temperature=0, echo=True, stream=True
    ):
        for choice in chunk.choices:
            # Null until the end, as OpenAI's own pieces have it; the SDK's type forgets that.
            choice.finish_reason = choice.finish_reason or "stop"
        assert isinstance(strict(chunk), Completion)
        for choice in chunk.choices:
            pieces[choice.index] = pieces.get(choice.index, "") + choice.text
    assert pieces == {choice.index: choice.text for choice in answer.choices}


def test_completion_logprobs(client):
    answer = client.completions.create(model=model(client), prompt="The sea", max_tokens=5, temperature=0, logprobs=3)
    logprobs = strict(answer).choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == 5
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs):
        assert len(top) == 3 and top[token] == logprob == max(top.values())


def test_token_ids(client):
    answer = client.completions.create(
        model=model(client), prompt=[5, 6, 7], max_tokens=3, extra_body={"return_token_ids": True}
    )
    assert len(answer.choices[0].token_ids) == 3 and answer.choices[0].prompt_token_ids == [5, 6, 7]


def test_a_dropped_stream(client, server):
    stream = client.chat.completions.create(model=model(client), messages=MESSAGES, max_tokens=2000, stream=True)
    next(iter(stream))
    stream.close()
    for _ in range(50):
        if metrics(server)["vllm:num_requests_running"] == 0:
            return
    pytest.fail("the dropped request still runs")


def test_errors(client, server):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model=model(client), messages=[], max_tokens=1)
    assert error.value.param == "messages" and error.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert error.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError) as error:
        openai.OpenAI(base_url=f"{server}/v1", api_key="wrong").models.list()
    assert error.value.code == "invalid_api_key"
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model=model(client), prompt="word " * 70_000)
    assert error.value.code == "context_length_exceeded"


def test_metrics_parse(client, server):
    client.completions.create(model=model(client), prompt=[5, 6, 7], max_tokens=3)
    values = metrics(server)
    assert values["vllm:generation_tokens_total"] >= 3
    for name in ("vllm:time_to_first_token_seconds", "vllm:e2e_request_latency_seconds", "vllm:iteration_tokens_total"):
        assert values[f"{name}_count"] >= 1, name


def metrics(server: str) -> dict[str, float]:
    """All samples by name, read with Prometheus' own parser."""
    import urllib.request

    text = urllib.request.urlopen(f"{server}/metrics").read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.name: sample.value for sample in samples}


def model(client) -> str:
    return client.models.list().data[0].id
