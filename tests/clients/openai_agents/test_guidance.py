"""guidance, unchanged, against the embedded model served at MOESAIC_DEMO_URL.

By its class for vLLM, which sends what it is told as a grammar of llguidance and reads the answer by that grammar.
"""

import json
import os

import guidance
import openai
import pytest
from guidance import assistant, gen, models, select, sequence, system, user
from pydantic import BaseModel

CAPITAL = "What is the capital of France?"
SUM = "What is 47 + 58?"


class Event(BaseModel):
    name: str
    date: str
    participants: list[str]


@guidance(stateless=True)
def number(lm):
    return lm + sequence(select(list("0123456789")), min_length=1, max_length=3)


def ask(question: str, answer, instructions: str | None = None, name: str = "moesaic-demo"):
    url = f"{os.environ['MOESAIC_DEMO_URL']}/v1"
    lm = models.experimental.VLLMModel(name, base_url=url, api_key="none", echo=False)
    if instructions:
        with system():
            lm += instructions
    with user():
        lm += question
    with assistant():
        lm += answer
    return lm


def test_gen():
    lm = ask(CAPITAL, gen("answer", max_tokens=40, temperature=0))
    assert "Paris" in lm["answer"] and str(lm).count(lm["answer"]) == 1
    usage = lm._get_usage()
    assert usage.round_trips == 1 and usage.input_tokens > 0 and usage.forward_passes > 0


def test_json_of_a_model():
    fair = "Alice and Bob are going to a science fair on Friday."
    # This model knows JSON without spaces only; guidance's own default has some.
    form = guidance.json("event", schema=Event, temperature=0, separators=(",", ":"))
    event = Event.model_validate_json(ask(fair, form, "Extract the event information.")["event"])
    assert event == Event(name="science fair", date="Friday", participants=["Alice", "Bob"])


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ":"), None])
def test_json_of_a_schema(separators):
    schema = {
        "type": "object", "properties": {"sum": {"const": 105}, "tags": {"enum": [["a"], ["b"]]}}, "required": ["sum", "tags"],
        "additionalProperties": False,
    }
    text = ask(SUM, guidance.json("answer", schema=schema, separators=separators))["answer"]
    assert text == json.dumps(json.loads(text), separators=separators) and json.loads(text)["sum"] == 105


def test_regex():
    answer = ask(SUM, gen("answer", regex="1[0-9]{2}", temperature=0))["answer"]
    assert len(answer) == 3 and answer.startswith("1") and answer.isdigit()
    lm = ask(SUM, "It is " + gen("first", regex="[0-9]{1,4}") + ", or " + gen("second", regex="[x-z]{3}"))
    assert lm["first"].isdigit() and len(lm["second"]) == 3 and set(lm["second"]) <= set("xyz")
    assert f"It is {lm['first']}, or {lm['second']}" in str(lm)


def test_select():
    cities = ["Berlin", "The capital of France is Paris", "Madrid"]
    assert ask(CAPITAL, select(cities, name="answer"))["answer"] == cities[1]


def test_grammar():
    lm = ask(SUM, guidance.capture(number(), "digits") + select(["!", "?"], name="end"))
    assert lm["digits"].isdigit() and len(lm["digits"]) <= 3 and lm["end"] in "!?"


def test_list():
    numbers = gen("numbers", regex="[0-9]", list_append=True)
    assert len(ask(SUM, numbers + "," + numbers + "," + numbers)["numbers"]) == 3


def test_errors():
    with pytest.raises(openai.NotFoundError, match="gpt-4o"):
        ask(CAPITAL, gen("answer", max_tokens=5), name="gpt-4o")
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        ask("word " * 70_000, gen("answer", max_tokens=5))
