"""Pydantic AI, unchanged, against the embedded model served at MOESAIC_DEMO_URL."""

import asyncio
import os

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, ThinkingPart, ToolCallPart, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

CAPITAL = "What is the capital of France?"
WEATHER = "What is the weather in Paris?"
FAIR = "Alice and Bob are going to a science fair on Friday."


class Event(BaseModel):
    name: str
    date: str
    participants: list[str]


def agent(model: str = "moesaic-demo", **more) -> Agent:
    provider = OpenAIProvider(base_url=f"{os.environ['MOESAIC_DEMO_URL']}/v1", api_key="none")
    return Agent(OpenAIChatModel(model, provider=provider), **{"model_settings": {"temperature": 0}, **more})


def with_weather(**more) -> Agent:
    weather = agent(**more)

    @weather.tool_plain
    def get_weather(location: str) -> dict:
        """Get current weather for a location."""
        return {"temperature": 17, "condition": "sunny"}

    return weather


def test_run():
    result = agent(instructions="Be brief.").run_sync(CAPITAL)
    assert "Paris" in result.output
    assert result.response.finish_reason == "stop" and result.response.model_name == "moesaic-demo"
    usage = result.usage
    assert usage.requests == 1 and usage.input_tokens > 0 and usage.output_tokens > 0


def test_history():
    first = agent().run_sync("My name is Zorvina.")
    assert "Zorvina" in agent().run_sync("What is my name?", message_history=first.all_messages()).output


def test_run_stream():
    async def ask() -> tuple[str, list[str], int]:
        async with agent().run_stream(CAPITAL) as result:
            pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
            return await result.get_output(), pieces, result.usage.output_tokens

    text, pieces, tokens = asyncio.run(ask())
    assert "Paris" in text and "".join(pieces) == text and len(pieces) > 1 and tokens > 0


def test_tool():
    result = with_weather().run_sync(WEATHER)
    [call] = [part for message in result.all_messages() for part in message.parts if isinstance(part, ToolCallPart)]
    assert (call.tool_name, call.args_as_dict()) == ("get_weather", {"location": "Paris"})
    assert all(part in result.output for part in ("Paris", "17", "sunny"))
    assert result.usage.requests == 2 and result.usage.tool_calls == 1


def test_tool_stream():
    async def ask() -> str:
        async with with_weather().run_stream(WEATHER) as result:
            return await result.get_output()

    assert all(part in asyncio.run(ask()) for part in ("Paris", "17", "sunny"))


@pytest.mark.parametrize("output", [ToolOutput, NativeOutput])
def test_output_type(output):
    event = agent(output_type=output(Event), instructions="Extract the event information.").run_sync(FAIR).output
    assert event == Event(name="science fair", date="Friday", participants=["Alice", "Bob"])


def test_thoughts():
    result = agent(model_settings={"temperature": 0, "openai_reasoning_effort": "high"}).run_sync("What is 47 + 58?")
    [thought] = [part for part in result.response.parts if isinstance(part, ThinkingPart)]
    assert "7 + 8 = 15" in thought.content and "105" in result.output


def test_errors():
    with pytest.raises(ModelHTTPError) as caught:
        agent("gpt-4o").run_sync(CAPITAL)
    assert caught.value.status_code == 404 and caught.value.body["code"] == "model_not_found"
    with pytest.raises(ModelHTTPError) as caught:
        agent().run_sync("word " * 70_000)
    assert caught.value.status_code == 400 and caught.value.body["code"] == "context_length_exceeded"
