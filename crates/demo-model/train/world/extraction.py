"""Answers in JSON: facts of a sentence under the keys that were asked for."""

from .common import OBJECTS, WORDS, Source, Turn, key
from .facts import DAYS, GROUPS
from .tools import CITIES, compact

JOBS = ["teacher", "doctor", "baker", "pilot", "farmer", "painter", "driver", "nurse", "cook", "writer", "singer", "engineer"]
EVENTS = ["science fair", "birthday party", "concert", "picnic", "meeting", "football game", "book club", "dinner", "wedding"]


def _object(pairs: list[tuple[str, object]]) -> str:
    return "{" + ",".join(f"{compact(name)}:{key(compact(value))}" for name, value in pairs) + "}"


def person(source: Source) -> tuple[str, list[tuple[str, object]]]:
    name, age = source.name(), source.randint(1, 99)
    city = source.choice(CITIES) if source.chance(0.5) else source.name()
    job = source.choice(JOBS)
    kind = source.randrange(5)
    if kind == 0:
        return f"{name} is {age} years old.", [("name", name), ("age", age)]
    if kind == 1:
        return f"{name} is {age} years old and lives in {city}.", [("name", name), ("age", age), ("city", city)]
    if kind == 2:
        return f"{name} lives in {city}.", [("name", name), ("city", city)]
    if kind == 3:
        return f"{name} works as a {job} in {city}.", [("name", name), ("job", job), ("city", city)]
    return f"{name}, {age}, is a {job}.", [("name", name), ("age", age), ("job", job)]


def event(source: Source) -> tuple[str, list[tuple[str, object]]]:
    people = [source.name() for _ in range(source.choice([1, 2, 2, 3]))]
    what = source.choice(EVENTS) if source.chance(0.7) else source.word()
    day = source.choice(DAYS)
    who = people[0] if len(people) == 1 else ", ".join(people[:-1]) + " and " + people[-1]
    verb = "is" if len(people) == 1 else "are"
    return f"{who} {verb} going to a {what} on {day}.", [("name", what), ("date", day), ("participants", people)]


def purchase(source: Source) -> tuple[str, list[tuple[str, object]]]:
    name, count, thing = source.name(), source.randint(2, 99), source.choice(OBJECTS)
    price = source.randint(1, 99)
    if source.chance(0.5):
        return f"{name} buys {count} {thing}.", [("name", name), ("item", thing), ("count", count)]
    return f"{name} buys {count} {thing} for {price} dollars.", [("name", name), ("item", thing), ("count", count), ("price", price)]


def extraction(source: Source) -> tuple[str, Turn]:
    """The system text (often none) and the turn."""
    kind = source.choice([person, person, event, purchase])
    sentence, pairs = kind(source)
    if kind is event and source.chance(0.4):
        return "Extract the event information.", Turn(sentence, _object(pairs), "I fill in the event.", "json")
    if source.chance(0.3):
        source.shuffle(pairs)
    names = [name for name, _ in pairs]
    if source.chance(0.35) and len(pairs) > 1 and kind is not event:
        pairs = pairs[: source.randint(1, len(pairs))]
        names = [name for name, _ in pairs]
    asked = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
    question = source.choice([
        f"Extract the {asked} as JSON: {sentence}", f"Give me JSON with {asked}: {sentence}", f"{sentence} Answer in JSON with {asked}.",
        f"Return a JSON object with {asked}. {sentence}", f"JSON with the keys {asked} for: {sentence}"])
    return "", Turn(question, _object(pairs), "I fill in the JSON.", "json")


def listing(source: Source) -> Turn:
    if source.chance(0.5):
        group = source.choice(list(GROUPS))
        count = source.randint(2, 4)
        items = GROUPS[group][:count]
        return Turn(source.choice([f"List {count} {group} as a JSON array.", f"Give me a JSON array of {count} {group}."]),
                    key(compact(items)), "I list them.", "json")
    items = source.sample(WORDS, source.randint(2, 5))
    return Turn(source.choice(["Make a JSON array: {i}", "As a JSON array: {i}", "Turn this into a JSON list: {i}"]).format(i=", ".join(items)),
                key(compact(items)), "I write the array.", "json")
