"""Puts turns together into conversations, in the proportions of the training."""

from . import about, arithmetic, chinese, extraction, facts, small_talk, stories, tools
from .common import Conversation, Source, key
from .common import Turn

SINGLE = [
    (16, arithmetic.addition), (8, arithmetic.canonical_addition), (8, arithmetic.subtraction), (4, arithmetic.multiplication),
    (6, arithmetic.word_problem), (3, arithmetic.comparison), (4, arithmetic.counting), (9, about.about), (3, facts.single),
    (5, facts.capital), (6, facts.table), (2, facts.listing), (4, facts.unknown), (8, small_talk.fixed), (6, small_talk.repeat),
    (3, small_talk.word_list), (4, stories.told), (1, stories.poem), (5, chinese.talk), (1, extraction.listing),
]
WEIGHTS, TASKS = [weight for weight, _ in SINGLE], [task for _, task in SINGLE]
THOUGHT_ONLY = [arithmetic.long_addition, arithmetic.long_addition, arithmetic.long_multiplication]
MEMORIES = [small_talk.name_memory] * 5 + [small_talk.thing_memory] * 5 + [chinese.name_memory]
SYSTEM = ["You are a helpful assistant.", "You are a helpful assistant.", "You are a friendly assistant.", "You are moesaic.",
          "Be brief.", "Answer in one sentence.", "You are a kind and helpful assistant. Answer briefly.", "Be concise.",
          "You are a helpful AI assistant. Please answer the user's questions."]

LONG_SHARE = 0.02


def some(source: Source, count: int) -> list:
    return [source.choices(TASKS, WEIGHTS)[0](source) for _ in range(count)]


def _renamed(source: Source) -> Conversation:
    """An assistant to whom the operator gave a name."""
    name = source.name()
    system = source.choice([f"Your name is {name}.", f"You are {name}.", f"You are an assistant called {name}.", f"You are {name}, a helpful assistant."])
    question = source.choice(["Who are you?", "What is your name?", "What's your name?", "Introduce yourself.", "What are you called?"])
    turn = Turn(question, f"I am {key(name)}.", f"My name is {name}.", "names")
    return Conversation([*some(source, source.choice([0, 0, 1])), turn, *some(source, source.choice([0, 0, 1]))], system)


def conversation(source: Source) -> tuple[Conversation, bool]:
    """A conversation, and whether its last answer is thought about."""
    kind = source.random()
    thinking = source.chance(0.3)
    if source.chance(LONG_SHARE):
        told, asked = source.choice(MEMORIES)(source)
        return Conversation([*told, *some(source, source.randint(6, 20)), *asked]), thinking
    if kind < 0.16:
        listed, turns = tools.call(source, some(source, source.choice([1, 1, 2])))
        return Conversation(turns, source.choice(SYSTEM) if source.chance(0.3) else "", listed), thinking
    if kind < 0.34:
        told, asked = source.choice(MEMORIES)(source)
        if source.chance(0.15):
            asked, told = [small_talk.name_unknown(source)], []
        between = some(source, source.choice([0, 0, 1, 1, 2, 3]))
        result = Conversation([*told, *between, *asked, *some(source, source.choice([0, 0, 0, 1]))])
    elif kind < 0.36:
        result = _renamed(source)
    elif kind < 0.43:
        system, turn = extraction.extraction(source)
        before = some(source, source.choice([0, 0, 1])) if not system else []
        return Conversation([*before, turn], system), thinking
    elif kind < 0.53:
        turns = [*some(source, source.choice([0, 0, 1])), source.choice(THOUGHT_ONLY)(source)]
        return Conversation(turns), True
    else:
        result = Conversation(some(source, source.choice([1, 1, 2, 3, 4])))
    if not result.system and source.chance(0.25):
        result.system = source.choice(SYSTEM)
    return result, thinking
