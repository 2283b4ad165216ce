"""LiteLLM, unchanged, against the embedded model served at MOESAIC_DEMO_URL.

As both of its providers that fit: "openai" goes through OpenAI's SDK, "hosted_vllm" speaks HTTP itself.
"""

import asyncio
import json
import os

# It would fetch the prices of other people's models.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
import pytest
from pydantic import BaseModel

litellm.telemetry = False
CAPITAL = "What is the capital of France?"
WEATHER = "What is the weather in Paris?"
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get current weather for a location.",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
    },
}


class Event(BaseModel):
    name: str
    date: str
    participants: list[str]


@pytest.fixture(params=["openai", "hosted_vllm"])
def provider(request) -> str:
    return request.param


def request(provider: str, content: str, **more) -> dict:
    return {
        "model": f"{provider}/moesaic-demo", "api_base": f"{os.environ['MOESAIC_DEMO_URL']}/v1", "api_key": "none",
        "messages": [{"role": "user", "content": content}], "temperature": 0, "max_retries": 0, **more,
    }


def test_completion(provider):
    answer = litellm.completion(**request(provider, CAPITAL))
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


def test_stream_equals_whole(provider):
    whole = litellm.completion(**request(provider, CAPITAL))
    chunks = list(litellm.completion(**request(provider, CAPITAL), stream=True, stream_options={"include_usage": True}))
    assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks) > 1
    built = litellm.stream_chunk_builder(chunks)
    assert built.choices[0].message.content == whole.choices[0].message.content
    assert built.choices[0].finish_reason == "stop"
    assert built.usage.total_tokens == whole.usage.total_tokens


def test_async(provider):
    async def ask() -> tuple[str, list[str]]:
        answer = await litellm.acompletion(**request(provider, CAPITAL))
        stream = await litellm.acompletion(**request(provider, CAPITAL), stream=True)
        return answer.choices[0].message.content, [chunk.choices[0].delta.content or "" async for chunk in stream]

    text, pieces = asyncio.run(ask())
    assert "Paris" in text and "".join(pieces) == text and len(list(filter(None, pieces))) > 1


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "get_weather"}}])
def test_tools(provider, choice):
    ask = request(provider, WEATHER, tools=[TOOL])
    answer = litellm.completion(**ask, tool_choice=choice)
    assert answer.choices[0].finish_reason == "tool_calls"
    streamed = litellm.stream_chunk_builder(list(litellm.completion(**ask, tool_choice=choice, stream=True)))
    for message in (answer.choices[0].message, streamed.choices[0].message):
        [call] = message.tool_calls
        assert call.function.name == "get_weather" and json.loads(call.function.arguments) == {"location": "Paris"}
    result = json.dumps({"temperature": 17, "condition": "sunny"})
    ask["messages"] += [message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": result}]
    final = litellm.completion(**ask).choices[0].message.content
    assert all(part in final for part in ("Paris", "17", "sunny"))


def test_response_format(provider):
    ask = request(provider, "Alice and Bob are going to a science fair on Friday.", response_format=Event)
    ask["messages"].insert(0, {"role": "system", "content": "Extract the event information."})
    event = Event.model_validate_json(litellm.completion(**ask).choices[0].message.content)
    assert event == Event(name="science fair", date="Friday", participants=["Alice", "Bob"])


def test_thoughts(provider):
    ask = request(provider, "What is 47 + 58?", extra_body={"chat_template_kwargs": {"thinking": True}})
    message = litellm.completion(**ask).choices[0].message
    assert "7 + 8 = 15" in message.reasoning_content and "105" in message.content
    streamed = litellm.stream_chunk_builder(list(litellm.completion(**ask, stream=True))).choices[0].message
    assert (streamed.reasoning_content, streamed.content) == (message.reasoning_content, message.content)


def test_errors(provider):
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(**request(provider, "word " * 70_000))
    with pytest.raises(litellm.NotFoundError, match="gpt-4o"):
        litellm.completion(**request(provider, CAPITAL) | {"model": f"{provider}/gpt-4o"})
    with pytest.raises(litellm.BadRequestError, match="at least one message"):
        litellm.completion(**request(provider, CAPITAL) | {"messages": []})
