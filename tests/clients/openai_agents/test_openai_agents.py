"""OpenAI's Agents SDK, unchanged, against the embedded model served at MOESAIC_DEMO_URL, by both APIs that it speaks."""

import asyncio
import json
import os

import openai
import pytest
from agents import (
    Agent, MaxTurnsExceeded, ModelSettings, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, SQLiteSession,
    function_tool, handoff, set_tracing_disabled,
)
from agents.extensions.handoff_filters import remove_all_tools
from openai.types.responses import ResponseTextDeltaEvent
from openai.types.shared import Reasoning
from pydantic import BaseModel

set_tracing_disabled(True)
CAPITAL = "What is the capital of France?"
WEATHER = "What is the weather in Paris?"
SUNNY = json.dumps({"temperature": 17, "condition": "sunny"})
FAIR = "Alice and Bob are going to a science fair on Friday."


class Event(BaseModel):
    name: str
    date: str
    participants: list[str]


@function_tool
def get_weather(location: str) -> str:
    """Get current weather for a location."""
    return SUNNY if location == "Paris" else f"no weather for {location}"


@pytest.fixture(params=[OpenAIResponsesModel, OpenAIChatCompletionsModel], ids=["responses", "chat"])
def api(request) -> type:
    return request.param


def agent(api: type, name: str = "assistant", model: str = "moesaic-demo", **more) -> Agent:
    client = openai.AsyncOpenAI(base_url=f"{os.environ['MOESAIC_DEMO_URL']}/v1", api_key="none", max_retries=0)
    return Agent(name, model=api(model, client), **{"model_settings": ModelSettings(temperature=0), **more})


def types(result) -> list[str]:
    return [item.type for item in result.new_items]


def test_run(api):
    result = Runner.run_sync(agent(api, instructions="Be brief."), CAPITAL)
    assert "Paris" in result.final_output and types(result) == ["message_output_item"]
    usage = result.context_wrapper.usage
    assert usage.requests == 1 and usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.input_tokens > 0 and usage.output_tokens > 0


def test_stream(api):
    async def ask() -> tuple[str, list[str]]:
        result = Runner.run_streamed(agent(api), CAPITAL)
        pieces = [
            event.data.delta async for event in result.stream_events()
            if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent)
        ]
        return result.final_output, pieces

    text, pieces = asyncio.run(ask())
    assert "Paris" in text and "".join(pieces) == text and len(pieces) > 1


@pytest.mark.parametrize("streamed", [False, True])
def test_tool(api, streamed):
    async def ask():
        weather = agent(api, tools=[get_weather])
        if not streamed:
            return await Runner.run(weather, WEATHER)
        result = Runner.run_streamed(weather, WEATHER)
        names = [event.name async for event in result.stream_events() if event.type == "run_item_stream_event"]
        assert names == ["tool_called", "tool_output", "message_output_created"]
        return result

    result = asyncio.run(ask())
    assert types(result) == ["tool_call_item", "tool_call_output_item", "message_output_item"]
    call, output, _ = result.new_items
    assert (call.raw_item.name, json.loads(call.raw_item.arguments)) == ("get_weather", {"location": "Paris"})
    assert output.raw_item["call_id"] == call.raw_item.call_id and output.output == SUNNY
    assert all(part in result.final_output for part in ("Paris", "17", "sunny"))


def test_turns_have_a_limit(api):
    # A call that is asked for again and again: the SDK gives up by itself.
    settings = ModelSettings(temperature=0, tool_choice="required")
    endless = agent(api, tools=[get_weather], model_settings=settings, reset_tool_choice=False)
    with pytest.raises(MaxTurnsExceeded) as caught:
        Runner.run_sync(endless, WEATHER, max_turns=2)
    assert [item.type for item in caught.value.run_data.new_items] == ["tool_call_item", "tool_call_output_item"] * 2


def test_output_type(api):
    extract = agent(api, instructions="Extract the event information.", output_type=Event)
    event = Runner.run_sync(extract, FAIR).final_output
    assert event == Event(name="science fair", date="Friday", participants=["Alice", "Bob"])


@pytest.mark.parametrize("history", ["whole", "filtered"])
def test_handoff(api, history):
    weather = agent(api, "weather", tools=[get_weather])
    taken = []
    transfer = handoff(
        weather, on_handoff=lambda context: taken.append("weather"),
        input_filter=remove_all_tools if history == "filtered" else None,
    )
    # The embedded model never saw a handoff; so it must.
    settings = ModelSettings(temperature=0, tool_choice="transfer_to_weather")
    result = Runner.run_sync(agent(api, "front", handoffs=[transfer], model_settings=settings), WEATHER)
    assert taken == ["weather"] and result.last_agent is weather
    if history == "whole":
        assert types(result) == ["handoff_call_item", "handoff_output_item", "message_output_item"]
    else:
        # Without a call of a tool that is gone, which this model never saw either, it knows what to do.
        assert types(result) == ["tool_call_item", "tool_call_output_item", "message_output_item"]
        assert all(part in result.final_output for part in ("Paris", "17", "sunny"))


def test_session(api, tmp_path):
    session = SQLiteSession("anna", tmp_path / "session.db")
    Runner.run_sync(agent(api), "My name is Anna.", session=session)
    result = Runner.run_sync(agent(api), "What is my name?", session=session)
    assert "Anna" in result.final_output
    roles = [item["role"] for item in asyncio.run(session.get_items())]
    assert roles == ["user", "assistant"] * 2


def test_previous_response():
    first = Runner.run_sync(agent(OpenAIResponsesModel), "My name is Anna.")
    more = {"previous_response_id": first.last_response_id}
    assert "Anna" in Runner.run_sync(agent(OpenAIResponsesModel), "What is my name?", **more).final_output
    assert "Anna" not in Runner.run_sync(agent(OpenAIResponsesModel), "What is my name?").final_output


def test_thoughts():
    settings = ModelSettings(temperature=0, reasoning=Reasoning(effort="high"))
    result = Runner.run_sync(agent(OpenAIResponsesModel, model_settings=settings), "What is 47 + 58?")
    assert types(result) == ["reasoning_item", "message_output_item"]
    assert "7 + 8 = 15" in result.new_items[0].raw_item.content[0].text and "105" in result.final_output
    # The thought goes back with the rest.
    more = [*result.to_input_list(), {"role": "user", "content": CAPITAL}]
    assert "Paris" in Runner.run_sync(agent(OpenAIResponsesModel), more).final_output


def test_errors(api):
    with pytest.raises(openai.NotFoundError) as caught:
        Runner.run_sync(agent(api, model="gpt-4o"), CAPITAL)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as caught:
        Runner.run_sync(agent(api), "word " * 70_000)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        Runner.run_sync(agent(api, model_settings=ModelSettings(temperature=3)), CAPITAL)
    assert caught.value.param == "temperature"
