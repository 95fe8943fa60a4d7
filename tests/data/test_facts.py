"""Facts from written-out pages: what is stated is found, what is vague or code is not."""

from tasks.data.facts import MAX_ANSWER, facts

API = """\
method library.Store.fetch(key: str) Value | None

Return the value of a key, or None where it is absent.

Added in version 2.1.

attribute library.Store.size: int

Number of keys.

Added in version 3.0.

function library.open_store(path) -> Store

    fetch("indented code")
    Opens nothing.

The Store is a mapping from names to values. This is a note about nothing. It is the end.
"""
ZH = "一人姓张名飞，字翼德。却说腾，字寿成。曹仁，字子孝。勿辱二字可也。\n数据库是一种存放数据的系统。这是一本书。"


def test_signatures_versions_and_definitions():
    found = {(f.kind, f.subject): f for f in facts(API, {"language": "en"})}
    assert set(found) == {("purpose", "Store.fetch"), ("version", "Store.fetch"), ("definition", "Store")}
    assert found["purpose", "Store.fetch"].answer == "Return the value of a key, or None where it is absent"
    assert found["version", "Store.fetch"].answer == "2.1"  # 3.0 is the attribute's
    assert found["version", "Store.fetch"].question == "In which version was Store.fetch() added?"
    assert found["definition", "Store"].answer == "a mapping from names to values"
    assert found["definition", "Store"].statement in API


def test_chinese_courtesy_names_and_definitions():
    found = {f.subject: (f.kind, f.answer) for f in facts(ZH, {"language": "zh"})}
    assert found == {"张飞": ("courtesy", "翼德"), "曹仁": ("courtesy", "子孝"),
                     "数据库": ("definition-zh", "一种存放数据的系统")}


def test_one_fact_a_subject_and_kind_in_the_order_of_the_text():
    twice = facts(API + API.replace("Return the value", "Give the value"), {})
    assert twice == facts(API, {})


def test_long_answers_and_empty_text_give_none():
    assert facts("", {}) == []
    assert facts("A pipe is a " + "very " * 40 + "long thing.", {}) == []
    assert MAX_ANSWER < 4 * 40


def test_the_held_out_share_is_decided_by_the_question():
    many = [f for i in range(2000) for f in facts(f"The Thing{i} is a mapping of names to values.", {})]
    share = sum(f.held_out for f in many) / 2000
    assert len(many) == 2000 and abs(share - 0.2) < 0.04  # 4 standard errors


def test_markdown_of_the_extractor_hides_no_fact():
    """Signatures as headings or half in code, as the pages of Sphinx and pydoc come; the same facts as of plain text."""
    markdown = (API.replace("method library.Store.fetch(", "method `library.Store.`fetch(")
                .replace("function library", "## function library").replace("a mapping", "a `mapping`"))
    assert markdown.count("`") == 4 and facts(markdown, {"language": "en"}) == facts(API, {"language": "en"})
    fenced = "```\nclass a.Hidden()\n```\n\nA Store is a mapping of names to values."
    assert [f.subject for f in facts(fenced, {})] == ["Store"]
