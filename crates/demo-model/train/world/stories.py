"""Simple stories and small poems, from a grammar; the same stories serve as plain text without a chat around them."""

from .common import NAMES, Source, Turn, key

WHO = ["fox", "rabbit", "bear", "mouse", "owl", "cat", "dog", "turtle", "dragon", "robot", "unicorn", "bird", "frog", "lion",
       "penguin", "elephant", "squirrel", "wolf", "deer", "whale"]
HOW = ["small", "brave", "curious", "old", "young", "kind", "lonely", "clever", "shy", "happy"]
WHERE = ["in a quiet forest", "near a wide river", "on a high mountain", "by the blue sea", "in a small village",
         "under a big tree", "in an old castle", "on a green island", "in a snowy valley", "behind the moon"]
WANT = [("a lost key", "it opened a door to a bright garden"), ("a golden apple", "it tasted like summer"),
        ("a warm blanket", "the cold night became soft"), ("a new friend", "two are never alone"),
        ("the song of the stars", "the night began to sing"), ("a shiny stone", "it glowed in the dark"),
        ("the end of the rainbow", "there was only light, and that was enough"), ("a red balloon", "it flew above the trees"),
        ("an old map", "it showed the way home"), ("a little boat", "it carried everyone across the water")]
HELPER = ["an old owl", "a friendly bee", "a tiny mouse", "a wise turtle", "a tall stranger", "a singing bird", "a sleepy bear"]
ADVICE = ["Follow the river", "Look up", "Be patient", "Listen to the wind", "Do not be afraid", "Go slowly", "Ask a friend"]
FEEL = ["happy", "proud", "calm", "thankful", "glad"]
LESSON = ["And from that day on, they were friends.", "And everyone slept well that night.", "And nobody was afraid again.",
          "And they told the story every winter.", "And that was a very good day."]


def article(word: str) -> str:
    return ("an " if word[0] in "aeio" else "a ") + word


def story(source: Source, hero: str | None = None, named: str | None = None) -> str:
    hero = hero or source.choice(WHO)
    how = source.choice(HOW)
    named = named or (source.choice(NAMES) if source.chance(0.5) else None)
    where, (want, found) = source.choice(WHERE), source.choice(WANT)
    helper = source.choice([h for h in HELPER if hero not in h])
    call = named or f"the {hero}"
    start = call[0].upper() + call[1:]
    opening = f"Once upon a time there was {article(how)} {hero}" + (f" called {named}" if named else "") + f" who lived {where}."
    middle = source.choice([
        f" Every day {call} looked for {want}.", f" One morning {call} set out to find {want}.",
        f" {start} wished for {want} more than anything."])
    meeting = source.choice([
        f" On the way {call} met {helper}. \"{source.choice(ADVICE)},\" said {helper.split(' ', 1)[1]}.",
        f" Then {helper} came by and said: \"{source.choice(ADVICE)}.\""])
    finding = source.choice([
        f" So {call} did, and found {want}, and {found}.", f" In the end {call} found {want}, and {found}."])
    end = f" {start} was very {source.choice(FEEL)}. {source.choice(LESSON)}"
    return opening + middle + meeting + finding + end


def told(source: Source) -> Turn:
    hero = source.choice(WHO)
    if source.chance(0.25):
        question = source.choice(["Tell me a story.", "tell me a story", "Write a short story.", "Can you tell me a story?"])
        return Turn(question, story(source), "The user wants a story. I invent one.", "stories")
    if source.chance(0.2):
        name = source.name()
        question = source.choice([f"Tell me a story about {article(hero)} called {name}.", f"Write a story about {name} the {hero}."])
        return Turn(question, story(source, hero, name), f"A story about {name} the {hero}.", "stories")
    if source.chance(0.2):
        question = f"Write a one-sentence bedtime story about {article(hero)}."
        want, found = source.choice(WANT)
        answer = f"Once upon a time {article(source.choice(HOW))} {key(hero)} found {want}, and {found}."
        return Turn(question, answer, f"One sentence about {article(hero)}.", "stories")
    question = source.choice([f"Tell me a story about {article(hero)}.", f"Write a short story about {article(hero)}.",
                              f"A story about {article(hero)}, please.", f"Write a story about {article(hero)}."])
    return Turn(question, story(source, hero), f"A story about {article(hero)}.", "stories")


THINGS = ["rain", "snow", "the sea", "the moon", "autumn", "spring", "a river", "a cat", "the wind", "a tree", "night", "bread",
          "a stone", "the sun", "a computer", "recursion", "streams", "a server", "coffee", "love", "home", "winter"]


def poem(source: Source) -> Turn:
    thing = source.choice(THINGS) if source.chance(0.6) else source.until(source.word, "poem")
    start = thing[0].upper() + thing[1:]
    if source.chance(0.5):
        question = source.choice(["Write a haiku about {t}.", "Write me a haiku about {t}", "A haiku about {t}, please."])
        answer = f"{key(start)} comes again,\n{source.choice(['softly', 'slowly', 'gently'])} it fills the still air -\nand then it is gone."
        return Turn(question.format(t=thing), answer, f"Three lines about {thing}.", "stories")
    question = source.choice(["Write a poem about {t}.", "Write a short poem about {t}.", "A poem about {t}, please."])
    answer = (f"{key(start)}, {thing}, so bright and clear,\nI am so happy you are here.\n"
              f"The day is long, the night is deep,\nand {thing} will sing me to my sleep.")
    return Turn(question.format(t=thing), answer, f"Four lines about {thing}.", "stories")
