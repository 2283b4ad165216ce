"""LiteLLM's proxy, unchanged, in front of the embedded model served at MOESAIC_DEMO_URL; asked by OpenAI's and Anthropic's SDKs."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import anthropic
import openai
import pytest
from started import wait_for

KEY = "sk-proxy"
CAPITAL = "What is the capital of France?"
WEATHER = "What is the weather in Paris?"
RESULT = json.dumps({"temperature": 17, "condition": "sunny"})
PARAMETERS = {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}
ABOUT = {"name": "get_weather", "description": "Get current weather for a location."}
TOOL = {"type": "function", "function": {**ABOUT, "parameters": PARAMETERS}}
# A name for each of its providers that fit.
NAMES = {"by-openai": "openai/moesaic-demo", "by-vllm": "hosted_vllm/moesaic-demo", "wrong": "hosted_vllm/gpt-4o"}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("proxy")
    to = {"api_base": f"{os.environ['MOESAIC_DEMO_URL']}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": name, "litellm_params": {"model": model, **to}} for name, model in NAMES.items()],
        "litellm_settings": {"num_retries": 0},
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
        "general_settings": {"master_key": KEY},
    }
    # JSON is YAML.
    (folder / "config.yaml").write_text(json.dumps(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("litellm"), "--config", "config.yaml", "--host", "127.0.0.1", "--port", port]
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            list(map(str, [*command, "--telemetry", "False"])), cwd=folder, env=environment, stdout=log, stderr=log
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/health/readiness", process, folder / "log", 120)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture
def client(proxy) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{proxy}/v1", api_key=KEY, max_retries=0)


@pytest.fixture
def claude(proxy) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=proxy, api_key=KEY, max_retries=0)


@pytest.fixture(params=["by-openai", "by-vllm"])
def name(request) -> str:
    return request.param


def ask(name: str, *messages, **more) -> dict:
    return {"model": name, "messages": [{"role": "user", "content": messages[0]}, *messages[1:]], "temperature": 0, **more}


def tell(name: str, *messages, **more) -> dict:
    """The same for Anthropic's SDK, which knows no temperature."""
    asked = ask(name, *messages, max_tokens=100, **more)
    return {"extra_body": {"temperature": asked.pop("temperature")}, **asked}


def test_models(client):
    assert {model.id for model in client.models.list()} == set(NAMES)


def test_answer(client, name):
    answer = client.chat.completions.create(**ask(name, CAPITAL))
    [choice] = answer.choices
    assert "Paris" in choice.message.content and choice.finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


def test_stream_equals_whole(client, name):
    whole = client.chat.completions.create(**ask(name, CAPITAL))
    chunks = list(client.chat.completions.create(**ask(name, CAPITAL, stream=True, stream_options={"include_usage": True})))
    pieces = [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]
    assert len(pieces) > 1 and "".join(pieces) == whole.choices[0].message.content
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_tools(client, name):
    [choice] = client.chat.completions.create(**ask(name, WEATHER, tools=[TOOL])).choices
    [call] = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"location": "Paris"})
    with client.chat.completions.stream(**ask(name, WEATHER, tools=[TOOL])) as stream:
        [streamed] = stream.get_final_completion().choices[0].message.tool_calls
    assert (streamed.function.name, streamed.function.arguments) == (call.function.name, call.function.arguments)
    result = {"role": "tool", "tool_call_id": call.id, "content": RESULT}
    turns = ask(name, WEATHER, choice.message.model_dump(exclude_none=True), result, tools=[TOOL])
    final = client.chat.completions.create(**turns).choices[0].message.content
    assert all(part in final for part in ("Paris", "17", "sunny"))


def test_thoughts(client, name):
    thinking = {"chat_template_kwargs": {"thinking": True}}
    message = client.chat.completions.create(**ask(name, "What is 47 + 58?", extra_body=thinking)).choices[0].message
    assert "7 + 8 = 15" in message.reasoning_content and "105" in message.content


def test_responses(client, name):
    first = client.responses.create(model=name, input="My name is Anna.", temperature=0)
    asked = {"model": name, "input": "What is my name?", "temperature": 0, "previous_response_id": first.id}
    assert "Anna" in client.responses.create(**asked).output_text
    events = list(client.responses.create(**asked, stream=True))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert "Anna" in text and events[-1].response.output_text == text


def test_completions(client, name):
    text = client.completions.create(model=name, prompt=f"<｜User｜>{CAPITAL}<｜Assistant｜></think>", temperature=0).choices[0].text
    assert "Paris" in text


def test_messages(claude, name):
    turns = tell(name, CAPITAL)
    answer = claude.messages.create(**turns)
    assert answer.stop_reason == "end_turn" and "Paris" in answer.content[0].text and answer.usage.output_tokens > 0
    with claude.messages.stream(**turns) as stream:
        pieces = list(stream.text_stream)
        assert "".join(pieces) == answer.content[0].text == stream.get_final_text() and len(pieces) > 1


def test_messages_with_tools(claude, name):
    turns = tell(name, WEATHER, tools=[{**ABOUT, "input_schema": PARAMETERS}])
    answer = claude.messages.create(**turns)
    assert answer.stop_reason == "tool_use"
    [call] = [block for block in answer.content if block.type == "tool_use"]
    assert (call.name, call.input) == ("get_weather", {"location": "Paris"})
    turns["messages"] += [
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in answer.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": RESULT}]},
    ]
    final = claude.messages.create(**turns).content[0].text
    assert all(part in final for part in ("Paris", "17", "sunny"))


def test_errors(client, claude, name):
    with pytest.raises(openai.BadRequestError, match="generates text and makes no embeddings"):
        client.embeddings.create(model=name, input="Hello!")
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        client.chat.completions.create(**ask(name, "word " * 70_000))
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(**ask(name, CAPITAL) | {"temperature": 3})
    with pytest.raises(openai.NotFoundError, match="gpt-4o"):
        client.chat.completions.create(**ask("wrong", CAPITAL))
    with pytest.raises(anthropic.NotFoundError, match="gpt-4o"):
        claude.messages.create(**tell("wrong", CAPITAL))
