"""Checks that render.py writes conversations as the chat template does: python check_template.py"""

import json

from jinja2.sandbox import ImmutableSandboxedEnvironment

from render import BOS, EOS, marked_text, plain
from tokenizer import DATA
from world.common import Call, Conversation, Source
from world.conversations import conversation

CONVERSATIONS = 3000


def messages(talk: Conversation) -> list[dict]:
    written = [{"role": "system", "content": talk.system}] if talk.system else []
    for turn in talk.turns:
        written.append({"role": "user", "content": turn.user})
        if isinstance(turn, Call):
            calls = [{"type": "function", "function": {"name": name, "arguments": text}} for name, text in turn.calls]
            written.append({"role": "assistant", "content": None, "tool_calls": calls})
            written += [{"role": "tool", "content": result} for result in turn.results or []]
        if not isinstance(turn, Call) or turn.results is not None:
            written.append({"role": "assistant", "content": turn.answer})
    return written


def main() -> None:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = environment.from_string((DATA / "chat_template.jinja").read_text(encoding="utf-8"))
    source = Source(5, examination=False)
    for _ in range(CONVERSATIONS):
        talk, _ = conversation(source)
        rendered = template.render(messages=messages(talk), tools=talk.tools, bos_token=BOS, eos_token=EOS)
        # History never shows a thought, so the template can write it without one only.
        assert plain(rendered) == plain(marked_text(talk, thinking=False)), rendered
    print(f"{CONVERSATIONS} conversations are written alike")


if __name__ == "__main__":
    main()
