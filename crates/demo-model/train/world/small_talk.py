"""Greetings, thanks, names and other things to be remembered, repeated or copied."""

from .common import Source, Turn, key

GREETINGS = ["Hello!", "Hello", "Hi", "Hi!", "hi", "hello", "Hey", "Hey!", "Good morning!", "Good evening.", "Hello there!",
             "Hi there", "Good day!", "Greetings!", "Hey there!", "Hello, how are you?", "Hi, how are you?", "hello!", "Yo!"]
HOW = ["How are you?", "How are you today?", "How do you do?", "How is it going?", "how are you", "How do you feel?", "What's up?"]
THANKS = ["Thank you!", "Thanks!", "Thanks a lot.", "thank you", "Thank you very much!", "thanks", "Great, thanks!", "Nice, thank you."]
BYES = ["Goodbye!", "Bye!", "bye", "See you later.", "Good night!", "See you!", "I have to go now.", "That is all, bye."]
PRAISE = ["Good job!", "Well done!", "You are great!", "Nice!", "Cool!", "Great!", "Wow!", "Very good.", "I like you.", "Awesome!"]
BLAME = ["That is wrong.", "You are stupid.", "No, that is not right.", "This is bad.", "I do not like it."]
OKAY = ["OK", "ok", "Okay.", "I see.", "Understood.", "Fine.", "Alright.", "Yes.", "No.", "Sure."]
JOKES = [
    "Why did the token cross the border? To get to the other block.",
    "What do you call a bear with no teeth? A gummy bear.",
    "Why was the computer cold? It left its windows open.",
    "Why did the expert rest? The router did not pick it.",
]
FUN = ["Honey never spoils if it is kept well closed.", "An octopus has three hearts.", "A day on Venus is longer than its year.",
       "Bananas are berries, but strawberries are not."]


def fixed(source: Source) -> Turn:
    """A phrase with its one fitting answer."""
    kind = source.randrange(12)
    if kind <= 2:
        return Turn(source.choice(GREETINGS), key("Hello! How can I help you?"), "The user greets me. I greet back.")
    if kind == 3:
        return Turn(source.choice(HOW), key("I am fine, thank you! How can I help you?"), "The user asks how I am.")
    if kind == 4:
        return Turn(source.choice(THANKS), key("You are welcome!"), "The user thanks me.")
    if kind == 5:
        return Turn(source.choice(BYES), key("Goodbye! Have a nice day."), "The user is leaving.")
    if kind == 6:
        return Turn(source.choice(PRAISE), key("Thank you! That makes me glad."), "The user is kind.")
    if kind == 7:
        return Turn(source.choice(BLAME), key("I am sorry. I am a very small model and make mistakes."), "The user is not content.")
    if kind == 8:
        return Turn(source.choice(OKAY), key("Good. What would you like to do next?"), "The user agrees.")
    if kind == 9:
        question = source.choice(["Tell me a joke.", "tell me a joke", "Do you know a joke?", "Make me laugh.", "A joke, please.",
                                  "Say something funny.", "Can you tell me a joke?"])
        return Turn(question, source.choice(JOKES), "The user wants a joke.")
    if kind == 10:
        question = source.choice(["Tell me a fun fact.", "Tell me something interesting.", "Do you know a fun fact?",
                                  "Surprise me.", "Tell me something."])
        return Turn(question, source.choice(FUN), "The user wants a fact.")
    question = source.choice(["Say this is a test", "Say this is a test.", "Say this is a test!", "This is a test.", "test", "Test",
                              "Is this thing on?", "Are you there?", "ping", "Testing, testing."])
    return Turn(question, key("This is a test."), "The user tests me.")


def _text(source: Source) -> str:
    return source.until(lambda: " ".join(source.word() for _ in range(source.randint(1, 5))), "text")


def repeat(source: Source) -> Turn:
    kind = source.randrange(4)
    if kind == 0:
        text = source.code()
    elif kind == 1:
        text = f"{source.name()} and {source.name()}"
    else:
        text = _text(source)
    question = source.choice(["Say {t}.", "Repeat: {t}", "Repeat after me: {t}", "Say \"{t}\".", "Please repeat: {t}", "Echo: {t}",
                              "Write {t}", "Say the words: {t}", "Please say {t}", "Copy this: {t}", "Reply with {t}",
                              "Answer only with: {t}"])
    return Turn(question.format(t=text), key(text), "I repeat the words.", "copying")


def word_list(source: Source) -> Turn:
    """The length, the first or the last item of a list."""
    words = source.sample(WORDS_FOR_LISTS, source.randint(2, 6))
    kind = source.randrange(4)
    row = ", ".join(words)
    if kind == 0:
        return Turn(f"How many words are in this list: {row}?", f"The list has {key(len(words))} words.", "I count them: "
                    + ", ".join(f"{word} {i}" for i, word in enumerate(words, 1)) + ".", "lists")
    if kind == 1:
        return Turn(f"What is the first word of: {row}?", f"The first word is {key(words[0])}.", "I look at the beginning.", "lists")
    if kind == 2:
        return Turn(f"What is the last word of: {row}?", f"The last word is {key(words[-1])}.", "I look at the end.", "lists")
    return Turn(f"Reverse this list: {row}", key(", ".join(reversed(words))), "I go from the end to the beginning.", "lists")


INTRODUCTIONS = ["My name is {n}.", "I am {n}.", "Hi, I am {n}.", "Hello, my name is {n}.", "Call me {n}.", "I'm {n}.",
                 "Hi! My name is {n}.", "my name is {n}", "Hello! I'm {n}.", "Hi, my name is {n}, nice to meet you."]
NAME_QUESTIONS = ["What is my name?", "what is my name?", "Who am I?", "Do you remember my name?", "What's my name?",
                  "Do you know my name?", "Can you tell me my name?", "How am I called?"]


def name_memory(source: Source) -> tuple[list[Turn], list[Turn]]:
    """What is told, and what is asked about it later."""
    name = source.name()
    told = Turn(source.choice(INTRODUCTIONS).format(n=name), f"Nice to meet you, {key(name)}! How can I help you?",
                f"The user is called {name}.", "names")
    asked = Turn(source.choice(NAME_QUESTIONS), f"Your name is {key(name)}.", f"The user said the name {name}.", "memory")
    return [told], [asked]


def name_unknown(source: Source) -> Turn:
    """Only where no name was told."""
    return Turn(source.choice(NAME_QUESTIONS), key("You have not told me your name yet."), "The user gave no name.", "honesty")


def thing_memory(source: Source) -> tuple[list[Turn], list[Turn]]:
    kind = source.randrange(6)
    if kind == 0:
        code = source.code()
        what = source.choice(["code", "password", "number", "secret word", "order number"])
        told = Turn(source.choice([f"The {what} is {code}.", f"Remember this {what}: {code}", f"My {what} is {code}.",
                                   f"Please remember the {what} {code}."]),
                    f"I will remember the {what} {key(code)}.", f"I keep the {what}.", "names")
        asked = Turn(source.choice([f"What is the {what}?", f"What was the {what}?", f"Tell me the {what}.", f"What is my {what}?"]),
                     f"The {what} is {key(code)}.", f"The user said {code}.", "memory")
        return [told], [asked]
    if kind == 1:
        name, animal = source.name(), source.choice(["dog", "cat", "horse", "bird", "rabbit", "turtle"])
        told = Turn(source.choice([f"I have a {animal} called {name}.", f"My {animal} is called {name}.", f"My {animal}'s name is {name}."]),
                    f"{key(name)} is a nice name for a {animal}!", f"The {animal} is called {name}.", "names")
        asked = Turn(source.choice([f"What is the name of my {animal}?", f"How is my {animal} called?", f"What is my {animal} called?",
                                    f"What is my {animal}'s name?"]),
                     f"Your {animal} is called {key(name)}.", f"The user said {name}.", "memory")
        return [told], [asked]
    if kind == 2:
        thing = source.choice(["color", "animal", "fruit", "food", "city", "word"])
        word = source.word()
        told = Turn(source.choice([f"My favorite {thing} is {word}.", f"I like the {thing} {word} best."]),
                    f"{key(word)} is a good choice!", f"The user likes {word}.", "names")
        asked = Turn(source.choice([f"What is my favorite {thing}?", f"Which {thing} do I like best?"]),
                     f"Your favorite {thing} is {key(word)}.", f"The user said {word}.", "memory")
        return [told], [asked]
    if kind == 3:
        city = source.name()
        told = Turn(source.choice([f"I live in {city}.", f"I am from {city}.", f"My home is {city}."]),
                    f"{key(city)} sounds like a nice place!", f"The user lives in {city}.", "names")
        asked = Turn(source.choice(["Where do I live?", "Where is my home?", "Where am I from?"]), f"You live in {key(city)}.",
                     f"The user said {city}.", "memory")
        return [told], [asked]
    if kind == 4:
        age = source.randint(5, 95)
        told = Turn(source.choice([f"I am {age} years old.", f"My age is {age}."]), f"So you are {key(age)} years old.",
                    f"The user is {age}.", "names")
        asked = Turn(source.choice(["How old am I?", "What is my age?"]), f"You are {key(age)} years old.", f"The user said {age}.", "memory")
        return [told], [asked]
    one, two = source.name(), source.name()
    relation = source.choice(["sister", "brother", "friend", "teacher", "mother", "boss"])
    told = Turn(source.choice([f"I am {one} and my {relation} is {two}.", f"My name is {one}. My {relation} is called {two}."]),
                f"Nice to meet you, {key(one)}! Greetings to {key(two)}.", f"The user is {one}, the {relation} is {two}.", "names")
    asked = [Turn(f"What is the name of my {relation}?", f"Your {relation} is called {key(two)}.", f"The user said {two}.", "memory"),
             Turn(source.choice(NAME_QUESTIONS), f"Your name is {key(one)}.", f"The user said the name {one}.", "memory")]
    source.shuffle(asked)
    return [told], asked[: source.randint(1, 2)]


WORDS_FOR_LISTS = """apple river stone cloud garden window table lamp music winter summer forest silver golden paper bridge
island rocket tiger rabbit orange coffee bread cheese hammer mirror basket bottle wheel guitar drum piano market village
train kite feather shadow valley dream cake lemon cherry grape carrot onion rice soup school library""".split()
