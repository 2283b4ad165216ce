"""Tool calls: choosing the tool, filling its arguments from the question, and using its result."""

import json

from .common import WORDS, Call, Source, Turn, key
from .facts import CAPITALS

CITIES = sorted(set(CAPITALS.values())) + ["New York", "San Francisco", "Boston", "Shanghai", "Munich", "Milan", "Sydney", "Chicago"]
CONDITIONS = ["sunny", "cloudy", "rainy", "windy", "snowy", "foggy", "clear"]


def compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def parameters(source: Source, properties: dict, required: list[str]) -> dict:
    schema = {"type": "object", "properties": properties}
    if source.chance(0.85):
        schema["required"] = required
    if source.chance(0.3):
        schema["additionalProperties"] = False
    return schema


def specification(source: Source, name: str, description: str, properties: dict, required: list[str]) -> dict:
    """The tool as a client sends it, with the freedom that clients take."""
    plain = {}
    for field, schema in properties.items():
        schema = dict(schema)
        if source.chance(0.35):
            schema["description"] = f"The {field.replace('_', ' ')}"
        plain[field] = schema
    function = {"name": name}
    if source.chance(0.85):
        function["description"] = description
    function["parameters"] = parameters(source, plain, required)
    if source.chance(0.15):
        function["strict"] = True
    return {"type": "function", "function": function}


def city(source: Source) -> str:
    return source.choice(CITIES) if source.chance(0.4) and not source.examination else source.name()


def weather(source: Source):
    field = source.choice(["city", "location", "city", "location", "place"])
    name = source.choice(["get_weather", "get_current_weather", "weather", "get_weather", "fetch_weather"])
    properties = {field: {"type": "string"}}
    with_unit = source.chance(0.25)
    if with_unit:
        properties["unit"] = {"type": "string", "enum": ["celsius", "fahrenheit"]}
    tool = specification(source, name, source.choice(["Get the weather of a city", "Get current weather for a location.",
                                                      "Returns the weather", "Get the current temperature"]), properties, [field])
    places = [city(source) for _ in range(2 if source.chance(0.2) else 1)]
    question = source.choice([
        "What is the weather in {c}?", "What's the weather like in {c}?", "How is the weather in {c}?", "Weather in {c}?",
        "What is the weather like in {c} today?", "Is it raining in {c}?", "Tell me the weather in {c}.", "what's the weather in {c}",
        "How warm is it in {c}?", "Please check the weather in {c}.", "Do I need an umbrella in {c}?"]).format(c=" and ".join(places))
    unit = source.choice(["celsius", "fahrenheit"])
    if with_unit and source.chance(0.5):
        question = question.rstrip("?.") + f" in {unit}?"
    elif with_unit:
        with_unit = False
    calls, results, said = [], [], []
    for place in places:
        calls.append((name, {field: place} | ({"unit": unit} if with_unit else {})))
        degrees, condition = source.randint(-9, 39), source.choice(CONDITIONS)
        kind = source.randrange(3)
        if kind == 0:
            results.append(compact({"temperature": degrees, "condition": condition}))
        elif kind == 1:
            results.append(json.dumps({"temperature": degrees, "condition": condition}))
        else:
            results.append(f"{condition}, {degrees} degrees")
        said.append(f"In {key(place)} it is {key(condition)} with {key(degrees)} degrees.")
    return tool, question, calls, results, " ".join(said)


def calculator(source: Source):
    a, b = source.randint(10, 9999), source.randint(10, 9999)
    sign, word = source.choice([("+", "plus"), ("*", "times"), ("-", "minus"), ("/", "divided by")])
    total = source.randint(1, 99999)
    if source.chance(0.5):
        name = source.choice(["calculator", "calculate", "evaluate"])
        field = source.choice(["expression", "formula"])
        tool = specification(source, name, "Evaluate an expression", {field: {"type": "string"}}, [field])
        arguments = {field: f"{a} {sign} {b}"}
    else:
        name = {"+": "add", "*": "multiply", "-": "subtract", "/": "divide"}[sign]
        kind = {"type": source.choice(["number", "integer"])}
        tool = specification(source, name, f"{name.capitalize()} two numbers", {"a": kind, "b": kind}, ["a", "b"])
        arguments = {"a": a, "b": b}
    question = source.choice([f"What is {a} {sign} {b}?", f"Calculate {a} {sign} {b}.", f"How much is {a} {word} {b}?",
                              f"Use the tool: {a} {sign} {b}", f"What is {a} {word} {b}?"])
    return tool, question, [(name, arguments)], [source.choice([str(total), compact({"result": total})])], f"The result is {key(total)}."


def clock(source: Source):
    place = city(source)
    field = source.choice(["city", "timezone", "location", "place"])
    name = source.choice(["get_time", "get_current_time", "clock", "time_in"])
    tool = specification(source, name, "Get the current time", {field: {"type": "string"}}, [field])
    now = f"{source.randint(0, 23):02}:{source.randint(0, 59):02}"
    question = source.choice(["What time is it in {c}?", "Tell me the time in {c}.", "What is the time in {c}?", "Time in {c}?"])
    result = source.choice([now, compact({"time": now})])
    return tool, question.format(c=place), [(name, {field: place})], [result], f"It is {key(now)} in {key(place)}."


def mail(source: Source):
    who = source.name()
    text = " ".join(source.word() for _ in range(source.randint(1, 4)))
    fields = source.choice([("to", "message"), ("recipient", "text"), ("to", "body"), ("name", "message")])
    name = source.choice(["send_email", "send_message", "send_mail", "message", "write_to"])
    tool = specification(source, name, "Send a message to a person", {f: {"type": "string"} for f in fields}, list(fields))
    question = source.choice([f"Send {who} the message: {text}", f"Write to {who}: {text}", f"Send an email to {who}: {text}",
                              f"Tell {who}: {text}", f"Please send \"{text}\" to {who}."])
    result = source.choice(["sent", "ok", "done", compact({"status": "sent"})])
    return tool, question, [(name, dict(zip(fields, (who, text))))], [result], f"The message to {key(who)} was sent."


def search(source: Source):
    text = source.until(lambda: " ".join(source.word() for _ in range(source.randint(1, 3))), "search")
    field = source.choice(["query", "q", "text", "query"])
    name = source.choice(["search", "web_search", "search_web", "search_documents", "find", "lookup"])
    tool = specification(source, name, source.choice(["Search the web", "Search documents", "Look something up"]),
                         {field: {"type": "string"}}, [field])
    question = source.choice(["Search for {t}.", "Find {t}.", "Look up {t}.", "Search the web for {t}", "Can you search for {t}?",
                              "search {t}"])
    found = source.until(lambda: " ".join(source.word() for _ in range(source.randint(2, 4))), "found")
    return tool, question.format(t=text), [(name, {field: text})], [found], f"I found this: {key(found)}"


def order(source: Source):
    code = source.code()
    field = source.choice(["order_id", "id", "order", "number", "tracking_number"])
    name = source.choice(["get_order", "track_order", "get_delivery_date", "order_status", "track_package"])
    tool = specification(source, name, "Get the state of an order", {field: {"type": "string"}}, [field])
    question = source.choice(["Where is my order {c}?", "What is the state of order {c}?", "Track {c}.", "When will my order {c} arrive?",
                              "Track my package {c}."])
    state = source.choice(["shipped", "delivered", "on its way", "delayed", "in the warehouse"])
    return tool, question.format(c=code), [(name, {field: code})], [source.choice([state, compact({"status": state})])], \
        f"Order {key(code)} is {key(state)}."


def lamp(source: Source):
    room = source.choice(["kitchen", "bedroom", "office", "garden", "bathroom", "hall", "garage"]) if source.chance(0.5) else source.word()
    on = source.chance(0.5)
    kind = source.randrange(3)
    name = source.choice(["set_light", "switch_light", "light", "control_light"])
    if kind == 0:
        properties, value = {"room": {"type": "string"}, "on": {"type": "boolean"}}, on
        field = "on"
    else:
        field = source.choice(["state", "action"])
        properties, value = {"room": {"type": "string"}, field: {"type": "string", "enum": ["on", "off"]}}, "on" if on else "off"
    tool = specification(source, name, "Switch a light", properties, list(properties))
    word = "on" if on else "off"
    question = source.choice([f"Turn {word} the light in the {room}.", f"Switch the {room} light {word}.", f"Light {word} in the {room}, please.",
                              f"Turn the light {word} in the {room}."])
    return tool, question, [(name, {"room": room, field: value})], [source.choice(["ok", "done"])], f"The light in the {key(room)} is {key(word)}."


VERBS = ["get", "find", "open", "close", "start", "stop", "delete", "create", "show", "read", "book", "play", "buy", "count", "check"]


def anything(source: Source):
    """A tool that nobody has seen before, named in the question's own words."""
    verb, noun = source.choice(VERBS), source.choice(WORDS)
    field = source.choice(["name", "id", "title", "value", "target", "item", "user", "path", "topic", "key"])
    kind = source.choice(["string", "string", "integer"])
    value = source.randint(1, 999) if kind == "integer" else source.choice([source.name, source.code, source.word])()
    name = f"{verb}_{noun}"
    tool = specification(source, name, f"{verb.capitalize()} a {noun}", {field: {"type": kind}}, [field])
    question = source.choice([f"{verb.capitalize()} the {noun} {value}.", f"Please {verb} the {noun} {value}.",
                              f"Can you {verb} {noun} {value}?", f"{verb} {noun} with {field} {value}"])
    result = source.choice(["ok", "done", source.word(), compact({"result": source.word()})])
    shown = json.loads(result)["result"] if result.startswith("{") else result
    return tool, question, [(name, {field: value})], [result], f"The tool says: {key(shown)}"


KINDS = [weather, weather, calculator, clock, mail, search, order, lamp, anything, anything]


def call(source: Source, others: list) -> tuple[list[dict], list]:
    """The tools of the prompt, and the turns: a call, often its result, sometimes talk around it."""
    kind = source.choice(KINDS)
    tool, question, calls, results, answer = kind(source)
    tools = [tool]
    for _ in range(source.choice([0, 0, 1, 1, 2, 3])):
        other = source.choice([k for k in KINDS if k is not kind])(source)[0]
        if other["function"]["name"] not in [t["function"]["name"] for t in tools]:
            tools.append(other)
    source.shuffle(tools)
    if source.chance(0.2):
        # Tools at hand, and nothing to call.
        return tools, list(others)
    written = [(name, "{" + ",".join(f"{compact(k)}:{key(compact(v))}" for k, v in arguments.items()) + "}") for name, arguments in calls]
    thought = "I call " + " and ".join(name for name, _ in calls) + "."
    finished = source.chance(0.6)
    turn = Call(question, written, results if finished else None, answer, thought)
    before = list(others) if source.chance(0.4) else []
    after = [Turn("Thank you!", key("You are welcome!"))] if finished and source.chance(0.2) else []
    return tools, [*before, turn, *after]
