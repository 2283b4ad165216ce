"""Instructor, unchanged, against the embedded model served at MOESAIC_DEMO_URL.

In both modes that constrain: TOOLS forces a call of a tool made of the model's fields, JSON_SCHEMA sends a response format.
"""

import asyncio
import os
from collections.abc import Iterable
from typing import Literal

import instructor
import openai
import pytest
from pydantic import BaseModel, field_validator

SERVER = {"base_url": f"{os.environ['MOESAIC_DEMO_URL']}/v1", "api_key": "none", "max_retries": 0}
REQUEST = {
    "model": "moesaic-demo", "temperature": 0, "max_retries": 0, "max_tokens": 200,
    "messages": [
        {"role": "system", "content": "Extract the event information."},
        {"role": "user", "content": "Alice and Bob are going to a science fair on Friday."},
    ],
}


class Event(BaseModel):
    name: str
    date: str
    participants: list[str]


class get_weather(BaseModel):
    """Get current weather for a location."""

    location: str


FAIR = {"name": "science fair", "date": "Friday", "participants": ["Alice", "Bob"]}


@pytest.fixture(params=["TOOLS", "JSON_SCHEMA"])
def mode(request) -> instructor.Mode:
    return instructor.Mode[request.param]


@pytest.fixture
def client(mode) -> instructor.Instructor:
    return instructor.from_openai(openai.OpenAI(**SERVER), mode=mode)


def test_create(client):
    assert client.create(response_model=Event, **REQUEST).model_dump() == FAIR


def test_completion(client):
    event, completion = client.create_with_completion(response_model=Event, **REQUEST)
    assert event.model_dump() == FAIR
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens > 0


def test_async(mode):
    client = instructor.from_openai(openai.AsyncOpenAI(**SERVER), mode=mode)

    async def ask_all() -> list[Event]:
        return await asyncio.gather(*(client.create(response_model=Event, **REQUEST) for _ in range(3)))

    assert [event.model_dump() for event in asyncio.run(ask_all())] == [FAIR] * 3


def test_partial(client):
    parts = list(client.create_partial(response_model=Event, **REQUEST))
    assert parts[-1].model_dump() == FAIR
    # The fields grow piece by piece, in the order of the schema.
    assert any(part.name == FAIR["name"] and part.date is None for part in parts)
    assert any(part.date == FAIR["date"] and part.participants == ["Alice"] for part in parts)


def test_iterable(client):
    # Instructor wraps the list as {"tasks": [...]}, neither required nor closed: as in vLLM, undeclared keys must not be
    # written instead. The first event comes while the stream runs; what this model would list after it means nothing.
    assert next(iter(client.create_iterable(response_model=Event, **REQUEST))).model_dump() == FAIR


def test_parallel_tools():
    client = instructor.from_openai(openai.OpenAI(**SERVER), mode=instructor.Mode.PARALLEL_TOOLS)
    question = {"role": "user", "content": "What is the weather in Paris and Oslo?"}
    calls = client.create(response_model=Iterable[get_weather], **REQUEST | {"messages": [question]})
    assert [call.location for call in calls] == ["Paris", "Oslo"]


def test_asks_again(client):
    """A refused answer goes back with the reason, as a tool's result or as a message."""
    refused = []

    class Place(BaseModel):
        location: Literal["Paris", "Oslo"]

        @field_validator("location")
        @classmethod
        def second_time(cls, value: str) -> str:
            if not refused:
                refused.append(value)
                raise ValueError("say it again")
            return value

    question = {"role": "user", "content": "What is the weather in Paris?"}
    place = client.create(response_model=Place, **REQUEST | {"messages": [question], "max_retries": 1})
    assert len(refused) == 1 and place.location in ("Paris", "Oslo")
