"""Text as it streams, against the tokenizer's own decoding."""

import pytest

from tasks.serve.engine.directory import ModelError
from tasks.serve.engine.text import TextStream, Vocabulary, held_back

MIXED = "Grüße 中文 😀👩‍👩‍👧 naïve — end"


def feed_all(stream, pieces):
    return [stream.feed(piece, last=i == len(pieces) - 1) for i, piece in enumerate(pieces)]


def test_characters_split_across_tokens_appear_whole(tiny):
    words = Vocabulary(tiny / "onnx")
    tokens = words.encode(MIXED, special=False)
    pieces = [words.piece(token) for token in tokens]
    assert any(not valid(piece) for piece in pieces)  # some characters do come in parts
    parts = feed_all(TextStream(()), pieces)
    assert "".join(parts) == MIXED == words.tokenizer.decode(tokens)
    assert "\ufffd" not in "".join(parts)


def valid(piece):
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_half_a_character_at_the_end_is_replaced():
    assert feed_all(TextStream(()), [b"a\xe4", b"\xb8"]) == ["a", "\ufffd"]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_stop_string_wherever_the_tokens_break(cut):
    text = b"hello STOP world"
    stream = TextStream(("STOP",))
    out = ""
    for piece in (text[:cut], text[cut:]):
        out += stream.feed(piece)
        if stream.stopped:
            break
    assert out == "hello " and stream.stopped


def test_what_only_looked_like_a_stop_is_given_back():
    stream = TextStream(("STOP", "\n\n"))
    assert [stream.feed(b"a ST"), stream.feed(b"ART\n"), stream.feed(b"b", last=True)] == ["a ", "START", "\nb"]
    assert not stream.stopped


def test_the_earliest_stop_wins():
    stream = TextStream(("later", "soon"))
    assert stream.feed(b"x soon and later") == "x "


def test_held_back():
    assert held_back("abc<tool", ("<tool_call>",)) == 5
    assert held_back("abc<tool_call>", ("<tool_call>",)) == 0
    assert held_back("", ("x",)) == 0


def test_names_are_unique_and_special_pieces_empty(tiny):
    words = Vocabulary(tiny / "onnx")
    names = [words.name(token) for token in words.pieces]
    assert len(set(names)) == len(names)
    assert all(words.piece(token) == b"" for token in words.special) and len(words.special) == 4


def test_a_tokenizer_that_is_not_byte_level_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="no tokenizer"):
        Vocabulary(tmp_path)
    from tokenizers import Tokenizer, models
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match="byte-level"):
        Vocabulary(tmp_path)
