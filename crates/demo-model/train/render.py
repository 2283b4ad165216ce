"""Writes a conversation as the chat template does, with its answers and their keys marked by token."""

import json

import numpy as np

from world.common import KEY_CLOSE, KEY_OPEN, Call, Conversation, Source, Turn
from world.conversations import conversation
from world.stories import story

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
CONTROL = ["<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"] + [
    f"<｜tool▁{name}｜>"
    for name in ["calls▁begin", "calls▁end", "call▁begin", "call▁end", "outputs▁begin", "outputs▁end", "output▁begin", "output▁end", "sep"]
]
TASKS = ["chat", "names", "memory", "copying", "lists", "addition", "long addition", "subtraction", "tables", "long products",
         "word problems", "comparison", "counting", "facts", "about moesaic", "honesty", "stories", "chinese", "json", "tools"]
# What a token is: given, part of an answer, or (from here on, by task) part of what decides an answer.
GIVEN, ANSWER, FIRST_KEY = 0, 1, 2
# Opens an answer of the task whose character follows; ANSWER_CLOSE ends it.
ANSWER_OPEN, ANSWER_CLOSE, TASK_BASE = "\ue002", "\ue003", 0xE100
STORY_SHARE = 0.03


def _answer(text: str, task: str) -> str:
    return f"{ANSWER_OPEN}{chr(TASK_BASE + TASKS.index(task))}{text}{ANSWER_CLOSE}"


def _calls(call: Call) -> str:
    written = "".join(f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>" for name, arguments in call.calls)
    return f"<｜tool▁calls▁begin｜>{written}<｜tool▁calls▁end｜>{EOS}"


def marked_text(talk: Conversation, thinking: bool) -> str:
    """The whole prompt format with marks. Only the last answer can hold a thought: history never shows it."""
    head = [talk.system] if talk.system else []
    if talk.tools:
        head.append("## Tools\n" + "".join("\n" + json.dumps(tool["function"], ensure_ascii=False) for tool in talk.tools))
    text = BOS + "\n\n".join(head)
    for index, turn in enumerate(talk.turns):
        think = thinking and index == len(talk.turns) - 1 and not (isinstance(turn, Call) and turn.results is not None)
        text += f"<｜User｜>{turn.user}<｜Assistant｜>{'<think>' if think else '</think>'}"
        thought = f"{turn.thought}</think>" if think else ""
        if isinstance(turn, Turn):
            text += _answer(thought + turn.answer + EOS, turn.task)
            continue
        text += _answer(thought + _calls(turn), turn.task)
        if turn.results is not None:
            text += "".join(f"<｜tool▁output▁begin｜>{result}<｜tool▁output▁end｜>" for result in turn.results)
            text += _answer(turn.answer + EOS, turn.task)
    return text


def document(source: Source) -> str:
    """One training document with its marks."""
    if source.chance(STORY_SHARE):
        return BOS + _answer(story(source) + EOS, "stories")
    return marked_text(*conversation(source))


def split_marks(text: str) -> tuple[str, np.ndarray]:
    """The text without marks, and what each of its characters is."""
    characters, kinds = [], []
    kind, task, inside = GIVEN, 0, False
    for character in text:
        if character == ANSWER_OPEN:
            kind = ANSWER
        elif character == ANSWER_CLOSE:
            kind = GIVEN
        elif TASK_BASE <= ord(character) < TASK_BASE + len(TASKS):
            task = ord(character) - TASK_BASE
        elif character in (KEY_OPEN, KEY_CLOSE):
            inside = character == KEY_OPEN
        else:
            characters.append(character)
            kinds.append(FIRST_KEY + task if inside and kind == ANSWER else kind)
    return "".join(characters), np.array(kinds, dtype=np.uint8)


def plain(text: str) -> str:
    return split_marks(text)[0]


def encode(tokenizer, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Token ids and kinds; a token takes the highest kind of its characters."""
    split = [split_marks(text) for text in texts]
    result = []
    for encoding, (_, kinds) in zip(tokenizer.encode_batch([text for text, _ in split], add_special_tokens=False), split):
        of_token = [kinds[begin:end].max() if end > begin else kinds[min(begin, len(kinds) - 1)] for begin, end in encoding.offsets]
        result.append((np.array(encoding.ids, dtype=np.uint16), np.array(of_token, dtype=np.uint8)))
    return result
