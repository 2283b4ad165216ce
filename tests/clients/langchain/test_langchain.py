"""LangChain, unchanged, against the embedded model served at MOESAIC_DEMO_URL."""

import asyncio
import os

os.environ["LANGSMITH_TRACING"] = "false"

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

CAPITAL = "What is the capital of France?"
WEATHER = "What is the weather in Paris?"


class Event(BaseModel):
    name: str
    date: str
    participants: list[str]


@tool
def get_weather(location: str) -> dict:
    """Get current weather for a location."""
    return {"temperature": 17, "condition": "sunny"}


@pytest.fixture
def model() -> ChatOpenAI:
    return ChatOpenAI(
        model="moesaic-demo", base_url=f"{os.environ['MOESAIC_DEMO_URL']}/v1", api_key="none", temperature=0, max_retries=0
    )


def joined(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    return sum(chunks[1:], chunks[0])


def test_invoke(model):
    answer = model.invoke([SystemMessage("Be brief."), HumanMessage(CAPITAL)])
    assert "Paris" in answer.content
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.response_metadata["model_name"] == "moesaic-demo"
    usage = answer.usage_metadata
    assert usage["input_tokens"] > 0 and usage["output_tokens"] > 0
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_stream_equals_whole(model):
    whole = model.invoke(CAPITAL)
    chunks = list(model.stream(CAPITAL, stream_usage=True))
    assert sum(bool(chunk.content) for chunk in chunks) > 1
    streamed = joined(chunks)
    assert streamed.content == whole.content
    assert streamed.response_metadata["finish_reason"] == "stop"
    assert streamed.usage_metadata["total_tokens"] == whole.usage_metadata["total_tokens"]


def test_async_streams_together(model):
    cities = {"France": "Paris", "Japan": "Tokyo", "Spain": "Madrid"}

    async def ask(country: str) -> list[str]:
        return [chunk.content async for chunk in model.astream(f"What is the capital of {country}?") if chunk.content]

    async def ask_all() -> list[list[str]]:
        return await asyncio.gather(*map(ask, cities))

    for city, chunks in zip(cities.values(), asyncio.run(ask_all())):
        assert len(chunks) > 1 and city in "".join(chunks)


@pytest.mark.parametrize("choice", ["auto", "required", "get_weather"])
def test_tool_round_trip(model, choice):
    messages = [HumanMessage(WEATHER)]
    bound = model.bind_tools([get_weather], tool_choice=choice)
    answer = bound.invoke(messages)
    [call] = answer.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"location": "Paris"})
    [streamed] = joined(list(bound.stream(messages))).tool_calls
    assert (streamed["name"], streamed["args"]) == ("get_weather", {"location": "Paris"})
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    final = model.bind_tools([get_weather]).invoke([*messages, answer, result])
    assert not final.tool_calls
    assert all(part in final.content for part in ("Paris", "17", "sunny"))


def test_agent(model):
    state = create_agent(model, [get_weather]).invoke({"messages": [HumanMessage(WEATHER)]})
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai"]
    assert all(part in state["messages"][-1].content for part in ("Paris", "17", "sunny"))


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(model, method):
    chain = model.with_structured_output(Event, method=method, strict=True)
    event = chain.invoke([
        SystemMessage("Extract the event information."),
        HumanMessage("Alice and Bob are going to a science fair on Friday."),
    ])
    assert event == Event(name="science fair", date="Friday", participants=["Alice", "Bob"])


def test_logprobs(model):
    answer = model.bind(logprobs=True, top_logprobs=3).invoke(CAPITAL)
    tokens = answer.response_metadata["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens).startswith(answer.content)
    for token in tokens:
        assert len(token["top_logprobs"]) == 3
        assert token["logprob"] == max(top["logprob"] for top in token["top_logprobs"])
