"""The Responses API through the official SDK, against the embedded model."""

import json
import time
import urllib.request
from typing import Literal

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, Field, TypeAdapter

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get current weather for a location.",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string"}},
        "required": ["location"],
        "additionalProperties": False,
    },
    "strict": True,
}
RESULT = json.dumps({"temperature": 17, "condition": "sunny"})
EVENT = TypeAdapter(ResponseStreamEvent)


@pytest.fixture
def client(demo) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{demo}/v1", api_key="none")


def ask(client, text, **more) -> Response:
    response = client.responses.create(model="moesaic-demo", input=text, temperature=0, **more)
    # The SDK constructs without checking.
    return Response.model_validate(response.model_dump(mode="json"))


def test_answer(client):
    response = ask(client, "What is the capital of France?", instructions="Be brief.", metadata={"a": "b"})
    assert response.status == "completed" and "Paris" in response.output_text
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens > 0
    assert response.metadata == {"a": "b"} and response.instructions == "Be brief."


def test_turns_are_remembered(client):
    first = ask(client, "My name is Anna.")
    second = ask(client, "What is the capital of Spain?", previous_response_id=first.id)
    third = ask(client, "What is my name?", previous_response_id=second.id, store=False)
    assert "Madrid" in second.output_text and "Anna" in third.output_text
    assert third.usage.input_tokens_details.cached_tokens > 0
    by_reference = [
        {"role": "user", "content": "My name is Anna."},
        {"type": "item_reference", "id": first.output[0].id},
        {"role": "user", "content": [{"type": "input_text", "text": "What is my name?"}]},
    ]
    assert "Anna" in ask(client, by_reference).output_text
    assert client.responses.retrieve(second.id).output_text == second.output_text
    client.responses.delete(second.id)
    for gone in [second.id, third.id, "resp_none"]:
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(gone)
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, "Hello!", previous_response_id=second.id)
    assert (error.value.param, error.value.code) == ("previous_response_id", "previous_response_not_found")


@pytest.mark.parametrize("thinking", [False, True])
def test_tool(client, thinking):
    settings = {"tools": [WEATHER], "reasoning": {"effort": "high" if thinking else "none"}}
    question = {"role": "user", "content": "What is the weather in Paris?"}
    response = ask(client, [question], **settings)
    assert [item.type for item in response.output] == ["reasoning"] * thinking + ["function_call"]
    call = response.output[-1]
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"location": "Paris"})
    result = {"type": "function_call_output", "call_id": call.call_id, "output": RESULT}
    by_id = ask(client, [result], previous_response_id=response.id, **settings)
    items = [item.model_dump(mode="json") for item in response.output]
    by_items = ask(client, [question, *items, result], **settings)
    assert by_id.output_text == by_items.output_text
    assert "17" in by_id.output_text and "sunny" in by_id.output_text


@pytest.mark.parametrize("more", [
    {},
    {"reasoning": {"effort": "high"}},
    {"tools": [WEATHER], "tool_choice": "required"},
    {"max_output_tokens": 3},
    {"top_logprobs": 2, "include": ["message.output_text.logprobs"]},
])
def test_stream_is_the_whole(client, more):
    question = "What is the weather in Paris?" if "tools" in more else "What is 47 + 58?"
    whole = ask(client, question, **more)
    text, arguments, thought, kinds = "", "", "", []
    stream = client.responses.create(model="moesaic-demo", input=question, temperature=0, stream=True, **more)
    for number, event in enumerate(stream):
        EVENT.validate_python(event.model_dump(mode="json"))
        assert event.sequence_number == number
        kinds.append(event.type)
        match event.type:
            case "response.output_text.delta":
                text += event.delta
            case "response.function_call_arguments.delta":
                arguments += event.delta
            case "response.reasoning_text.delta":
                thought += event.delta
            case "response.output_item.done":
                last = event.item
    assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert kinds[-1] == f"response.{whole.status}" and event.response.status == whole.status
    assert text == whole.output_text == event.response.output_text
    parts = [[part.type for part in item.content or []] for item in whole.output if item.type != "function_call"]
    assert kinds.count("response.content_part.added") == kinds.count("response.content_part.done") == len(parts)
    if "reasoning" in more:
        assert thought == whole.output[0].content[0].text != ""
    if "tools" in more:
        assert arguments == whole.output[-1].arguments == last.arguments
    if "top_logprobs" in more:
        logprobs = whole.output[0].content[0].logprobs
        assert all(len(token.top_logprobs) == 2 for token in logprobs)
        assert "".join(token.token for token in logprobs).startswith(text)
    if "max_output_tokens" in more:
        assert whole.incomplete_details.reason == "max_output_tokens" and last.status == "incomplete"
        assert whole.usage.output_tokens == 3


class Plan(BaseModel):
    mood: Literal["good", "bad"]
    note: str | None = Field(max_length=8)


def test_parse(client):
    response = client.responses.parse(model="moesaic-demo", input="Plan my day.", text_format=Plan)
    assert isinstance(response.output_parsed, Plan)
    with client.responses.stream(model="moesaic-demo", input="Plan my day.", text_format=Plan) as stream:
        kinds = {event.type for event in stream}
        assert isinstance(stream.get_final_response().output_parsed, Plan)
    assert {"response.output_text.delta", "response.completed"} <= kinds


def test_background(client):
    long = {"extra_body": {"ignore_eos": True}, "max_output_tokens": 2000, "background": True}
    response = ask(client, "Tell me a story.", **long)
    assert response.status == "in_progress" and response.output == []
    response = client.responses.cancel(response.id)
    assert response.status == client.responses.retrieve(response.id).status == "cancelled"
    response = ask(client, "What is the capital of France?", background=True)
    deadline = time.monotonic() + 60
    while (response := client.responses.retrieve(response.id)).status == "in_progress":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert response.status == "completed" and "Paris" in response.output_text
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(ask(client, "Hello!").id)


def test_nothing_stays_behind(client, demo):
    long = {"extra_body": {"ignore_eos": True}, "max_output_tokens": 8000, "background": True}
    client.responses.delete(ask(client, "Tell me a story.", **long).id)
    stream = client.responses.create(model="moesaic-demo", input="Hi", stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 30
    while 'vllm:num_requests_running{model_name="moesaic-demo"} 0' not in (
        urllib.request.urlopen(f"{demo}/metrics").read().decode()
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_keys_part_clients(server):
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="sk-test")
    response = client.responses.create(model=client.models.list().data[0].id, input="Hi", max_output_tokens=4)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="sk-other").responses.retrieve(response.id)
    assert client.responses.retrieve(response.id).id == response.id
