"""Values of function arguments and how a question says them: what is said and what is called with differ.

A kind draws (JSON value, words of the question, JSON schema). Numbers are said in digits, with commas or in words,
rates in percent, dates and hours in many forms of which the schema's description names one (dates are ISO 8601's
where it names none), places with and without
their state, lists as enumerations. Everything here is made up; only places and months are the world's.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

COINED = {"person": ("",), "first": ("",), "city": ("",), "company": ("", "", " Corp", " Ltd", " Motors"),
          "team": ("", " United", " City", " Bulls"), "landmark": (" Tower", " Bridge", " Palace"),
          "museum": (" Museum", " Gallery"), "hotel": (" Hotel", " Inn"), "artist": ("",), "car": ("", " 3", " GT")}
ONSETS = "b br c ch d dr f fl g gr h j k kr l m n p pr qu r s sh st t th tr v w z".split()
RHYMES = "an ar el en er ia ick il in ol on or ow um un ald ast end ine ole ord ust".split()
Drawn = tuple[Any, str, dict[str, Any]]
ONES = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty").split()
MONTHS = ("January February March April May June July August September October November December").split()
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
STATES = {"Denver": ("CO", "Colorado"), "Portland": ("OR", "Oregon"), "Austin": ("TX", "Texas"),
          "Dallas": ("TX", "Texas"), "Atlanta": ("GA", "Georgia"), "Miami": ("FL", "Florida"),
          "Phoenix": ("AZ", "Arizona"), "Detroit": ("MI", "Michigan"), "Nashville": ("TN", "Tennessee"),
          "Memphis": ("TN", "Tennessee"), "Baltimore": ("MD", "Maryland"), "Boston": ("MA", "Massachusetts"),
          "Seattle": ("WA", "Washington"), "Chicago": ("IL", "Illinois"), "San Diego": ("CA", "California"),
          "Los Angeles": ("CA", "California"), "New York": ("NY", "New York"), "Houston": ("TX", "Texas"),
          "San Francisco": ("CA", "California"), "Las Vegas": ("NV", "Nevada"), "Cleveland": ("OH", "Ohio"),
          "Philadelphia": ("PA", "Pennsylvania"), "Minneapolis": ("MN", "Minnesota"), "Omaha": ("NE", "Nebraska")}
CURRENCIES = {"USD": ("US dollars", "dollars", "American dollars"), "EUR": ("euros", "euro"),
              "GBP": ("British pounds", "pounds sterling"), "JPY": ("Japanese yen", "yen"),
              "CHF": ("Swiss francs",), "CAD": ("Canadian dollars",), "AUD": ("Australian dollars",),
              "INR": ("Indian rupees", "rupees"), "CNY": ("Chinese yuan", "yuan"), "MXN": ("Mexican pesos",),
              "SEK": ("Swedish kronor",), "BRL": ("Brazilian reais",)}
WORDS: dict[str, tuple[str, ...]] = {name: tuple(text.split(", ")) for name, text in {
    "city": "Paris, London, Tokyo, Berlin, Madrid, Rome, Cairo, Oslo, Lima, Delhi, Vienna, Prague, Lisbon, Dublin, "
            "Athens, Seoul, Sydney, Toronto, Nairobi, Mumbai, Zurich, Warsaw, Hanoi, Bogota, Helsinki, Porto, "
            "New York City",
    "country": "France, Japan, Brazil, Kenya, Norway, Peru, India, Egypt, Canada, Spain, Vietnam, Poland, Chile, "
               "Italy, New Zealand, South Korea, United Kingdom, Germany, Mexico, Turkey, South Africa, United States",
    "person": "Ada Lovelace, Marta Ruiz, John Carter, Wei Zhang, Amina Diallo, Peter Novak, Grace Kim, Omar Haddad, "
              "Lena Fischer, Tom Becker, Priya Nair, Isaac Newton, Frida Kahlo, Leo Tolstoy, Nina Simone, Marco Polo",
    "first": "Anna, Ben, Clara, David, Elena, Felix, Hannah, Ivan, Julia, Karl, Maria, Noah, Olivia, Paul, Rosa, Sam",
    "company": "Acme Corp, Globex, Initech, Northwind, Blue Harbor Ltd, Siemens, Toyota, Nestle, Samsung, Volvo, IBM, "
               "Microsoft, Tesla, Netflix, Umbrella Foods, Contoso, Adidas, Sony",
    "plant": "tomatoes, carrots, wheat, lavender, corn, beans, apple trees, roses, potatoes, basil, grapes, rice",
    "animal": "wolf, otter, blue whale, honey bee, barn owl, tiger, gray squirrel, sea turtle, red fox, salmon, lynx",
    "food": "lasagna, banana bread, tomato soup, chicken curry, apple pie, falafel, sushi, pancakes, beef stew, paella",
    "ingredient": "butter, brown sugar, olive oil, flour, honey, whole milk, rice, oats, yogurt, black beans, salt",
    "cuisine": "Italian, Thai, Mexican, Indian, Greek, Japanese, Ethiopian, Korean, French, Lebanese, Vietnamese",
    "diet": "vegetarian, vegan, gluten-free, low-carb, kosher, halal, keto",
    "sport": "soccer, tennis, basketball, hockey, rugby, cricket, volleyball, golf, baseball",
    "team": "Real Madrid, Boston Celtics, Bayern Munich, Chicago Bulls, Ajax, New York Yankees, Liverpool, Juventus",
    "league": "Premier League, La Liga, NBA, Bundesliga, NHL, Serie A, MLB, Champions League",
    "instrument": "piano, violin, cello, guitar, trumpet, flute, drums, saxophone, harp, clarinet",
    "genre": "jazz, rock, classical, hip hop, folk, blues, techno, country, reggae, pop",
    "subject": "algebra, biology, European history, organic chemistry, geometry, French grammar, linear regression, "
               "astronomy, contract law, microeconomics, thermodynamics, genetics",
    "metal": "gold, silver, copper, platinum, iron, aluminum, zinc, nickel",
    "substance": "water, ethanol, mercury, glycerin, sea water, olive oil, helium, carbon dioxide, methane, steel",
    "planet": "Mercury, Venus, Mars, Jupiter, Saturn, Neptune, the Moon, Uranus, Titan",
    "language": "French, German, Japanese, Swahili, Spanish, Portuguese, Korean, Arabic, Hindi, Dutch",
    "color": "red, dark blue, green, black, white, orange, purple, gray, yellow, turquoise",
    "room": "kitchen, living room, bedroom, office, hallway, garage, bathroom, attic",
    "device": "thermostat, dishwasher, coffee machine, robot vacuum, heater, ceiling fan, sprinkler, oven",
    "product": "wireless mouse, desk lamp, running shoes, espresso machine, backpack, office chair, tent, "
               "electric kettle, mountain bike, winter jacket, yoga mat, bluetooth speaker, rice cooker, hiking boots",
    "car": "Honda Civic, Ford Focus, Toyota Corolla, Volvo XC60, Fiat Panda, BMW X5, Mazda 3, Kia Rio",
    "disease": "asthma, influenza, diabetes, migraine, measles, hay fever, anemia, eczema",
    "medicine": "ibuprofen, aspirin, insulin, amoxicillin, paracetamol, metformin, cetirizine",
    "artist": "Claude Monet, Vincent van Gogh, Leonard Cohen, Miles Davis, Taylor Swift, Radiohead, Adele, Rembrandt",
    "landmark": "Eiffel Tower, Golden Gate Bridge, Colosseum, Taj Mahal, Big Ben, Brandenburg Gate, Machu Picchu",
    "museum": "Prado Museum, British Museum, Uffizi Gallery, Museum of Modern Art, Rijksmuseum, Acropolis Museum",
    "hotel": "Grand Hotel, Hotel Bristol, Sunset Inn, Park Plaza, Seaside Resort, Alpine Lodge, Marriott",
    "airline": "Lufthansa, Delta, Air France, Qantas, Emirates, KLM, Ryanair",
    "game": "chess, Go, Catan, poker, Monopoly, Scrabble, checkers, backgammon",
    "crop": "maize, barley, soybeans, cotton, sunflowers, sugar beet, coffee",
    "river": "Danube, Nile, Rhine, Amazon River, Mississippi, Ganges, Mekong, Volga",
    "file": "report.pdf, notes.txt, data/sales.csv, /home/ana/budget.xlsx, photos/cat.png, C:/logs/app.log, main.py",
    "column": "age, income, price, country, height, order_total, signup_date, department, score",
    "table": "customers, orders, employees, invoices, products, flights, students",
    "law": "copyright, labor, patent, tax, criminal, environmental, family, maritime, antitrust",
    "exercise": "running, cycling, swimming, rowing, yoga, squats, hiking, jump rope",
    "event": "French Revolution, fall of Constantinople, Apollo 11 landing, Treaty of Westphalia, Battle of Hastings",
    "religion": "Buddhism, Islam, Hinduism, Judaism, Christianity, Taoism",
    "material": "oak, granite, copper wire, concrete, glass, bamboo, stainless steel, pine",
    "trait": "curiosity, patience, honesty, humor, loyalty, courage, kindness",
    "amenity": "parking, free wifi, a gym, a terrace, a pool, live music, room service",
    "word": "harbor, lantern, meadow, copper, signal, marble, thunder, willow, compass, ember, velvet, orbit",
    "adjective": "Silent, Broken, Golden, Last, Hidden, Crimson, Endless, Northern, Forgotten, Little, Wild, Second",
    "noun": "Harbor, Garden, Mirror, Winter, River, Letter, Kingdom, Road, Island, Clock, Orchard, Storm"}.items()}


def number(draw: random.Random, low: float, high: float) -> tuple[float, str]:
    """A number of few digits between two bounds, whole more often where they are far apart, and its words."""
    if isinstance(low, int) and isinstance(high, int):
        value = draw.randint(low, high) if draw.random() < 0.5 else step(draw, low, high)
        if 2 <= value <= 12 and draw.random() < 0.4:
            return value, ONES[value]
        if value >= 1_000_000 and value % 100_000 == 0 and draw.random() < 0.5:
            return value, f"{value / 1_000_000:g} million"
        return value, f"{value:,}" if value >= 1000 and draw.random() < 0.6 else str(value)
    value = round(draw.uniform(low, high), draw.choice((1, 1, 2)) if high > 1 else draw.choice((1, 2, 2, 3)))
    return (int(value), str(int(value))) if value == int(value) else (value, f"{value:g}")


def step(draw: random.Random, low: int, high: int) -> int:
    """A round whole number between two bounds."""
    unit = 10 ** max(0, len(str(high)) - 2)
    return min(high, max(low, draw.randint(low // unit, high // unit) * unit))


def an_int(draw: random.Random, low: str, high: str) -> Drawn:
    value, text = number(draw, int(low), int(high))
    return value, text, {"type": "integer" if draw.random() < 0.75 else "number"}


def a_number(draw: random.Random, low: str, high: str) -> Drawn:
    value, text = number(draw, float(low), float(high)) if draw.random() < 0.7 or float(high) < 8 else \
        number(draw, max(1, round(float(low))), round(float(high)))
    return value, text, {"type": "number"}


def a_money(draw: random.Random, low: str, high: str) -> Drawn:
    value, text = number(draw, int(low), int(high))
    if value < 1000 and not text.isdigit():
        text = str(value)
    said = draw.choice((f"${text}", f"${text}", f"{text} dollars")) if "million" not in text else f"{text} dollars"
    return value, said, {"type": draw.choice(("integer", "number"))}


def a_rate(draw: random.Random, low: str = "1", high: str = "12") -> Drawn:
    points = draw.choice((draw.randint(int(low), int(high)), round(draw.uniform(int(low), int(high)), 1)))
    said = f"{points:g}{draw.choice(('%', '%', '%', ' percent'))}"
    if draw.random() < 0.15:
        return points, said, {"type": "number", "note": draw.choice((" In percent.", " As a percentage, e.g. 4.5."))}
    if draw.random() < 0.08:
        return int(points), f"{int(points)}%", {"type": "integer", "note": " In percent."}
    return round(points / 100, 6), said, {"type": "number", "note": draw.choice(("", "", " As a decimal.",
                                                                                   " In decimal form, e.g. 0.07."))}


def a_date(draw: random.Random) -> Drawn:
    y, m, d = draw.randint(1995, 2030), draw.randint(1, 12), draw.randint(1, 28)
    suffix = "th" if d in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(d % 10, "th")
    month = MONTHS[m - 1]
    said = draw.choice((f"{month} {d}, {y}", f"{d} {month} {y}", f"{month} {d}{suffix}, {y}",
                        f"{d}{suffix} of {month} {y}", f"{y}-{m:02}-{d:02}", f"{d}{suffix} {month} {y}", f"{y} {month} {d}{suffix}"))
    form, value = draw.choice((("YYYY-MM-DD", f"{y}-{m:02}-{d:02}"), ("YYYY-MM-DD", f"{y}-{m:02}-{d:02}"),
                               ("MM-DD-YYYY", f"{m:02}-{d:02}-{y}"), ("DD-MM-YYYY", f"{d:02}-{m:02}-{y}"),
                               ("MM/DD/YYYY", f"{m:02}/{d:02}/{y}"), *[("", f"{y}-{m:02}-{d:02}")] * 2))
    note = draw.choice((f" Format: {form}.", f" In the format {form}.", f" ({form})")) if form else ""
    return value, said, {"type": "string", "note": note}


def a_time(draw: random.Random) -> Drawn:
    hour, minute = draw.randint(1, 23), draw.choice((0, 0, 15, 30, 45))
    twelve = f"{(hour - 1) % 12 + 1}" + (f":{minute:02}" if minute else "") + draw.choice(("", " "))
    twelve += "pm" if hour > 11 else "am"
    value = f"{hour:02}:{minute:02}"
    if draw.random() < 0.5:
        return value, draw.choice((twelve, value)), {"type": "string", "note": draw.choice((" Format: HH:MM.",
                                                                                          " In 24-hour format."))}
    return twelve, twelve, {"type": "string"}


def a_place(draw: random.Random) -> Drawn:
    city = draw.choice(sorted(STATES))
    short, long = STATES[city]
    if draw.random() < 0.6:
        said = draw.choice((city, city, f"{city}, {short}", f"{city}, {long}"))
        return f"{city}, {short}", said, {"type": "string", "note": draw.choice((
            " The city and state, e.g. Tampa, FL.", " In the format 'City, State', such as Tampa, FL.",
            " City and state."))}
    return city, city, {"type": "string"}


def a_currency(draw: random.Random) -> Drawn:
    code = draw.choice(sorted(CURRENCIES))
    said = draw.choice((*CURRENCIES[code], code))
    return code, said, {"type": "string", "note": draw.choice(("", " Currency code, e.g. NOK.", " ISO code."))}


def a_word(draw: random.Random, kind: str) -> Drawn:
    word = coined(draw, kind) if kind in COINED and draw.random() < 0.4 else draw.choice(WORDS[kind])
    article = next((a for a in ("the ", "a ") if word.startswith(a)), "")
    return word.removeprefix(article), word, {"type": "string"}


def coined(draw: random.Random, kind: str) -> str:
    """A name that nobody has, so that it can be copied only: of two words for a person, else of one or two."""
    names = ["".join(draw.choice(ONSETS) + draw.choice(RHYMES) for _ in range(draw.choice((1, 2, 2)))).capitalize()
             for _ in range(2)]
    return " ".join(names[:2 if kind == "person" else draw.choice((1, 1, 2))]) + draw.choice(COINED[kind])


def a_title(draw: random.Random) -> Drawn:
    title = draw.choice(("{a} {n}", "The {a} {n}", "{n} of the {a} {o}", "{n} and {o}")).format(
        a=draw.choice(WORDS["adjective"]), n=draw.choice(WORDS["noun"]), o=draw.choice(WORDS["noun"]))
    return title, draw.choice((title, f"'{title}'", f'"{title}"')), {"type": "string"}


def a_code(draw: random.Random) -> Drawn:
    code = "".join(draw.choices("ABCDEFGHKLMNPRSTUVWXYZ", k=draw.randint(1, 3))) + str(draw.randint(10, 99999))
    return code, draw.choice((code, code, f"'{code}'")), {"type": "string"}


def a_year(draw: random.Random, low: str = "1900", high: str = "2030") -> Drawn:
    year = draw.randint(int(low), int(high))
    return year, str(year), {"type": "integer"}


def a_list(draw: random.Random, kind: str, *bounds: str) -> Drawn:
    """Two to six values of a kind as an enumeration."""
    numeric = kind in ("int", "number")
    n = draw.randint(2, 6 if numeric else 3)
    drawn: dict[str, Drawn] = {}
    for _ in range(40):
        each = KINDS[kind](draw, *bounds) if kind in KINDS else a_word(draw, kind)
        if len(drawn) < n and each[0] not in [value for value, _, _ in drawn.values()]:
            drawn[each[1]] = each
    values = [value for value, _, _ in drawn.values()]
    plain = [f"{value}" for value in values] if numeric else list(drawn)
    last = draw.choice((" and ", ", and ")) if len(values) > 2 else " and "
    spoken = f"{', '.join(plain[:-1])}{last}{plain[-1]}"
    quoted = "', '".join(plain[:-1]) + f"' and '{plain[-1]}"
    said = draw.choice((spoken, spoken, f"[{', '.join(plain)}]" if numeric else f"'{quoted}'"))
    each = next(iter(drawn.values()))[2]
    items = {key: each[key] for key in ("type", "enum") if key in each}
    if numeric:
        items = {"type": "integer" if all(type(value) is int for value in values) else "number"}
    return values, said, {"type": "array", "items": items}


def a_point(draw: random.Random) -> Drawn:
    """Two coordinates."""
    values = [draw.choice((draw.randint(-20, 60), round(draw.uniform(-90, 90), 2))) for _ in range(2)]
    x, y = values
    whole = all(type(value) is int for value in values)
    said = draw.choice((f"({x}, {y})", f"({x}, {y})", f"[{x}, {y}]", f"{x}, {y}"))
    return values, said, {"type": "array", "items": {"type": "integer" if whole and draw.random() < 0.5 else "number"}}


def an_enum(draw: random.Random, *choices: str) -> Drawn:
    """One of `value=how it is said` alternatives, `/` between ways to say it."""
    pairs = [choice.partition("=")[::2] for choice in " ".join(choices).split(",")]
    value, said = draw.choice(pairs)
    listed = {"enum": [name for name, _ in pairs]} if draw.random() < 0.6 else \
        {"note": " One of " + ", ".join(f"'{name}'" for name, _ in pairs) + "."}
    return value, draw.choice((said or value).split("/")), {"type": "string"} | listed


def a_flag(draw: random.Random, *said: str) -> Drawn:
    """True, and one of the ways to ask for it."""
    return True, draw.choice(" ".join(said).split("/")), {"type": "boolean"}


KINDS: dict[str, Callable[..., Drawn]] = {
    "int": an_int, "number": a_number, "money": a_money, "rate": a_rate, "date": a_date, "time": a_time,
    "place": a_place, "currency": a_currency, "title": a_title, "code": a_code, "year": a_year, "list": a_list,
    "point": a_point,
    "enum": an_enum, "flag": a_flag}


def drawn(draw: random.Random, specification: str) -> Drawn:
    """A value of a kind written as `KIND ARGUMENT...`; a kind that is none is one of WORDS. Raises KeyError."""
    kind, *arguments = specification.split()
    return KINDS[kind](draw, *arguments) if kind in KINDS else a_word(draw, kind)
