"""What all parts of the world share: turns, names, words, and what is held out of the training."""

import hashlib
import random
from dataclasses import dataclass, field

KEY_OPEN, KEY_CLOSE = "\ue000", "\ue001"


def key(text: object) -> str:
    """Marks the part of an answer that decides whether it is right; the marks never reach the tokenizer."""
    return f"{KEY_OPEN}{text}{KEY_CLOSE}"


def fill(answer: str) -> str:
    """The part of an answer in braces is its key."""
    before, _, rest = answer.partition("{")
    inside, _, after = rest.partition("}")
    return before + key(inside) + after


def held_out(*parts: object) -> bool:
    """Whether this combination is kept for the examination: one in twelve."""
    return hashlib.sha256("|".join(map(str, parts)).encode()).digest()[0] % 12 == 0


@dataclass
class Turn:
    """One question and its answer; `thought` is what precedes the answer when the model is asked to think."""

    user: str
    answer: str
    thought: str = ""
    task: str = "chat"


@dataclass
class Call:
    """Tool calls (names and arguments), the tools' results (none if the conversation ends with the calls), the answer."""

    user: str
    calls: list[tuple[str, str]]
    results: list[str] | None
    answer: str
    thought: str
    task: str = "tools"


@dataclass
class Conversation:
    """Turns in order, with the instructions and tools that the prompt begins with."""

    turns: list
    system: str = ""
    tools: list = field(default_factory=list)


class Source(random.Random):
    """Random choices of one split: `examination` draws only held-out combinations, training never does."""

    def __init__(self, seed: int, examination: bool):
        super().__init__(seed)
        self.examination = examination

    def until(self, draw, *label: object):
        """Draws until the value belongs to this split."""
        while True:
            value = draw()
            if held_out(*label, value) == self.examination:
                return value

    def chance(self, share: float) -> bool:
        return self.random() < share

    def name(self) -> str:
        """A first name: a common one, or syllables that nobody has put together before."""
        if self.chance(0.35) and not self.examination:
            return self.choice(NAMES)
        return self.until(self._invented, "name")

    def _invented(self) -> str:
        parts = [self.choice(ONSETS) + self.choice(NUCLEI) for _ in range(self.choice([1, 2, 2, 2, 3]))]
        name = "".join(parts) + self.choice(CODAS)
        return name.capitalize() if len(name) > 2 else name.capitalize() + "n"

    def word(self) -> str:
        """A common word, or an invented one."""
        return self.choice(WORDS) if self.chance(0.6) else self._invented().lower()

    def code(self) -> str:
        """Something that can only be copied."""
        letters = "".join(self.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(self.randint(1, 4)))
        digits = "".join(self.choice("0123456789") for _ in range(self.randint(2, 5)))
        return self.choice([f"{letters}{digits}", f"{letters}-{digits}", digits, f"{digits}{letters.lower()}"])


ONSETS = ["b", "br", "c", "ch", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "kl", "l", "m", "n", "p", "pr", "qu",
          "r", "s", "sh", "st", "t", "th", "tr", "v", "w", "x", "y", "z", "", ""]
NUCLEI = ["a", "e", "i", "o", "u", "ai", "ea", "ee", "ia", "ie", "io", "oa", "oo", "ou", "y", "é", "ö", "á"]
NUCLEI = NUCLEI[:5] * 4 + NUCLEI
CODAS = ["", "", "", "n", "l", "r", "s", "x", "m", "th", "ck", "nd", "k", "ra", "na", "la", "ko", "vin", "dor", "bert"]
NAMES = """Ana Maria Peter John Mary Alice Bob Carol David Emma Frank Grace Henry Ivy Jack Kate Leo Mia Noah Olivia Paul
Quinn Rosa Sam Tom Uma Victor Wendy Xavier Yara Zoe Anna Ben Clara Daniel Eva Felix Greta Hugo Ida Jonas Klara Lukas Lena
Max Nina Oscar Paula Robert Sara Theo Ursula Vera Walter Yusuf Ahmed Fatima Omar Layla Ali Noor Hassan Amir Leila Wei Li
Chen Ming Yan Jun Hui Fang Lin Mei Hiro Yuki Kenji Sakura Akira Naomi Ravi Priya Arjun Anika Dev Maya Rohan Sita Ivan
Olga Boris Katya Dmitri Irina Pablo Lucia Diego Carmen Juan Sofia Mateo Elena Luis Marta Pierre Marie Louis Claire Luc
Camille Giulia Marco Luca Chiara Sven Ingrid Lars Astrid Erik Freya Kwame Ama Kofi Abena Tunde Zuri Jabari James Linda
Michael Susan William Karen Richard Nancy Thomas Lisa Charles Betty Mark Sandra George Emily Kevin Amy Brian Laura""".split()
WORDS = """apple river stone cloud garden window pencil table lamp music winter summer forest mountain silver golden quiet
happy small large paper letter bridge castle ocean island planet rocket dragon tiger rabbit orange purple yellow coffee
bread cheese honey pepper ladder hammer mirror carpet blanket pillow candle basket bottle engine wheel camera guitar
violin drum piano market street village city train ship plane bicycle kite balloon feather shadow thunder rainbow
sunrise meadow valley harbor lantern compass anchor puzzle riddle story poem song dance dream wish promise secret
treasure journey adventure holiday birthday present cookie cake lemon banana cherry grape peach melon potato tomato
carrot onion garlic rice soup salad dinner breakfast lunch kitchen bedroom school office library hospital museum""".split()
OBJECTS = """apples books pens coins eggs cards stamps marbles oranges cookies flowers balls cups tickets stickers keys
shells stones pencils candles boxes lemons bottles chairs toys plates fish birds photos letters""".split()
