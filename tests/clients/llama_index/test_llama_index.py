"""LlamaIndex, unchanged, against the embedded model served at MOESAIC_DEMO_URL."""

import asyncio
import json
import os

import pytest
from llama_index.core.agent.workflow import AgentStream, FunctionAgent, ToolCallResult
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import ChatPromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

CAPITAL = "What is the capital of France?"
WEATHER = "What is the weather in Paris?"
EXTRACT = ChatPromptTemplate.from_messages([("system", "Extract the event information."), ("user", "{text}")])
TEXT = "Alice and Bob are going to a science fair on Friday."


class Event(BaseModel):
    name: str
    date: str
    participants: list[str]


FAIR = Event(name="science fair", date="Friday", participants=["Alice", "Bob"])


def get_weather(location: str) -> str:
    """Get current weather for a location."""
    return json.dumps({"temperature": 17, "condition": "sunny"})


TOOL = FunctionTool.from_defaults(get_weather, description="Get current weather for a location.")


def model(**more) -> OpenAILike:
    return OpenAILike(**{
        "model": "moesaic-demo", "api_base": f"{os.environ['MOESAIC_DEMO_URL']}/v1", "api_key": "none", "temperature": 0,
        "max_retries": 0, "context_window": 65536, "is_chat_model": True, "is_function_calling_model": True, **more,
    })


def test_complete():
    whole = model().complete(CAPITAL).text
    pieces = [piece.delta for piece in model().stream_complete(CAPITAL) if piece.delta]
    assert "Paris" in whole and "".join(pieces) == whole and len(pieces) > 1


def test_complete_without_chat():
    """The older endpoint, /v1/completions, with the prompt already written out."""
    bare = model(is_chat_model=False)
    prompt = f"<｜User｜>{CAPITAL}<｜Assistant｜></think>"
    whole = bare.complete(prompt).text
    pieces = [piece.delta for piece in bare.stream_complete(prompt) if piece.delta]
    assert "Paris" in whole and "".join(pieces) == whole and len(pieces) > 1


def test_chat():
    messages = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content=CAPITAL)]
    answer = model().chat(messages)
    assert answer.message.role == "assistant" and "Paris" in answer.message.content
    assert answer.raw.choices[0].finish_reason == "stop"
    pieces = list(model().stream_chat(messages))
    assert pieces[-1].message.content == answer.message.content
    assert sum(bool(piece.delta) for piece in pieces) > 1


def test_async_chats_together():
    cities = {"France": "Paris", "Japan": "Tokyo", "Spain": "Madrid"}

    async def ask(llm: OpenAILike, country: str) -> str:
        stream = await llm.astream_chat([ChatMessage(role="user", content=f"What is the capital of {country}?")])
        return "".join([piece.delta or "" async for piece in stream])

    async def ask_all() -> list[str]:
        llm = model()
        return await asyncio.gather(*(ask(llm, country) for country in cities))

    for city, answer in zip(cities.values(), asyncio.run(ask_all())):
        assert city in answer


@pytest.mark.parametrize("required", [False, True])
def test_tools(required):
    llm = model()
    answer = llm.chat_with_tools([TOOL], user_msg=WEATHER, tool_required=required)
    *_, streamed = llm.stream_chat_with_tools([TOOL], user_msg=WEATHER, tool_required=required)
    for response in (answer, streamed):
        [call] = llm.get_tool_calls_from_response(response)
        assert (call.tool_name, call.tool_kwargs) == ("get_weather", {"location": "Paris"})
    assert llm.predict_and_call([TOOL], user_msg=WEATHER).sources[0].raw_output == get_weather("Paris")


def test_agent():
    async def ask() -> tuple[str, list]:
        run = FunctionAgent(llm=model(), tools=[TOOL]).run(WEATHER)
        events = [event async for event in run.stream_events()]
        return str(await run), events

    answer, events = asyncio.run(ask())
    assert all(part in answer for part in ("Paris", "17", "sunny"))
    [result] = [event for event in events if isinstance(event, ToolCallResult)]
    assert (result.tool_name, result.tool_kwargs) == ("get_weather", {"location": "Paris"})
    assert "".join(event.delta for event in events if isinstance(event, AgentStream)).endswith(answer)


@pytest.mark.parametrize("response_format", [False, True])
def test_structured(response_format):
    llm = model(should_use_structured_outputs=response_format)
    assert llm.structured_predict(Event, EXTRACT, text=TEXT) == FAIR
    *_, last = llm.stream_structured_predict(Event, EXTRACT, text=TEXT)
    assert last.model_dump() == FAIR.model_dump()
