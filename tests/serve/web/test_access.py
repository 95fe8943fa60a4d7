"""The chat page by keyboard, by a Chinese input method, on a phone, in both schemes and languages, and by its names."""

from __future__ import annotations

import pytest

from tests import browser

GREEDY = {"temperature": 0, "max_tokens": 12}


def test_enter_while_composing_chooses_characters_and_sends_nothing(chat):
    chat.set(**GREEDY)
    chat.js("document.querySelector('#prompt').focus(); window.composing = [];"
            "document.querySelector('#prompt').addEventListener('keydown', (e) => composing.push(e.isComposing))")
    chat.tab.call("Input.imeSetComposition", text="nihao", selectionStart=5, selectionEnd=5)
    chat.press("Enter")
    assert chat.js("composing") == [True]  # Chromium did compose
    assert chat.js("document.querySelectorAll('.turn').length") == 0
    chat.tab.call("Input.insertText", text="你好")
    chat.press("Enter")
    chat.settle()
    assert chat.text(".said") == "你好" and chat.js("document.querySelector('#prompt').value") == ""


def test_by_keyboard_alone(chat):
    chat.set(**GREEDY)
    chat.js("document.activeElement.blur()")
    chat.press("?")
    assert "new line" in chat.text("dialog")
    chat.press("Escape", "/", *"Hi")
    chat.press("Enter", modifiers=browser.SHIFT)
    chat.press(*"you", "Enter")
    chat.settle()
    assert chat.text(".said") == "Hi\nyou"
    chat.js("document.activeElement.blur()")
    chat.press("r")
    chat.settle()
    assert len(chat.answers()[1]) == 2
    chat.press("m")
    assert chat.js("document.querySelector('#side').hidden")
    chat.press("m", "s")
    assert chat.js("document.querySelector('#sheet').open")
    assert chat.js("document.querySelector('#sheet').contains(document.activeElement)")
    chat.press("Escape", "n")
    assert chat.js("document.activeElement.id") == "prompt" and chat.text("h1")
    chat.js("document.activeElement.blur()")
    names = []
    for _ in range(40):  # Tab reaches every control, each with a name and a visible focus
        chat.press("Tab")
        found = chat.js("""(() => { const node = document.activeElement; const style = getComputedStyle(node);
            return node === document.body ? null : [node.id || node.className, node.ariaLabel || node.innerText,
              style.outlineStyle !== 'none' || node.id === 'main']; })()""")
        if found is None:  # behind the last and before the first control
            continue
        names.append(found)
    controls = {"new", "menu", "add", "settings", "prompt", "send", "theme", "language", "help"}
    assert controls <= {name for name, *_ in names}
    assert all(label and visible for _, label, visible in names), names


def test_every_field_has_a_name_and_the_roles_are_there(chat):
    chat.ask("Hi")
    chat.click("#settings")
    bare = chat.js("""[...document.querySelectorAll('button, input:not([type=file]), textarea, select')]
        .filter((n) => !(n.ariaLabel || n.labels?.length || n.innerText.trim())).map((n) => n.outerHTML)""")
    assert bare == []
    chat.press("Escape")
    assert chat.js("['status', 'alert'].every((role) => document.querySelector(`[role=${role}]`))")
    assert chat.js("document.documentElement.lang") == "en"


@pytest.mark.parametrize("dark", [False, True])
def test_fits_a_phone_and_both_schemes(chat, dark):
    """No sideways scrolling at 360 pixels; text stands out from its ground by WCAG AA's 4.5 to 1."""
    chat.tab.size(360, 740, dark)
    chat.set(temperature=1, seed=4, max_tokens=200)
    chat.click("#add")
    chat.ask("W" * 200)
    assert chat.js("document.documentElement.scrollWidth") <= 360
    assert chat.js("document.querySelector('main').scrollWidth") <= 360
    assert chat.js(CONTRAST) >= 4.5
    ground = chat.js("getComputedStyle(document.body).backgroundColor")
    chat.click("#menu")
    assert chat.js("document.documentElement.scrollWidth") <= 360 and chat.js(CONTRAST) >= 4.5
    for _ in range(1 if dark else 2):  # system, light, dark
        chat.click("#theme")
    assert chat.js("getComputedStyle(document.body).backgroundColor") != ground
    chat.click("#menu")
    chat.click("#settings")
    assert chat.js("document.querySelector('dialog').scrollWidth <= document.querySelector('dialog').clientWidth")
    chat.press("Escape")


def test_chinese(chat):
    chat.click("#language")
    chat.set(**GREEDY)
    chat.ask("你好，世界")
    assert chat.text("#send") == "发送" and "首个词元" in chat.text(".stats")
    assert chat.js("document.documentElement.lang") == "zh-CN"
    chat.open()
    assert chat.text("#new") == "新对话"
    names = chat.js("import('/web/words.js').then(({WORDS}) => [Object.keys(WORDS.en), Object.keys(WORDS.zh)])")
    assert names[0] == names[1]


CONTRAST = """(() => {
  const channel = (v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (c) => .2126 * channel(c[0]) + .7152 * channel(c[1]) + .0722 * channel(c[2]);
  const ground = (node) => { for (; node; node = node.parentElement) {
    const c = parts(getComputedStyle(node).backgroundColor); if (c.length < 4 || c[3] === 1) return c; }
    return [255, 255, 255]; };
  const found = [];
  const kinds = ".quiet, .text, .said, .stats, h3.model, button:not(:disabled), select";
  for (const node of document.querySelectorAll(kinds)) {
    if (!node.innerText || !node.checkVisibility()) continue;
    const [a, b] = [light(parts(getComputedStyle(node).color)), light(ground(node))];
    found.push((Math.max(a, b) + .05) / (Math.min(a, b) + .05));
  }
  return Math.min(...found);
})()"""
