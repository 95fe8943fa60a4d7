"""What a question says, and schemas bounded to it: against jsonschema, and values read by hand."""

import jsonschema
import pytest

from tasks.serve import said
from tasks.serve.copied import Copied, arguments
from tasks.serve.narrow import narrowed

TEXT = ("Please lend Nora O'Brien $12,500 at 4.5% for three years from 7 March 2024, paid quarterly in euros, and list "
        "the banks 'North One', 'Pier' and 'Old Mill'.")


def test_numbers_in_digits_in_words_in_percent_and_with_prefixes():
    def stated(text):
        return [list(each.values) for each in said.numbers(text)]

    assert stated("$1,250,000 and -3 or 2.5k") == [[1250000], [-3], [2500]]
    assert stated("4.5% or 12 percent of twenty-five hundred") == [[0.045, 4.5], [0.12, 12], [2500]]
    assert stated("a 50mH coil, 300K, x^2, the 14th, two dozen eggs") == [[0.05, 50], [300], [14], [24]]
    assert stated("a height of 5ft 10in, started from rest") == [[5], [70], [10], [0]]
    assert stated("nothing") == []


def test_dates_share_the_year_and_impossible_ones_are_none():
    assert [each.values[0] for each in said.dates("from May 3rd to 7 June 2021")] == [(2021, 5, 3), (2021, 6, 7)]
    assert [each.values[0] for each in said.dates("2020-02-29 or 25/12/2021")] == [(2020, 2, 29), (2021, 12, 25)]
    assert [each.values[0] for each in said.dates("Jun.20,2023, 15th October,2023")] == [(2023, 6, 20), (2023, 10, 15)]
    assert said.dates("3 May") == said.dates("2020-19-45") == said.dates("in May. 2021 was cold") == []


def test_lists_are_what_is_enumerated():
    assert [each.values for each in said.numeric_lists("[1, 2.5] and 3 and 4%, 5%")][0] == ([1, 2.5],)
    [quoted, *_] = said.worded_lists("the banks 'North One', 'Pier' and 'Old Mill'.")
    assert quoted.values == (["North One", "Pier", "Old Mill"],)
    assert ["apples", "old pears", "figs"] in [each.values[0] for each in said.worded_lists(
        "Buy apples, old pears and figs today.")]
    assert ["olive oil", "rice"] in [value for each in said.worded_lists(
        "Order three bottles of olive oil and two bags of rice.") for value in each.values]
    assert ["A", "10"] in [each.values[0] for each in said.worded_lists("The player has A and 10.")]


def test_the_ends_of_a_range_are_a_list():
    assert [each.values for each in said.numeric_lists("from x = -1 to x = 2.5 by 3")] == [([-1, 2.5],)]
    assert [each.values for each in said.numeric_lists("between 1,000 and 20000 words")][-1] == ([1000, 20000],)


def narrow(properties, required=(), **given):
    return narrowed({"type": "object", "properties": properties, "required": list(required)}, TEXT, "loan.offer", **given)


def allows(schema, arguments):
    return jsonschema.Draft202012Validator(schema).is_valid(arguments)


def test_values_are_copied_and_nothing_else():
    made = narrow({"name": {"type": "string"}, "amount": {"type": "integer"}, "rate": {"type": "number"},
                   "start": {"type": "string", "description": "First day (YYYY-MM-DD)"},
                   "banks": {"type": "array", "items": {"type": "string"}}}, ["name", "amount", "rate", "start", "banks"])
    right = {"name": "Nora O'Brien", "amount": 12500, "rate": 0.045, "start": "2024-03-07",
             "banks": ["North One", "Pier", "Old Mill"]}
    assert allows(made, right)
    for name, wrong in (("name", "Nora Brian"), ("amount", 125), ("rate", 45), ("rate", 4.5), ("start", "2024-07-03"),
                        ("banks", ["North One", "Sea"])):
        assert not allows(made, right | {name: wrong}), name


def test_points_are_offered_where_the_description_says_so():
    made = narrow({"rate": {"type": "number", "description": "Rate in percent"}}, ["rate"])
    assert allows(made, {"rate": 4.5}) and not allows(made, {"rate": 0.045})


def test_how_often_is_no_number_of_anything_else():
    periods = {"type": "integer", "description": "Payments a year, or how often it is compounded"}
    made = narrow({"years": {"type": "integer"}, "times": periods}, ["years", "times"])
    assert 4 not in made["properties"]["years"]["enum"] and 4 in made["properties"]["times"]["enum"]


def test_goods_are_told_without_how_many_where_a_quantity_is_asked_for():
    lists = {"items": {"type": "array", "items": {"type": "string"}},
             "quantities": {"type": "array", "items": {"type": "integer"}}}
    text = "Check the price of three pumpkins and two dozen eggs."
    made = narrowed({"type": "object", "required": [*lists], "properties": lists}, text)["properties"]["items"]["enum"]
    assert ["pumpkins", "eggs"] in made and ["pumpkins", "two dozen eggs"] not in made


@pytest.mark.parametrize("text", ["for at most $900 and at least $100", "not under 100 and not above 900 dollars",
                                  "minimum of 100, maximum of 900", "up to 900 but no less than 100"])
def test_the_least_and_the_most_are_told_apart(text):
    schema = {"type": "object", "required": ["max_price", "low"], "properties": {
        "max_price": {"type": "integer"}, "low": {"type": "integer", "description": "Minimum price."}}}
    made = narrowed(schema, text)["properties"]
    assert made["max_price"]["enum"] == [900] and made["low"]["enum"] == [100]


def test_inches_of_feet_and_inches():
    made = narrowed({"type": "object", "required": ["height"], "properties": {
        "height": {"type": "integer", "description": "Height in inches."}}}, "He weighs 150 lbs at 5ft 10in.")
    assert made["properties"]["height"]["enum"] == [70]


def test_numbers_of_dates_hours_and_lists_are_not_spare():
    schema = {"type": "object", "required": ["seats"], "properties": {
        "seats": {"type": "array", "items": {"type": "integer"}}, "people": {"type": "integer"}}}
    for text in ("Seats [90, 30] at 9 am on May 4, 2026.", "Seats 90, 30 and 5."):
        assert "people" not in narrowed(schema, text)["properties"]
    assert narrowed(schema, "Seats [90, 30] for 12.")["properties"]["people"]["enum"] == [12]


def test_an_option_of_another_parameter_is_no_free_text():
    schema = {"type": "object", "required": ["old", "new"], "properties": {
        "old": {"type": "string"}, "new": {"type": "string", "enum": ["falcon", "cedar"]}}}
    made = narrowed(schema, "Write falcon instead of orbit.")["properties"]
    assert made["new"]["enum"] == ["falcon"] and "orbit" in made["old"]["enum"] and "falcon" not in made["old"]["enum"]


def test_a_flag_that_is_denied_is_false():
    schema = {"type": "object", "properties": {"full_text": {"type": "boolean"}}}
    assert narrowed(schema, "Find it, but don't return the full text.")["properties"]["full_text"]["enum"] == [False]
    assert "enum" not in narrowed(schema, "Find it with its full text.")["properties"]["full_text"]


def test_options_are_said_in_singular_plural_or_with_other_hyphens():
    def said_of(options, text):
        schema = {"type": "array", "items": {"type": "string", "enum": options}}
        return narrowed({"type": "object", "properties": {"it": schema}}, text)["properties"]["it"]["enum"][0]

    assert said_of(["tolls", "highways", "ferries"], "avoiding highways and toll roads") == ["highways", "tolls"]
    assert said_of(["Gluten Free", "Dairy Free"], "a gluten-free cookie") == ["Gluten Free"]


UNITS = {"type": "string", "enum": ["km", "miles", "kg", "pounds"]}


@pytest.mark.parametrize("text, source, target", [("What are 634 kg in pounds?", "kg", "pounds"),
                                                  ("Give me 82 miles as km.", "miles", "km")])
def test_two_units_of_one_enumeration_are_taken_once_each_and_in_their_order(text, source, target):
    schema = {"type": "object", "required": ["source", "target"], "properties": {"source": UNITS, "target": UNITS}}
    assert sorted(narrowed(schema, text)["properties"]["source"]["enum"]) == sorted([source, target])
    begun = narrowed(schema, text, given={"source": source}, current="target")
    assert begun["properties"]["target"]["enum"] == [target]
    alone = narrowed(schema, "Are pounds pounds?", given={"source": "pounds"}, current="target")
    assert alone["properties"]["target"]["enum"] == ["pounds"]      # nothing else is left


def test_a_short_option_alone_may_be_a_word_of_the_sentence():
    side = {"type": "string", "enum": ["in", "out of"]}
    schema = {"type": "object", "required": ["side"], "properties": {"side": side}}
    assert narrowed(schema, "Keep it in the box.")["properties"]["side"]["enum"] == ["in", "out of"]


def test_a_program_is_written_and_not_copied():
    schema = {"type": "object", "required": ["code"], "properties": {"code": {"type": "string", "maxLength": 120}}}
    assert narrowed(schema, "Let Python square the number 43.")["properties"]["code"] == schema["properties"]["code"]
    named = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}
    assert "Python" in narrowed(named, "Let Python square the number 43.")["properties"]["city"]["enum"]


def test_a_date_is_no_run_of_words_and_an_example_no_option():
    text = "Book The Forgotten Road from 9:15am on May 4, 2026 with cards 8c, 10d and Jh."
    schema = {"type": "object", "required": ["band", "end", "hand"], "properties": {
        "band": {"type": "string"}, "end": {"type": "string", "description": "End of it."},
        "hand": {"type": "array", "description": "Cards, E.g ['10d', '2c']", "items": {"type": "string"}}}}
    made = narrowed(schema, text)["properties"]
    assert not {"9:15am", "2026", "May 4", "May"} & set(made["band"]["enum"])
    assert "Forgotten Road" in made["band"]["enum"]
    assert "2026-05-04" in made["end"]["enum"] and ["8c", "10d", "Jh"] in made["hand"]["enum"]


def test_what_names_a_parameter_is_a_value_where_it_is_code():
    made = narrowed({"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}},
                    "Train a forest on the data my_data.")["properties"]["data"]["enum"]
    assert "my_data" in made and "data" not in made


def test_a_date_is_taken_whole_and_its_numbers_are_not_taken_apart():
    text = "By November 26th, 2004 I need 47,103 words; 25,000 are there."
    made = narrowed({"type": "object", "required": ["words", "deadline", "year"], "properties": {
        "words": {"type": "integer"}, "deadline": {"type": "string"}, "year": {"type": "integer"}}}, text)["properties"]
    assert made["words"]["enum"] == [47103, 25000] and made["deadline"]["enum"] == ["2004-11-26"]
    assert 2004 in made["year"]["enum"]


def test_what_was_taken_is_not_taken_again():
    properties = {"years": {"type": "integer"}, "amount": {"type": "integer"}}
    made = narrow(properties, properties, given={"years": 3})
    assert allows(made, {"years": 3, "amount": 12500}) and not allows(made, {"years": 3, "amount": 3})
    assert not allows(made, {"years": 7, "amount": 12500})


def test_a_flag_is_given_where_its_name_is_said():
    assert narrow({"paid_quarterly": {"type": "boolean"}, "insured": {"type": "boolean"}})["required"] == [
        "paid_quarterly"]


def test_options_that_are_said_must_be_taken():
    made = narrow({"currency": {"type": "string", "description": "Either 'euro' or 'dollar'"},
                   "season": {"type": "string", "description": "One of 'spring', 'autumn'. Default is 'spring'"}})
    assert made["properties"]["currency"]["enum"] == ["euro"] and "currency" in made["required"]
    assert "season" not in made["required"]
    lists = {"banks": {"type": "array", "items": {"type": "string", "enum": ["Pier", "Quay"]}},
             "towns": {"type": "array", "items": {"type": "string", "enum": ["Rome", "Bern"]}},
             "free": {"type": "array", "items": {"type": "string"}}, "bare": {"type": "array", "items": True}}
    assert narrow(lists)["required"] == ["banks"] and narrow(lists)["properties"]["banks"]["enum"] == [["Pier"]]


@pytest.mark.parametrize("schema", [{"const": 3}, {"type": "string", "pattern": "^a$"}, {"type": "boolean"},
                                    {"type": "object"}, {"$ref": "#/x"}, {}])
def test_what_is_bound_already_stays(schema):
    assert narrow({"it": schema}, ["it"])["properties"]["it"] == schema


@pytest.mark.parametrize("schema", [{"type": "string", "description": None}, {"type": "integer", "description": 5},
                                    {"type": "string", "maxLength": "a"}, {"type": "string", "enum": "abc"},
                                    {"type": "array", "items": {"type": "string", "description": [1]}}])
@pytest.mark.parametrize("required", [[], ["it"]])
def test_a_schema_that_is_none_is_left_to_the_grammar(schema, required):
    assert set(narrow({"it": schema}, required)) == {"type", "properties", "required"}


def test_a_long_or_an_empty_text_narrows_nothing():
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    assert narrowed(schema, "five " * 200) == schema
    assert narrowed(schema, "")["properties"] == schema["properties"]


def test_arguments_are_whole_once_a_mark_follows():
    assert arguments('"a": 1, "b": "x') == ({"a": 1}, "b")
    assert arguments('"a": 12') == ({}, "a")
    assert arguments('"a": {"c": [1, "}"]}}') == ({"a": {"c": [1, "}"]}}, None)
    assert arguments("") == arguments('"a') == ({}, None)


def test_the_state_is_that_of_the_last_call():
    source = Copied({"f": {"type": "object", "properties": {}}}, "", required=True, several=True)
    first = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
    assert source.state(first)[1:] == ("f", '{"a": 1}', None)
    assert source.state(first + '<tool_call>{"name": "f", "arguments": {"b": 2')[0] == len(first)
    assert source.state(first + '<tool_call>{"na') is source.state("text") is None
    assert source.state('<tool_call>{"name": "unknown", "arguments": {"a": 1,') is None
