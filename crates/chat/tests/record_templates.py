"""Records what transformers' renderer makes of conversations, for tests/templates.rs and tests/jinja.rs.

Usage: python record_templates.py ../../../../shared/data/templates   (needs: pip install transformers jinja2)

Templates are third-party and not part of the repository, so of each rendering only a hash is kept: first the one of the
conversation as a client sends it, "-" where that raises, with "=" in front where it loses and leaks nothing; then those
of the same conversation in other forms (null content as "" or absent, arguments as objects, developer as system, ...).
"""
import copy
import datetime
import hashlib
import itertools
import json
import pathlib
import sys

from jinja2 import pass_context
from jinja2.filters import sync_do_map
from transformers.utils.chat_template_utils import _compile_jinja_template

DATA = pathlib.Path(__file__).parent / "data"
NOW = datetime.datetime(2026, 11, 23)
TOOL = {"type": "function", "function": {"name": "weather", "description": "Tells the weather.", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "description": "Where."}}, "required": ["city"]}}}


def user(text="Hi"):
    return {"role": "user", "content": text}


def assistant(text="Hello!", **more):
    return {"role": "assistant", "content": text, **more}


def calls(*arguments, content=None, **more):
    made = [{"id": f"call{index:05}", "type": "function", "function": {"name": "weather", "arguments": text}}
            for index, text in enumerate(arguments)]
    return {"role": "assistant", "content": content, "tool_calls": made, **more}


def result(text="sunny", index=0):
    return {"role": "tool", "tool_call_id": f"call{index:05}", "content": text}


def system(text="Be brief.", role="system"):
    return {"role": role, "content": text}


def parts(role, *texts):
    return {"role": role, "content": [{"type": "text", "text": text} for text in texts]}


PARIS = '{"city": "Paris"}'
CONVERSATIONS = {
    "one question": ([user()], {}),
    "no generation prompt": ([user(), assistant()], {"add_generation_prompt": False}),
    "several turns": ([user(), assistant(), user("And now?")], {}),
    "system": ([system(), user()], {}),
    "two systems": ([system(), system("Be polite."), user()], {}),
    "system in the midst": ([user(), assistant(), system("Be polite."), user("And now?")], {}),
    "systems first and in the midst": ([system(), user(), assistant(), system("Be polite."), user("And now?")], {}),
    "developer": ([system("Answer in French.", "developer"), user()], {}),
    "system and developer": ([system(), system("Answer in French.", "developer"), user()], {}),
    "developer with tools": ([system("Answer in French.", "developer"), user()], {"tools": [TOOL]}),
    "tools": ([user()], {"tools": [TOOL]}),
    "tools and system": ([system(), user()], {"tools": [TOOL, TOOL]}),
    "empty system": ([system(""), user()], {}),
    "call, null content": ([user(), calls(PARIS), result()], {"tools": [TOOL]}),
    "call, null content, no tools": ([user(), calls(PARIS), result()], {}),
    "call, empty content": ([user(), calls(PARIS, content=""), result()], {"tools": [TOOL]}),
    "call, absent content": ([user(), {k: v for k, v in calls(PARIS).items() if k != "content"}, result()], {}),
    "call beside text": ([user(), calls(PARIS, content="Let me look."), result()], {"tools": [TOOL]}),
    "call, result, answer": ([user(), calls(PARIS), result(), assistant("It is sunny.")],
                             {"tools": [TOOL], "add_generation_prompt": False}),
    "call, result, answer, question": (
        [user(), calls(PARIS), result(), assistant("It is sunny."), user("And Rome?")], {"tools": [TOOL]}),
    "arguments without blanks": ([user(), calls('{"city":"Paris","days":[1,2.50],"x":null}'), result()], {}),
    "unicode": ([user("Wie geht’s? 你好 🎉"), calls('{"city": "Zürich 東京 \\u00e9"}'), result("☀️ <b>&\"'")], {}),
    "several calls": ([user(), calls(PARIS, '{"city": "Rome"}'), result(), result("rainy", 1)], {"tools": [TOOL]}),
    "two rounds of calls": ([user(), calls(PARIS), result(), calls('{"city": "Rome"}'), result("rainy")],
                            {"tools": [TOOL]}),
    "empty arguments": ([user(), calls(""), result()], {"tools": [TOOL]}),
    "object without members": ([user(), calls("{}"), result()], {"tools": [TOOL]}),
    "cut-off arguments": ([user(), calls('{"city": "Par'), result()], {"tools": [TOOL]}),
    "nested arguments": ([user(), calls('{"city": {"name": "Paris", "at": [48, {"x": true}]}}'), result()], {}),
    "empty tool_calls": ([user(), assistant(tool_calls=[]), user("And now?")], {}),
    "assistant null": ([user(), assistant(None), user("yo")], {}),
    "assistant empty": ([user(), assistant(""), user("yo")], {}),
    "result null": ([user(), calls(PARIS), result(None)], {"tools": [TOOL]}),
    "result empty": ([user(), calls(PARIS), result("")], {"tools": [TOOL]}),
    "user null": ([user("One"), assistant(), user(None)], {}),
    "long ids": ([user(), {**calls(PARIS), "tool_calls": [
        {**calls(PARIS)["tool_calls"][0], "id": "call_0123456789abcdef01234567"}]},
        {**result(), "tool_call_id": "call_0123456789abcdef01234567"}], {"tools": [TOOL]}),
    "short ids": ([user(), {**calls(PARIS), "tool_calls": [{**calls(PARIS)["tool_calls"][0], "id": "toolu_1"}]},
                   {**result(), "tool_call_id": "toolu_1"}], {"tools": [TOOL]}),
    "parts of user": ([parts("user", "One.", "Two.")], {}),
    "parts of system": ([parts("system", "Be brief.", "Be polite."), user()], {}),
    "parts of assistant": ([user(), parts("assistant", "Hello!", "Hello?"), user()], {}),
    "parts of tool": ([user(), calls(PARIS), {**result(), **parts("tool", "sunny", "warm")}], {"tools": [TOOL]}),
    "one part": ([parts("user", "One.")], {}),
    "reasoning": ([user(), assistant(reasoning_content="Well, well."), user("And now?")], {}),
    "reasoning beside a call": ([user(), calls(PARIS, reasoning_content="Well, well."), result()], {"tools": [TOOL]}),
    "thought in the text": ([user(), assistant("<think>Well, well.</think>\n\nHello!"), user("And now?")], {}),
    "thinking on": ([user()], {"thinking": True, "enable_thinking": True}),
    "thinking off": ([user()], {"thinking": False, "enable_thinking": False}),
    "thinking on after a call": ([user(), calls(PARIS, reasoning_content="Well."), result()],
                                 {"tools": [TOOL], "thinking": True, "enable_thinking": True}),
    "thinking off after a call": ([user(), calls(PARIS), result()],
                                  {"tools": [TOOL], "thinking": False, "enable_thinking": False}),
}


def nine(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return "".join("0123456789abcdefghijklmnopqrstuvwxyz"[value // 36**place % 36] for place in range(9))


def no_results(messages, _):
    for message in messages:
        if message["role"] != "assistant" and message["content"] is None:
            message["content"] = ""


def contents(messages, form):
    for message in messages:
        if message.get("content") is None or (message["content"] == "" and message.get("tool_calls")):
            message.pop("content", None)
            if form != "absent":
                message["content"] = {"null": None, "empty": ""}[form]


def arguments(messages, form):
    for call in itertools.chain.from_iterable(message.get("tool_calls", []) for message in messages):
        try:
            parsed = json.loads(call["function"]["arguments"])
        except ValueError:
            parsed, call["function"]["arguments"] = {}, "{}"
        if form == "objects":
            call["function"]["arguments"] = parsed


def developer(messages, _):
    for message in messages:
        message["role"] = message["role"].replace("developer", "system")


def systems(messages, form):
    found = [message for message in messages if message["role"] == "system"]
    if found:
        text = lambda m: m["content"] if isinstance(m["content"], str) else "\n".join(p["text"] for p in m["content"])
        joined = {"role": "system", "content": "\n\n".join(map(text, found))}
        rest = [message for message in messages if message["role"] != "system"]
        if form == "user":
            rest[0]["content"] = joined["content"] + "\n\n" + rest[0]["content"]
        messages[:] = rest if form == "user" else [joined, *rest]


def joined_parts(messages, _):
    for message in messages:
        if isinstance(message.get("content"), list):
            message["content"] = "\n".join(part["text"] for part in message["content"])


def ids(messages, _):
    for message in messages:
        for holder, key in [(message, "tool_call_id"), *((call, "id") for call in message.get("tool_calls", []))]:
            if key in holder and not (len(holder[key]) == 9 and holder[key].isalnum()):
                holder[key] = nine(holder[key])


def no_calls(messages, _):
    for message in messages:
        if message.get("tool_calls") == []:
            del message["tool_calls"]


def split(messages, _):
    results = {message.get("tool_call_id"): message for message in messages if message["role"] == "tool"}
    whole, messages[:] = messages[:], []
    for message in whole:
        if len(message.get("tool_calls") or []) < 2:
            if message["role"] != "tool" or results.get(message.get("tool_call_id")) is message:
                messages.append(message)
            continue
        for index, call in enumerate(message["tool_calls"]):
            first = message if index == 0 else {**message, "content": None}
            messages += [{**first, "tool_calls": [call]}, results.pop(call["id"])]


FORMS = [
    (split, ["raw", "split"]),
    (no_results, ["raw", "empty"]),
    (contents, ["raw", "null", "empty", "absent"]),
    (arguments, ["raw", "text", "objects"]),
    (developer, ["raw", "system"]),
    (systems, ["raw", "joined", "user"]),
    (joined_parts, ["raw", "joined"]),
    (ids, ["raw", "nine"]),
    (no_calls, ["raw", "none"]),
]


def variants(messages):
    """The messages as they are, then in all other forms."""
    seen = []
    for forms in itertools.product(*(forms for _, forms in FORMS)):
        variant = copy.deepcopy(messages)
        for (change, _), form in zip(FORMS, forms):
            if form != "raw":
                change(variant, form)
        # null and "" may be wanted at different places
        if variant not in seen:
            seen.append(variant)
    return seen


def compiled(source):
    template = _compile_jinja_template(source)
    template.environment.globals["strftime_now"] = NOW.strftime
    # Kimi-K2's templates append to lists, which the sandbox forbids.
    template.environment.is_safe_attribute = lambda *_: True
    # One template pipes what `map` gives to `tojson`, which Python refuses for a generator and others take for a list.
    template.environment.filters["map"] = pass_context(lambda *args, **named: list(sync_do_map(*args, **named)))
    return template


def render(template, messages, options):
    context = {"tools": None, "documents": None, "add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>"}
    try:
        return template.render(messages=messages, **{**context, **options})
    except Exception:
        return None


def texts(messages):
    for message in messages:
        content = message.get("content") or ""
        yield from [content] if isinstance(content, str) else (part["text"] for part in content)
        for call in message.get("tool_calls", []):
            yield call["function"]["name"]


def badness(text, messages):
    lost = sum(part.split("</think>")[-1].strip() not in text for part in texts(messages))
    foreign = sum(text.count(word) for word in ["None", "null", "'text'", '"{}"'])
    return lost, foreign, text.count('\\"')


def short(text):
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# What a client sends here is never what should be rendered: arguments are {} and the turn is empty.
NEVER_AS_SENT = ["empty arguments", "cut-off arguments", "assistant null"]


def record(template, name, messages, options):
    rendered = [render(template, variant, options) for variant in variants(messages)]
    scores = [badness(text, messages) for text in rendered if text is not None]
    first = "-" if rendered[0] is None else short(rendered[0])
    may_be = rendered[0] is not None and name not in NEVER_AS_SENT
    is_clean = may_be and badness(rendered[0], messages) == min(scores)
    best = {short(text) for text in rendered if text is not None and badness(text, messages)[0] == min(scores)[0]}
    return " ".join([("=" if is_clean else "") + first, *sorted(best - {first})])


def record_templates(folder):
    templates = {}
    for file in sorted(folder.glob("*/*.jinja")):
        template = compiled(file.read_text())
        templates[f"{file.parent.name}/{file.name}"] = {
            name: record(template, name, messages, options) for name, (messages, options) in CONVERSATIONS.items()
        }
        print(file.name)
    conversations = {name: {"messages": m, "options": o} for name, (m, o) in CONVERSATIONS.items()}
    out = {"conversations": conversations, "templates": templates}
    (DATA / "templates.json").write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n")


def record_jinja():
    """Expressions and what Jinja makes of them, null where it raises."""
    file = DATA / "jinja.json"
    cases = json.loads(file.read_text())
    values = cases["values"]
    for case in cases["cases"]:
        try:
            case[1:] = [compiled(case[0]).render(**values, tools=None, documents=None)]
        except Exception as error:
            case[1:] = [None]
            print(f"raises: {case[0]}: {error}")
    lines = ",\n".join("  " + json.dumps(case, ensure_ascii=False) for case in cases["cases"])
    file.write_text(f'{{"values": {json.dumps(values, ensure_ascii=False)},\n "cases": [\n{lines}\n ]}}\n')


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    record_jinja()
    for folder in sys.argv[1:]:
        record_templates(pathlib.Path(folder))
