"""Structured output and tools through the official SDK's own helpers."""

import json
from typing import Literal

import openai
import pytest
from pydantic import BaseModel, Field

from test_openai import model, strict

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"type": "string", "enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
MESSAGES = [{"role": "user", "content": "What is the weather in 巴黎?"}]


class Step(BaseModel):
    title: str = Field(max_length=12)
    done: bool


class Plan(BaseModel):
    mood: Literal["good", "bad"]
    steps: list[Step] = Field(min_length=1, max_length=3)
    note: str | None = Field(max_length=8)


def test_parse_with_pydantic(client):
    for seed in range(3):
        answer = client.chat.completions.parse(model=model(client), messages=MESSAGES, response_format=Plan, seed=seed)
        assert isinstance(answer.choices[0].message.parsed, Plan)


def test_parse_cut_short(client):
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model=model(client), messages=MESSAGES, response_format=Plan, max_tokens=2)


def test_json_object(client):
    answer = client.chat.completions.create(
        model=model(client), messages=MESSAGES, response_format={"type": "json_object"}, max_tokens=600, seed=1,
        logit_bias={},
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "length" or isinstance(json.loads(choice.message.content), dict)


def test_guided_extras(client):
    answer = client.chat.completions.create(
        model=model(client), messages=MESSAGES, extra_body={"structured_outputs": {"choice": ["red", "green"]}}, temperature=2
    )
    assert answer.choices[0].message.content in ("red", "green")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_tool_call(client, choice):
    request = dict(model=model(client), messages=MESSAGES, tools=[TOOL], tool_choice=choice, seed=5)
    answer = strict(client.chat.completions.create(**request))
    assert answer.choices[0].finish_reason == "tool_calls"
    [call] = answer.choices[0].message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert call.function.name == "get_weather" and arguments["unit"] in "CF" and len(arguments["city"]) <= 20
    # The conversation goes on with the call and its result.
    follow_up = [*MESSAGES, answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    client.chat.completions.create(model=model(client), messages=follow_up, tools=[TOOL], max_tokens=5)


def test_tool_call_stream_helper(client):
    with client.chat.completions.stream(
        model=model(client), messages=MESSAGES, tools=[TOOL], tool_choice="required", seed=5
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds and "tool_calls.function.arguments.done" in kinds
    assert final.choices[0].message.tool_calls[0].function.parsed_arguments["unit"] in "CF"


def test_schema_errors(client):
    bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=model(client), messages=MESSAGES, response_format=bad)
    assert caught.value.param == "response_format"
