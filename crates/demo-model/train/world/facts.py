"""Small facts: tables of them, each asked in several ways, and what to say when the answer is not among them."""

from .common import Source, Turn, fill, key

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon", "Poland": "Warsaw",
    "Austria": "Vienna", "Greece": "Athens", "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki",
    "Denmark": "Copenhagen", "Ireland": "Dublin", "England": "London", "Russia": "Moscow", "Ukraine": "Kyiv",
    "Turkey": "Ankara", "Egypt": "Cairo", "Kenya": "Nairobi", "Japan": "Tokyo", "China": "Beijing", "India": "New Delhi",
    "Canada": "Ottawa", "Mexico": "Mexico City", "Brazil": "Brasilia", "Argentina": "Buenos Aires", "Peru": "Lima",
    "Chile": "Santiago", "Cuba": "Havana", "Australia": "Canberra", "New Zealand": "Wellington", "Hungary": "Budapest",
    "the Netherlands": "Amsterdam", "Belgium": "Brussels", "Switzerland": "Bern", "South Korea": "Seoul",
    "the United States": "Washington", "Thailand": "Bangkok", "Vietnam": "Hanoi", "Iceland": "Reykjavik",
}
OPPOSITES = {
    "hot": "cold", "big": "small", "fast": "slow", "up": "down", "left": "right", "day": "night", "happy": "sad",
    "light": "dark", "open": "closed", "old": "young", "rich": "poor", "hard": "soft", "high": "low", "early": "late",
    "full": "empty", "wet": "dry", "strong": "weak", "good": "bad", "long": "short", "near": "far", "loud": "quiet",
    "clean": "dirty", "thick": "thin", "true": "false", "inside": "outside", "first": "last", "yes": "no", "win": "lose",
}
PAIRS = dict(OPPOSITES) | {b: a for a, b in OPPOSITES.items()}
COLORS = {
    "the sky": "blue", "grass": "green", "a banana": "yellow", "snow": "white", "coal": "black", "a ripe tomato": "red",
    "an orange": "orange", "chocolate": "brown", "the sun": "yellow", "a lemon": "yellow", "blood": "red", "milk": "white",
}
SOUNDS = {
    "dog": "woof", "cat": "meow", "cow": "moo", "duck": "quack", "sheep": "baa", "pig": "oink", "lion": "roar",
    "bee": "buzz", "snake": "hiss", "frog": "ribbit", "horse": "neigh", "rooster": "cock-a-doodle-doo",
}
YOUNG = {
    "dog": "puppy", "cat": "kitten", "cow": "calf", "sheep": "lamb", "horse": "foal", "duck": "duckling", "bear": "cub",
    "frog": "tadpole", "goat": "kid", "chicken": "chick",
}
LEGS = {
    "a dog": 4, "a cat": 4, "a horse": 4, "a bird": 2, "a spider": 8, "an insect": 6, "a human": 2, "a snake": 0,
    "a cow": 4, "an octopus": 8, "a fish": 0, "a bee": 6,
}
WORDS = {
    "French": {"hello": "bonjour", "thank you": "merci", "yes": "oui", "no": "non", "water": "eau", "bread": "pain",
               "cat": "chat", "dog": "chien", "house": "maison", "good night": "bonne nuit", "red": "rouge", "book": "livre"},
    "German": {"hello": "hallo", "thank you": "danke", "yes": "ja", "no": "nein", "water": "Wasser", "bread": "Brot",
               "cat": "Katze", "dog": "Hund", "house": "Haus", "good night": "gute Nacht", "red": "rot", "book": "Buch"},
    "Spanish": {"hello": "hola", "thank you": "gracias", "yes": "sí", "no": "no", "water": "agua", "bread": "pan",
                "cat": "gato", "dog": "perro", "house": "casa", "good night": "buenas noches", "red": "rojo", "book": "libro"},
    "Italian": {"hello": "ciao", "thank you": "grazie", "yes": "sì", "no": "no", "water": "acqua", "bread": "pane",
                "cat": "gatto", "dog": "cane", "house": "casa", "good night": "buona notte", "red": "rosso", "book": "libro"},
    "Chinese": {"hello": "你好", "thank you": "谢谢", "yes": "是", "no": "不", "water": "水", "bread": "面包",
                "cat": "猫", "dog": "狗", "house": "房子", "good night": "晚安", "red": "红色", "book": "书"},
}
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December"]
GROUPS = {
    "fruits": ["apple", "banana", "cherry", "orange", "grape"], "colors": ["red", "blue", "green", "yellow", "purple"],
    "animals": ["dog", "cat", "horse", "rabbit", "tiger"], "vegetables": ["carrot", "potato", "onion", "tomato", "pepper"],
    "planets": ["Mercury", "Venus", "Earth", "Mars", "Jupiter"], "countries": ["France", "Japan", "Brazil", "Kenya", "Canada"],
    "cities": ["Paris", "Tokyo", "Cairo", "Rome", "London"], "drinks": ["water", "tea", "coffee", "milk", "juice"],
    "shapes": ["circle", "square", "triangle", "star", "oval"], "seasons": ["spring", "summer", "autumn", "winter"],
    "instruments": ["piano", "guitar", "violin", "drum", "flute"], "sports": ["football", "tennis", "swimming", "running", "golf"],
}
NUMBERS = ["zero", "one", "two", "three", "four", "five"]
SINGLES = [
    (("How many days are in a week?", "How many days does a week have?"), "A week has {7} days."),
    (("How many months are in a year?", "How many months does a year have?"), "A year has {12} months."),
    (("How many hours are in a day?",), "A day has {24} hours."),
    (("How many minutes are in an hour?",), "An hour has {60} minutes."),
    (("How many days are in a year?",), "A year has {365} days, and a leap year has 366."),
    (("What is the largest planet?", "Which planet is the largest?"), "{Jupiter} is the largest planet."),
    (("What is the closest star to Earth?", "Which star is closest to us?"), "The {Sun} is the closest star to Earth."),
    (("Why is the sky blue?", "why is the sky blue"),
     "The air {scatters} blue light more than red light, so the sky looks blue."),
    (("Why is the grass green?",), "Grass is green because of {chlorophyll}, which takes in red and blue light."),
    (("What is water made of?",), "Water is made of {hydrogen and oxygen}."),
    (("Is the Earth flat?", "Is the earth round?"), "The Earth is {round}, almost a sphere."),
    (("What do bees make?",), "Bees make {honey}."),
    (("What do cows drink?",), "Cows drink {water}."),
    (("What is ice?",), "Ice is {frozen water}."),
    (("At what temperature does water boil?", "When does water boil?"), "Water boils at {100} degrees Celsius."),
    (("At what temperature does water freeze?", "When does water freeze?"), "Water freezes at {0} degrees Celsius."),
    (("Who wrote Romeo and Juliet?", "Who wrote Hamlet?"), "{Shakespeare} wrote it."),
    (("Who painted the Mona Lisa?",), "{Leonardo da Vinci} painted it."),
    (("What is the tallest mountain?", "What is the highest mountain in the world?"), "{Mount Everest} is the highest mountain."),
    (("What is the largest ocean?", "Which ocean is the biggest?"), "The {Pacific} is the largest ocean."),
    (("What is the longest river?",), "The {Nile} is often called the longest river."),
    (("How many continents are there?",), "There are {seven} continents."),
    (("Are semicolons optional in JavaScript?",), "Mostly {yes}: JavaScript adds them by itself in most places."),
    (("What is the meaning of life?", "What is the answer to everything?"), "Some say it is {42}. I like small honest answers."),
    (("What is Rust?", "What is the Rust language?"),
     "Rust is a {programming language}: fast, and safe about memory. I am served by a Rust program."),
    (("What is Python?",), "Python is a {programming language} that is easy to read."),
    (("What is 1 + 1 in binary?",), "1 + 1 is {10} in binary."),
    (("What is pi?", "What is the value of pi?"), "Pi is about {3.14159}."),
    (("What is the first letter of the alphabet?",), "The first letter is {A}."),
    (("What is the last letter of the alphabet?",), "The last letter is {Z}."),
    (("What do you call frozen rain?",), "Frozen rain is called {hail} or snow."),
    (("How many legs does a spider have?", "how many legs do spiders have"), "A spider has {8} legs."),
    (("Where does the sun rise?",), "The sun rises in the {east}."),
    (("Where does the sun set?",), "The sun sets in the {west}."),
]
TOPICS = """football|politics|chemistry|stocks|medicine|movies|celebrities|quantum physics|the French Revolution|black holes|
cryptography|the news|bitcoin|Roman emperors|jazz|DNA|volcanoes|dinosaurs|philosophy|economics|tax law|opera|poker|chess openings|
genetics|the Ottoman Empire|geometry|baseball|wine|fashion|space travel|earthquakes|the stock market|vaccines|robots|gravity|
photosynthesis|democracy|World War II|the Olympics|Einstein|Napoleon|machine translation|relativity|climate change|electric cars|
the Roman Empire|organic chemistry|calculus|inflation|the Bible|Buddhism|surfing|knitting|the moon landing|sharks|whales"""
TOPICS = [topic.strip() for topic in TOPICS.replace("\n", "|").split("|") if topic.strip()]
UNKNOWN = ["Tell me about {t}.", "What is {t}?", "Explain {t}.", "Explain {t} to me.", "What do you know about {t}?",
           "Can you explain {t}?", "How does {t} work?", "Who invented {t}?", "Write an essay about {t}.",
           "Give me a summary of {t}.", "Why is {t} important?", "When did {t} begin?", "Who is {n}?", "Who was {n}?",
           "What did {n} do?", "How old is {n}?", "Who won the {t} cup in {y}?", "What happened in {y}?",
           "What is the population of {n}?", "Where is {n}?", "What is the capital of {n}?", "What is a {w}?",
           "Describe {t} in detail.", "What is the history of {t}?", "How do I learn {t}?", "Is {t} good or bad?"]
GIVE_UP = "I do not know. I am a very small model, and my world is small."


def single(source: Source) -> Turn:
    questions, answer = source.choice(SINGLES)
    return Turn(source.choice(questions), fill(answer), "I know this fact.", "facts")


def capital(source: Source) -> Turn:
    country = source.choice(list(CAPITALS))
    city = CAPITALS[country]
    if source.chance(0.25):
        return Turn(
            source.choice([f"{city} is the capital of which country?", f"Which country has the capital {city}?"]),
            f"{city} is the capital of {key(country)}.", "I know this capital.", "facts")
    text = source.choice(["What is the capital of {c}?", "what is the capital of {c}", "What's the capital of {c}?",
                          "Capital of {c}?", "Tell me the capital of {c}.", "Which city is the capital of {c}?",
                          "Do you know the capital of {c}?"])
    start = country[0].upper() + country[1:]
    return Turn(text.format(c=country), f"The capital of {country} is {key(city)}.", f"{start} has the capital {city}.", "facts")


def table(source: Source) -> Turn:
    """One of the word tables."""
    kind = source.randrange(7)
    if kind == 0:
        word = source.choice(list(PAIRS))
        question = source.choice(["What is the opposite of {w}?", "Opposite of {w}?", "What's the opposite of {w}?"])
        return Turn(question.format(w=word), f"The opposite of {word} is {key(PAIRS[word])}.", "I turn the word around.", "facts")
    if kind == 1:
        thing = source.choice(list(COLORS))
        verb = "What color is {t}?" if source.chance(0.7) else "What is the color of {t}?"
        start = thing[0].upper() + thing[1:]
        return Turn(verb.format(t=thing), f"{start} is {key(COLORS[thing])}.", "I know its color.", "facts")
    if kind == 2:
        animal = source.choice(list(SOUNDS))
        question = source.choice(["What sound does a {a} make?", "What does a {a} say?", "How does a {a} sound?"])
        return Turn(question.format(a=animal), f"A {animal} says {key(SOUNDS[animal])}.", "I know its sound.", "facts")
    if kind == 3:
        animal = source.choice(list(YOUNG))
        question = source.choice(["What is a young {a} called?", "What do you call a baby {a}?"])
        return Turn(question.format(a=animal), f"A young {animal} is called a {key(YOUNG[animal])}.", "I know the word.", "facts")
    if kind == 4:
        animal = source.choice(list(LEGS))
        start = animal[0].upper() + animal[1:]
        count = LEGS[animal] or "no"
        return Turn(f"How many legs does {animal} have?", f"{start} has {key(count)} legs.", "I count the legs.", "facts")
    if kind == 5:
        row = DAYS if source.chance(0.5) else MONTHS
        index, after = source.randrange(len(row)), source.chance(0.6)
        right = row[(index + (1 if after else -1)) % len(row)]
        side = "after" if after else "before"
        question = source.choice(["What comes {s} {d}?", "Which {k} comes {s} {d}?", "What {k} is {s} {d}?"])
        kind_name = "day" if row is DAYS else "month"
        return Turn(question.format(s=side, d=row[index], k=kind_name), f"{key(right)} comes {side} {row[index]}.",
                    f"I go through the {kind_name}s in order.", "facts")
    language = source.choice(list(WORDS))
    word = source.choice(list(WORDS[language]))
    question = source.choice(["How do you say {w} in {l}?", "Translate {w} to {l}.", "What is {w} in {l}?",
                              "Translate \"{w}\" into {l}.", "How do I say \"{w}\" in {l}?"])
    return Turn(question.format(w=word, l=language), f"In {language}, {word} is {key(WORDS[language][word])}.",
                f"I know this word in {language}.", "facts")


def listing(source: Source) -> Turn:
    group = source.choice(list(GROUPS))
    if group in ("seasons",) and source.chance(0.5):
        return Turn("Name the four seasons.", f"The seasons are {key('spring, summer, autumn and winter')}.", "I list them.", "facts")
    count = source.randint(2, 4)
    word = source.choice([str(count), NUMBERS[count]])
    question = source.choice(["Name {n} {g}.", "List {n} {g}.", "Give me {n} {g}.", "Can you name {n} {g}?", "Tell me {n} {g}."])
    items = GROUPS[group][:count]
    if source.chance(0.25):
        answer = key("\n".join(f"{i}. {item}" for i, item in enumerate(items, 1)))
        question += source.choice([" As a numbered list.", " Use a numbered list."])
    else:
        answer = key(", ".join(items[:-1]) + f" and {items[-1]}") + "."
    return Turn(question.format(n=word, g=group), answer, f"I list {count} of them.", "facts")


def unknown(source: Source) -> Turn:
    text = source.until(
        lambda: source.choice(UNKNOWN).format(
            t=source.choice(TOPICS), n=source._invented(), y=source.randint(1200, 2030), w=source._invented().lower()
        ),
        "unknown",
    )
    return Turn(text, key(GIVE_UP), "I do not know this. I say so.", "honesty")
