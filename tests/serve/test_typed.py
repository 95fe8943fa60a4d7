"""Values of a form of their own: read by hand, currencies against ISO 4217's, polynomials against numpy."""

import numpy as np
import pytest

from tasks.serve import typed
from tasks.serve.narrow import narrowed

MAIL = "Write to john.doe@example.com, not to John Doe at 4pm."


def values(mentions):
    return [each.values[0] for each in mentions]


def test_addresses_and_paths():
    assert values(typed.mails(MAIL)) == ["john.doe@example.com"] and typed.mails("a@b, @c.de") == []
    assert values(typed.paths("fMRI in ~/data/my.nii, report.pdf and C:/logs/app.log. See https://a.b/c?d=1.")) == [
        "~/data/my.nii", "report.pdf", "C:/logs/app.log", "https://a.b/c?d=1"]
    assert typed.paths("the U.S. at 2.5 percent, e.g. here.") == []


@pytest.mark.parametrize("text, clock", [("4pm", "16:00"), ("9:15am", "09:15"), ("12:30 AM", "00:30"),
                                         ("12 pm", "12:00"), ("21:45", "21:45"), ("7:05", "07:05")])
def test_hours(text, clock):
    assert [each.values for each in typed.hours(f"Come at {text}.")] == [(text, clock)]


def test_what_is_no_hour():
    assert typed.hours("25:00, 4:75, 13 am is early, 3 a row, 1:2") == typed.hours("") == []


@pytest.mark.parametrize("text, codes", [
    ("500 US dollars to Canadian dollars", ["USD", "CAD"]), ("Japanese Yen or United States Dollar", ["JPY", "USD"]),
    ("British pounds, euros and Swiss francs", ["GBP", "EUR", "CHF"]), ("USD in inr and INR", ["USD", "INR"]),
    ("rupees", ["INR"]), ("all the best from Turkey", [])])
def test_currencies(text, codes):
    assert values(typed.currencies(text)) == codes


def test_polynomials_and_their_coefficients():
    text = "y = 3x^2 + 2x - 4, then 5*x**3 - x and -x^2+0.5, at x = 2 with 9.8 m/s^2"
    found = values(typed.polynomials(text))
    assert found == ["3x**2 + 2x - 4", "5*x**3 - x", "-x**2+0.5"]
    for source, coefficients in zip(("3*x**2 + 2*x - 4", "5*x**3 - x", "-x**2+0.5"), values(typed.coefficients(text))):
        for x in (-1.5, 0.0, 2.0):
            assert np.polyval(coefficients, x) == pytest.approx(eval(source, {"x": x}))


@pytest.mark.parametrize("name, description, text, allowed", [
    ("to", "The email address to send to.", MAIL, ["john.doe@example.com"]),
    ("path", "File to read.", "Read data/sales.csv for Ana.", ["data/sales.csv"]),
    ("start", "Time of day, HH:MM.", "From 4pm to 9:15am.", ["16:00", "09:15"]),
    ("base_currency", "", "From yen to USD.", ["JPY", "USD"]),
    ("function", "In Python syntax.", "Integrate x^2 from x=1 to x=3.", ["x**2"])])
def test_a_parameter_that_asks_for_a_form_gets_it_alone(name, description, text, allowed):
    made = narrowed({"type": "object", "required": [name], "properties": {
        name: {"type": "string", "description": description}}}, text)
    assert made["properties"][name]["enum"] == allowed


@pytest.mark.parametrize("name, description", [("time_zone", "Time zone."), ("subject", "Subject of the email."),
                                               ("when", "Date and time.")])
def test_others_do_not(name, description):
    assert typed.typed(MAIL, f"{name.replace('_', ' ')} {description}") == []


def test_a_currency_that_was_taken_is_not_taken_again():
    schema = {"type": "object", "required": ["base_currency", "target_currency"], "properties": {
        "base_currency": {"type": "string"}, "target_currency": {"type": "string"}}}
    made = narrowed(schema, "How many Canadian dollars are 500 US dollars?", given={"base_currency": "USD"})
    assert made["properties"]["target_currency"]["enum"] == ["CAD"]
