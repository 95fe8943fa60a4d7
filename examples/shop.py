"""Makes shop.yaml and shop.jsonl beside it, the worked example of `./run adapt`: python examples/shop.py

Messages of a shop's customers from templates, each with the queue that it belongs to and whether it is urgent. 90 items
to be asked; the training lines come from the same templates, without any that is like one of those.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from flows import taskset

HERE = Path(__file__).resolve().parent
ITEMS, LINES, SEED = 90, 640, 7
QUEUES = {
    "shipping": ["Where is my parcel with the {x}?", "The {x} I ordered {t} has not come.",
                 "When will the {x} be delivered to {c}?", "The carrier lost my {x} in {c}.",
                 "Track the {x} that left {t}."],
    "billing": ["I was charged twice for the {x}.", "The invoice for the {x} is wrong, it says {c}.",
                "Send me the receipt of the {x} from {t}.", "My card was refused when I paid for the {x}.",
                "Why did the price of the {x} change {t}?"],
    "returns": ["I want to send back the {x}.", "The {x} arrived broken in {c}.",
                "How do I exchange the {x} I got {t}?", "The {x} is the wrong colour, take it back.",
                "Refund the {x} that I returned {t}."],
    "account": ["I cannot log in since {t}.", "Change my address to {c}.",
                "Delete my account, I bought the {x} as a guest.", "My password does not work in {c}.",
                "Someone used my name to order the {x}."],
    "stock": ["Is the {x} available in {c}?", "When will you have the {x} again?",
              "Do you sell the {x} in another size?", "How many of the {x} are left in {c}?",
              "Tell me when the {x} is back, I asked {t}."],
}
THINGS = ("lamp chair kettle table guitar hammer mirror ladder window cursor engine bridge candle rocket needle "
          "feather").split()
TIMES = ["today", "yesterday", "on Monday", "on Friday", "last week", "in May", "in winter"]
CITIES = "Paris London Tokyo Berlin Madrid Rome Cairo Oslo Lima Delhi".split()
URGENT = ["It is urgent.", "I need an answer now.", "Please hurry.", "This cannot wait."]
CALM = ["", "There is no hurry.", "Take your time.", "Thank you."]
HEAD = """\
# Route the messages of a shop's customers by one tool of its own. Made from templates by shop.py; the training lines
# in shop.jsonl come from the same templates, without any message that is like one of these (./run adapt checks it
# again). Start here: cp this file, put in your own items.
name: shop
system: Route the customer's message.
metric: call                 # right: the first tool call is the item's, name and arguments
target: 0.7
budget:
  memory_gib: 4              # of the tuning process
  minutes: 4                 # of one tuning, as the planner predicts it on two cores
candidates: [scratch, smollm2]
training: shop.jsonl
tools:
  - type: function
    function:
      name: route
      description: send a customer's message to a queue
      parameters:
        type: object
        properties:
          queue: {type: string, enum: [%s]}
          urgent: {type: string, enum: ["yes", "no"]}
        required: [queue, urgent]
        additionalProperties: false
items:
"""


def messages() -> list[tuple[str, dict[str, str]]]:
    """Different messages with the arguments that route them, in an order that SEED fixes."""
    draw, made = random.Random(SEED), {}
    while len(made) < 4 * LINES:
        queue, urgent = draw.choice(list(QUEUES)), draw.random() < 0.5
        text = draw.choice(QUEUES[queue]).format(x=draw.choice(THINGS), t=draw.choice(TIMES), c=draw.choice(CITIES))
        text = f"{text} {draw.choice(URGENT if urgent else CALM)}".strip()
        made[text] = {"queue": queue, "urgent": "yes" if urgent else "no"}
    lines = sorted(made.items())
    draw.shuffle(lines)
    return lines


def main() -> None:
    """Write both files."""
    lines = messages()
    text = HEAD % ", ".join(QUEUES) + "".join(
        f"  - question: {json.dumps(message)}\n    call: {{name: route, arguments: {{queue: {call['queue']}, "
        f"urgent: \"{call['urgent']}\"}}}}\n" for message, call in lines[:ITEMS])
    (HERE / "shop.yaml").write_text(text, encoding="utf-8")
    given = taskset.read(HERE / "shop.yaml")
    learned = []
    for message, call in lines[ITEMS:]:
        item = taskset.Item(question=message, call=taskset.Call(name="route", arguments=call))
        if len(learned) < LINES and not taskset.contaminated([taskset.conversation(given, item)], given.items):
            learned.append(json.dumps(item.model_dump(exclude_none=True)))
    (HERE / "shop.jsonl").write_text("".join(line + "\n" for line in learned), encoding="utf-8")


if __name__ == "__main__":
    main()
