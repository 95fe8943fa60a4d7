"""The chat page in headless Chromium against the real server: what one does with it, and what is kept and exported."""

from __future__ import annotations

import json
import time

import httpx

from tests import browser

GREEDY = {"temperature": 0, "max_tokens": 12}
WEATHER = [{"type": "function", "function": {"name": "weather", "description": "of a town", "parameters": {
    "type": "object", "properties": {"town": {"type": "string", "maxLength": 8}}, "required": ["town"],
    "additionalProperties": False}}}]


def metric(url, name):
    """A number of the server's /metrics, summed over models."""
    lines = httpx.get(url.removesuffix("v1") + "metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split(" ")[0] == f"catena:{name}")


def expected(url, messages, **knobs):
    """The server's own whole answer."""
    body = {"messages": messages, "temperature": 0, "max_tokens": 12} | knobs
    answer = httpx.post(f"{url}/chat/completions", json=body, timeout=60).json()
    return answer["choices"][0]["message"]["content"]


def test_an_answer_streams_and_is_what_the_server_says(chat, endless):
    chat.set(temperature=0, max_tokens=400)
    chat.js("window.seen = new Set(); new MutationObserver(() => seen.add(document.querySelector('.text')?.textContent"
            ".length)).observe(document.querySelector('#main'), {subtree: true, childList: true})")
    chat.ask("The quick")
    lengths = [length for length in chat.js("[...seen]") if length]
    assert len(lengths) > 4 and lengths == sorted(lengths)  # it grew before it was whole
    messages = [{"role": "user", "content": "The quick"}]
    assert chat.answer() == expected(endless, messages, max_tokens=400)
    line = chat.text(".stats")
    assert "first token" in line and "tokens/s" in line and "cut off" in line and "400 tokens" in line
    assert "answered" in chat.text("#status")


def test_system_prompt_history_and_knobs_reach_the_model(chat, endless):
    chat.set(**GREEDY, seed=3)
    chat.click("#settings")
    chat.type("Be brief.", "#field-system")
    chat.press("Escape")
    chat.ask("One")
    chat.ask("Two")
    first = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One"}]
    assert chat.answer(turn=0) == expected(endless, first)
    second = [*first, {"role": "assistant", "content": chat.answer(turn=0)}, {"role": "user", "content": "Two"}]
    assert chat.answer(turn=1) == expected(endless, second)
    chat.set(temperature=1, seed=5, max_tokens=30, top_p=0.9, top_k=50, presence_penalty=1, frequency_penalty=0.5)
    chat.click("#new")
    chat.ask("Two")
    drawn = expected(endless, [first[0], second[-1]], temperature=1, seed=5, max_tokens=30, top_p=0.9, top_k=50,
                     presence_penalty=1, frequency_penalty=0.5)
    assert chat.answer() == drawn
    stop = drawn[5:8]
    chat.set(temperature=1, seed=5, max_tokens=30, top_p=0.9, top_k=50, presence_penalty=1, frequency_penalty=0.5,
             stop=f"never said\n{stop}")
    chat.click("#new")
    chat.ask("Two")
    assert chat.answer() == drawn[:drawn.index(stop)]


def test_models_side_by_side_each_with_its_own_settings_and_history(chat, endless):
    chat.set(**GREEDY)
    for _ in range(3):
        chat.click("#add")
    assert chat.js("document.querySelector('#add').disabled")
    assert chat.js("document.querySelectorAll('.column').length") == 4
    for column, seed in enumerate((1, 2, 3), 1):
        chat.set(column, temperature=1, seed=seed, max_tokens=12)
    chat.ask("The")
    answers = [chat.answer(column) for column in range(4)]
    user = {"role": "user", "content": "The"}
    assert answers[0] == expected(endless, [user]) and len(set(answers)) == 4
    assert answers[1:] == [expected(endless, [user], temperature=1, seed=seed) for seed in (1, 2, 3)]
    tops = chat.js("[...document.querySelectorAll('article')].map((a) => a.getBoundingClientRect().top)")
    lefts = chat.js("[...document.querySelectorAll('article')].map((a) => a.getBoundingClientRect().left)")
    assert len(set(tops)) == 1 and lefts == sorted(set(lefts)) and len(lefts) == 4
    chat.ask("And")
    whole = [user, {"role": "assistant", "content": answers[2]}, {"role": "user", "content": "And"}]
    assert chat.answer(2) == expected(endless, whole, temperature=1, seed=2)
    chat.click(".column button[aria-label^=Remove]", 1)
    assert chat.js("document.querySelectorAll('.turn:last-of-type article').length") == 3
    chat.click("#add")  # one that was never asked
    assert "Not asked" in chat.text(".turn:last-of-type article:last-of-type")
    chat.click(".turn:last-of-type article:last-of-type .foot button")
    chat.settle()
    assert chat.answer(3) == expected(endless, [{"role": "user", "content": "And"}], temperature=1, seed=3)


def test_stop_keeps_what_was_said_and_frees_the_server(chat, endless):
    chat.set(temperature=0)
    chat.type("The quick")
    chat.press("Enter")
    chat.until("document.querySelector('.text')?.textContent.length > 3")
    chat.press("Escape")
    chat.settle()
    at, versions = chat.answers()
    assert versions[at]["state"] == "stopped" and versions[at]["error"] is None and "stopped" in chat.text(".stats")
    whole = expected(endless, [{"role": "user", "content": "The quick"}], max_tokens=None)
    assert 3 < len(chat.answer()) < len(whole) and whole.startswith(chat.answer())
    end = time.monotonic() + browser.PATIENCE
    while metric(endless, "num_requests_running"):
        assert time.monotonic() < end
    assert chat.js("document.activeElement.id") == "prompt"


def test_the_stop_button_of_an_answer_is_one_and_the_same_while_it_grows(chat, endless):
    """A button drawn again between the press and the release of a finger would never be clicked."""
    chat.set(temperature=0)
    chat.js("window.buttons = new Set(); window.lines = new Set(); new MutationObserver(() => { for (const b of "
            "document.querySelectorAll('.foot button')) if (b.innerText === 'Stop this answer') buttons.add(b); "
            "lines.add(document.querySelector('.stats')?.innerText); })"
            ".observe(document.querySelector('#main'), {subtree: true, childList: true})")
    chat.ask("The quick")
    assert chat.js("buttons.size") == 1 and chat.js("lines.size") > 4
    chat.click("#new")
    chat.type("The quick")
    chat.click("#send")
    chat.until("document.querySelector('.text')?.textContent.length > 3")
    assert chat.js("document.activeElement.id") == "stop"
    chat.js("[...document.querySelectorAll('.foot button')].at(-1).click()")
    chat.settle()
    at, versions = chat.answers()
    assert versions[at]["state"] == "stopped" and chat.js("document.activeElement.id") == "prompt"


def test_regenerate_keeps_the_other_answers(chat):
    chat.set(temperature=1, max_tokens=12)
    chat.ask("The")
    first, shown = chat.answer(), chat.text(".text")
    chat.click(".foot .acts button", -1)
    chat.settle()
    at, versions = chat.answers()
    assert (at, len(versions)) == (1, 2) and chat.answer() != first and "2/2" in chat.text(".foot")
    chat.click("button[aria-label='Earlier answer']")
    chat.until("document.querySelector('.foot').innerText.includes('1/2')")
    assert chat.answer() == first and chat.text(".text") == shown
    chat.js("document.querySelector('button[aria-label=\"Later answer\"]').focus()")
    chat.press("Enter")  # the focus stays in the answer's foot though it is drawn anew
    chat.until("document.querySelector('.foot').innerText.includes('2/2')")
    assert chat.js("document.querySelector('.foot').contains(document.activeElement)")


def test_edit_and_resend_and_undo(chat, endless):
    chat.set(**GREEDY)
    chat.ask("One")
    chat.ask("Two")
    before = chat.conversation()["turns"]
    chat.press("ArrowUp")
    assert chat.js("document.querySelector('#prompt').value") == "Two" and "Editing message 2" in chat.text("#notice")
    chat.press("Escape")
    assert chat.js("document.querySelector('#prompt').value") == ""
    assert chat.js("document.querySelector('#notice').hidden")
    chat.click(".user .acts button", 1)
    chat.ask("Three")
    turns = chat.conversation()["turns"]
    assert [turn["text"] for turn in turns] == ["Three"]
    assert chat.answer() == expected(endless, [{"role": "user", "content": "Three"}])
    chat.click("#notice button")
    assert chat.conversation()["turns"] == before and chat.text(".said") == "One"


def test_tool_calls_are_shown_and_results_go_on(page_of, server):
    chat = page_of(server[1])
    chat.set(temperature=0, max_tokens=60, tool_choice="required")
    chat.click("#settings")
    chat.type("[{", "#field-tools")
    chat.press("Escape")
    chat.type("Weather?")
    chat.press("Enter")
    assert "not a JSON list" in chat.text("#notice")
    assert chat.js("document.querySelector('#prompt').value") == "Weather?"
    chat.click("#settings")
    chat.type(json.dumps(WEATHER), "#field-tools")
    chat.press("Escape")
    chat.ask("Weather?")
    assert "Tool call: weather" in chat.text(".call")
    (call,) = chat.answers()[1][0]["steps"][0]["calls"]
    assert set(json.loads(call["arguments"])) == {"town"} and call["arguments"] in chat.text(".call")
    chat.set(temperature=0, max_tokens=12, tool_choice="none")
    chat.type("rain <b>", "textarea.result")
    chat.press("Enter")
    chat.settle()
    (answer,) = chat.answers()[1]
    assert answer["state"] == "done" and answer["steps"][0]["calls"][0]["result"] == "rain <b>"
    assert chat.text("pre.result") == "rain <b>" and chat.js("document.activeElement.id") == "prompt"
    made = {"id": call["id"], "type": "function", "function": {"name": "weather", "arguments": call["arguments"]}}
    messages = [{"role": "user", "content": "Weather?"}, {"role": "assistant", "content": None, "tool_calls": [made]},
                {"role": "tool", "tool_call_id": call["id"], "content": "rain <b>"}]
    assert answer["steps"][1]["content"] == expected(server[1], messages, tools=WEATHER, tool_choice="none")


def test_export_import_and_what_is_kept(chat, tmp_path):
    chat.tab.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    chat.set(**GREEDY, seed=1)
    chat.ask("Kept `code` and\n``` fences")
    kept, said = chat.conversation(), chat.answer()
    for name in ("json", "markdown"):
        chat.click(f"#{name}")
    read = {path.suffix: path.read_text("utf-8") for path in arrived(tmp_path, 2)}
    assert json.loads(read[".json"]) == {"format": "catena-chat", "version": 1, "conversations": [kept]}
    assert read[".md"].startswith("# Kept `code` and ``` fences\n\n## User\n\nKept `code` and\n``` fences\n\n## ")
    assert "temperature 0" in read[".md"] and said in read[".md"]
    chat.open()  # a new visit finds it again
    assert chat.text(".said") == "Kept `code` and\n``` fences" and chat.conversation() == kept
    chat.click("#list button[aria-label^=Delete]")
    assert chat.js("Object.keys(localStorage).filter((k) => k.startsWith('catena-chat:')).length") == 0
    chat.click("#notice button")  # undo
    assert chat.text(".said").startswith("Kept")
    (tmp_path / "mine.json").write_text(read[".json"], "utf-8")
    (tmp_path / "bad.json").write_text(read[".json"].replace('"done"', "7").replace('"text"', '"txt"'), "utf-8")
    bring(chat, tmp_path / "mine.json")
    chat.until("document.querySelectorAll('#list li').length === 2")
    assert chat.text("#notice") == "1 conversations imported." and same(chat.conversation(), kept)
    bring(chat, tmp_path / "bad.json")
    chat.until("document.querySelector('#notice').innerText.includes('bad.json')")
    assert "conversations.0.turns.0.text" in chat.text("#notice")
    assert chat.js("document.querySelectorAll('#list li').length") == 2
    chat.click("#new")
    chat.ask("Another")
    assert chat.js("[...document.querySelectorAll('#list .entry')].map((e) => e.innerText)")[0] == "Another"
    chat.click("#list .entry", -1)
    assert chat.text(".said").startswith("Kept")


def same(one, other):
    """Are these one conversation, kept at different times?"""
    return [one[name] for name in ("title", "system", "columns", "turns")] == [
        other[name] for name in ("title", "system", "columns", "turns")]


def arrived(folder, count):
    """The files that the browser has finished writing."""
    end = time.monotonic() + browser.PATIENCE
    while len(found := [path for path in folder.iterdir() if path.suffix in (".json", ".md")]) < count:
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def bring(chat, path):
    """Choose a file in the page's file field."""
    node = chat.tab.call("Runtime.evaluate", expression="document.querySelector('#file')")["result"]["objectId"]
    chat.tab.call("DOM.setFileInputFiles", files=[str(path)], objectId=node)


def test_a_hostile_conversation_stays_text_wherever_it_is_shown(chat, tmp_path):
    evil = "<img src=x onerror='window.owned = 1'><script>window.owned = 1</script>"
    call = {"id": evil, "name": evil, "arguments": evil, "result": evil}
    step = {"content": evil, "reasoning": f"because {evil}", "calls": [call, call | {"result": None}], "finish": evil}
    error = {"status": 400, "message": evil, "field": evil, "code": evil}
    answer = {"model": evil, "settings": {"stop": evil}, "steps": [step], "state": "asks", "error": error,
              "stats": None}
    column = {"id": evil, "model": evil, "settings": {"temperature": 0.5, "stop": evil}}
    other = column | {"id": "__proto__"}
    turn = {"id": evil, "text": evil, "answers": {evil: {"at": 7, "versions": [answer]},
                                                  "__proto__": {"at": 0, "versions": [answer | {"state": "running"}]}}}
    whole = {"id": evil, "title": evil, "updated": 1, "system": evil, "tools": evil, "turns": [turn],
             "columns": [column, other]}
    (tmp_path / "evil.json").write_text(json.dumps({"format": "catena-chat", "version": 1, "conversations": [whole]}))
    bring(chat, tmp_path / "evil.json")
    chat.until("document.querySelectorAll('#list li').length === 1")
    chat.press("Escape")
    chat.click("#settings")
    assert chat.js("document.querySelectorAll('img, main script, dialog script, aside script').length") == 0
    chat.press("Escape")
    for place in (".said", ".text", ".thought", ".call", "pre.result", ".wrong", "select", ".entry", "h3.model"):
        assert evil.split(">")[0] in chat.js(f"document.querySelector('{place}').textContent"), place
    assert chat.js("document.querySelector('.thought details summary').innerText") == "Reasoning"
    assert chat.js("document.querySelectorAll('article').length") == 2 and chat.js("window.owned") is None


def test_copy(chat):
    chat.tab.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    chat.set(**GREEDY)
    chat.ask("Copy *me*")
    chat.click(".user .copy")
    chat.until("document.querySelector('.user .copy').innerText === 'Copied'")
    assert chat.js("navigator.clipboard.readText()") == "Copy *me*"
    chat.js("Object.defineProperty(navigator, 'clipboard', {value: undefined, configurable: true})")
    chat.click(".foot .copy")  # as on a page that came over plain http
    chat.until("document.querySelector('.foot .copy').innerText === 'Copied'")
    chat.js("delete navigator.clipboard")
    assert chat.js("navigator.clipboard.readText()") == chat.answer()
