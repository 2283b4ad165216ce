"""The official Anthropic SDK, unchanged, against the embedded model."""

import json

import anthropic
import pytest

TOOL = {
    "name": "get_weather",
    "description": "Get the weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture
def client(demo) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=demo, api_key="none")


def strict(value):
    """Validates a response by the SDK's types: it constructs them without checking."""
    return type(value).model_validate(value.model_dump(mode="json"), strict=False)


def ask(content, **more):
    message = {"role": "user", "content": content}
    return {"model": "moesaic-demo", "max_tokens": 200, "messages": [message], "extra_body": {"temperature": 0}, **more}


def test_message(client):
    message = strict(client.messages.create(**ask("What is the capital of France?", system="Be brief.")))
    assert message.type == "message" and message.role == "assistant" and message.stop_reason == "end_turn"
    assert "Paris" in message.content[0].text
    assert message.usage.input_tokens > 0 and message.usage.output_tokens > 0


def test_blocks_and_prefix(client):
    blocks = [{"type": "text", "text": "What is"}, {"type": "text", "text": "the capital of Japan?"}]
    assert "Tokyo" in client.messages.create(**ask(blocks)).content[0].text
    request = ask("What is the capital of Spain?")
    request["messages"].append({"role": "assistant", "content": "The capital of Spain is"})
    assert client.messages.create(**request).content[0].text.strip().startswith("Madrid")


def test_thinking(client):
    message = strict(client.messages.create(**ask("What is 47 + 58?", thinking={"type": "enabled", "budget_tokens": 1024})))
    thought, answer = message.content
    assert thought.type == "thinking" and "7 + 8 = 15" in thought.thinking
    assert "105" in answer.text
    assert len(client.messages.create(**ask("What is 47 + 58?", thinking={"type": "disabled"})).content) == 1


def test_stops_and_limits(client):
    message = client.messages.create(**ask("Count to 9.", stop_sequences=["5"]))
    assert (message.stop_reason, message.stop_sequence, message.content[0].text) == ("stop_sequence", "5", "1, 2, 3, 4, ")
    assert client.messages.create(**ask("Tell me a story.", max_tokens=5)).stop_reason == "max_tokens"


def test_stream(client):
    request = ask("What is 47 + 58?", thinking={"type": "enabled", "budget_tokens": 1024})
    whole = client.messages.create(**request)
    with client.messages.stream(**request) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert [block.type for block in final.content] == [block.type for block in whole.content] == ["thinking", "text"]
    assert final.content[0].thinking == whole.content[0].thinking and final.content[1].text == whole.content[1].text
    assert final.content[0].signature == whole.content[0].signature != ""
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 2


@pytest.mark.parametrize("choice", [{"type": "auto"}, {"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_tools(client, choice):
    request = ask("What is the weather in Oslo?", tools=[TOOL], tool_choice=choice)
    message = strict(client.messages.create(**request))
    call = message.content[-1]
    assert message.stop_reason == "tool_use" and call.type == "tool_use"
    assert (call.name, call.input) == ("get_weather", {"city": "Oslo"})
    with client.messages.stream(**request) as stream:
        streamed = stream.get_final_message()
    assert (streamed.content[-1].name, streamed.content[-1].input) == (call.name, call.input)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": json.dumps({"temperature": 3, "condition": "snowy"})}
    request["messages"] += [{"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    request["tool_choice"] = {"type": "auto"}
    assert "snowy" in client.messages.create(**request).content[0].text


def test_output_format(client):
    schema = {
        "type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"], "additionalProperties": False,
    }
    request = ask("Extract the name and age as JSON: Ana is 31 years old.")
    message = client.messages.create(**request, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert json.loads(message.content[0].text) == {"name": "Ana", "age": 31}


def test_instructions_anywhere(client):
    request = ask("What is the capital of France?")
    request["messages"].append({"role": "system", "content": [{"type": "text", "text": "Be brief."}]})
    assert "Paris" in client.messages.create(**request).content[0].text


def test_models(client):
    models = [strict(model) for model in client.models.list(limit=1)]
    assert [model.id for model in models] == ["moesaic-demo"] and models[0].lifecycle == "active"
    assert strict(client.models.retrieve("moesaic-demo")) == models[0]
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("other")


def test_count_tokens(client):
    request = {key: value for key, value in ask("Hello!").items() if key in ("model", "messages")}
    assert client.messages.count_tokens(**request).input_tokens == client.messages.create(**ask("Hello!")).usage.input_tokens


def test_errors(client, demo):
    with pytest.raises(anthropic.BadRequestError, match="messages"):
        client.messages.create(**ask("x") | {"messages": []})
    with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\].content\[0\]"):
        client.messages.create(**ask([{"type": "image", "source": {"type": "url", "url": "http://x"}}]))
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(**ask("x") | {"model": "other"})
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**ask("x", tools=[TOOL], tool_choice={"type": "tool", "name": "other"}))
    assert caught.value.body["error"]["type"] == "invalid_request_error"
