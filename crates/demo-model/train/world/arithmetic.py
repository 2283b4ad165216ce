"""Sums: two numbers from 0 to 99 at once, longer ones in thought, and small stories around them."""

from .common import OBJECTS, Source, Turn, key


def operands(source: Source, low: int, high: int) -> tuple[int, int]:
    """A pair for which no form of the question is seen in the other split."""
    return source.until(lambda: (source.randint(low, high), source.randint(low, high)), "sum")


def add_in_thought(a: int, b: int) -> str:
    """Adds digit by digit, from the right, with carries."""
    left, right = str(a)[::-1], str(b)[::-1]
    steps, carry = [], 0
    for place in range(max(len(left), len(right))):
        x = int(left[place]) if place < len(left) else 0
        y = int(right[place]) if place < len(right) else 0
        total = x + y + carry
        terms = f"{x} + {y}" + (f" + {carry}" if carry else "")
        carry = total // 10
        steps.append(f"{terms} = {key(total)}" + (f", write {total % 10} carry {carry}" if carry else ""))
    return ". ".join(steps) + f". So {a} + {b} = {key(a + b)}."


def subtract_in_thought(a: int, b: int) -> str:
    if a < b:
        return f"{a} is smaller than {b}, so the result is negative. {b} - {a} = {key(b - a)}."
    tens, ones = b // 10 * 10, b % 10
    if not tens or not ones:
        return f"{a} - {b} = {key(a - b)}."
    return f"{a} - {tens} = {key(a - tens)}. {a - tens} - {ones} = {key(a - b)}."


def multiply_in_thought(a: int, b: int) -> str:
    """For a of two digits and b of one."""
    tens, ones = a // 10 * 10, a % 10
    if not tens or not ones:
        return f"{a} x {b} = {key(a * b)}."
    return f"{tens} x {b} = {key(tens * b)}. {ones} x {b} = {key(ones * b)}. Together {key(a * b)}."


ADD = ["What is {a} + {b}?", "what is {a}+{b}", "{a} + {b}", "{a} + {b} = ?", "{a}+{b}=", "What is {a} plus {b}?",
       "How much is {a} + {b}?", "Calculate {a} + {b}.", "Add {a} and {b}.", "What's {a} + {b}?", "{a} plus {b}?",
       "What is the sum of {a} and {b}?", "Can you add {a} and {b}?", "Compute {a} + {b}", "How much is {a} plus {b}?",
       "Please tell me what {a} + {b} is.", "What do you get when you add {a} to {b}?", "What is {a} + {b}? Answer with a number."]
SUBTRACT = ["What is {a} - {b}?", "{a} - {b}", "{a}-{b}=", "What is {a} minus {b}?", "How much is {a} - {b}?",
            "Subtract {b} from {a}.", "Calculate {a} - {b}.", "what is {a}-{b}", "What's {a} minus {b}?"]
MULTIPLY = ["What is {a} x {b}?", "{a} x {b}", "What is {a} times {b}?", "{a} * {b}", "Multiply {a} by {b}.",
            "How much is {a} * {b}?", "What is {a} * {b}?", "Calculate {a} times {b}."]


def addition(source: Source) -> Turn:
    a, b = operands(source, 0, 99)
    return Turn(source.choice(ADD).format(a=a, b=b), f"{a} + {b} = {key(a + b)}", add_in_thought(a, b), "addition")


def canonical_addition(source: Source) -> Turn:
    a, b = operands(source, 0, 99)
    return Turn(f"What is {a} + {b}?", f"{a} + {b} = {key(a + b)}", add_in_thought(a, b), "addition")


def subtraction(source: Source) -> Turn:
    a, b = operands(source, 0, 99)
    if source.chance(0.85) and a < b:
        a, b = b, a
    return Turn(
        source.choice(SUBTRACT).format(a=a, b=b), f"{a} - {b} = {key(a - b)}", subtract_in_thought(a, b), "subtraction"
    )


def multiplication(source: Source) -> Turn:
    a, b = source.randint(0, 12), source.randint(0, 12)
    return Turn(source.choice(MULTIPLY).format(a=a, b=b), f"{a} x {b} = {key(a * b)}", f"{a} x {b} = {a * b}.", "tables")


def long_addition(source: Source) -> Turn:
    """Three and four digits: only in thought."""
    low, high = source.choice([(100, 999), (100, 999), (1000, 9999)])
    a, b = operands(source, low, high)
    return Turn(source.choice(ADD).format(a=a, b=b), f"{a} + {b} = {key(a + b)}", add_in_thought(a, b), "long addition")


def long_multiplication(source: Source) -> Turn:
    """Two digits times one: only in thought."""
    a, b = source.randint(11, 99), source.randint(2, 9)
    return Turn(
        source.choice(MULTIPLY).format(a=a, b=b), f"{a} x {b} = {key(a * b)}", multiply_in_thought(a, b), "long products"
    )


STORIES = [
    ("{name} has {a} {things} and buys {b} more. How many {things} does {name} have now?", "+"),
    ("{name} has {a} {things}. A friend gives {name} {b} more. How many are there now?", "+"),
    ("There are {a} {things} on the table and {b} in the bag. How many {things} are there in all?", "+"),
    ("{name} found {a} {things} in the morning and {b} in the evening. How many {things} did {name} find?", "+"),
    ("{name} has {a} {things} and gives away {b}. How many {things} are left?", "-"),
    ("There were {a} {things}. {name} took {b} of them. How many are left?", "-"),
    ("{name} had {a} {things} and lost {b}. How many {things} does {name} have now?", "-"),
]


def word_problem(source: Source) -> Turn:
    text, sign = source.choice(STORIES)
    a, b = operands(source, 1, 99)
    if sign == "-" and a < b:
        a, b = b, a
    name, things = source.name(), source.choice(OBJECTS)
    total = a + b if sign == "+" else a - b
    thought = (add_in_thought if sign == "+" else subtract_in_thought)(a, b)
    return Turn(
        text.format(name=name, a=a, b=b, things=things),
        f"{a} {sign} {b} = {key(total)}, so the answer is {key(total)} {things}.",
        f"I need {a} {sign} {b}. {thought}",
        "word problems",
    )


def comparison(source: Source) -> Turn:
    a, b = operands(source, 0, 999 if source.chance(0.3) else 99)
    b += a == b
    larger = source.chance(0.6)
    word = source.choice(["larger", "bigger", "greater"]) if larger else source.choice(["smaller", "less"])
    right, wrong = (max(a, b), min(a, b)) if larger else (min(a, b), max(a, b))
    return Turn(
        source.choice(["Which is {w}, {a} or {b}?", "Which number is {w}: {a} or {b}?", "What is {w}, {a} or {b}?"]).format(
            w=word, a=a, b=b
        ),
        f"{key(right)} is {word} than {wrong}.",
        f"I compare {a} and {b}.",
        "comparison",
    )


def counting(source: Source) -> Turn:
    kind = source.randrange(4)
    if kind == 0:
        start = source.randint(0, 90)
        end = start + source.randint(2, 10)
        text = source.choice(["Count from {a} to {b}.", "count from {a} to {b}", "Please count from {a} to {b}."])
        numbers = range(start, end + 1)
    elif kind == 1:
        start, end = 1, source.randint(3, 20)
        text = source.choice(["Count to {b}.", "Can you count to {b}?", "count to {b}"])
        numbers = range(1, end + 1)
    elif kind == 2:
        end = source.randint(3, 12)
        start = end
        text = source.choice(["Count down from {a}.", "Count backwards from {a}."])
        numbers = range(end, -1, -1)
    else:
        start = source.randint(0, 199)
        after = source.chance(0.5) or start == 0
        end = start + 1 if after else start - 1
        side = "after" if after else "before"
        question = source.choice(["What number comes {s} {a}?", "Which number comes {s} {a}?", "What comes {s} {a}?"])
        return Turn(question.format(s=side, a=start), f"{key(end)} comes {side} {start}.", "I count by one.", "counting")
    answer = ", ".join(map(str, numbers))
    return Turn(text.format(a=start, b=end), key(answer), "I count one by one.", "counting")
