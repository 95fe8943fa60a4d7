"""A workspace that nothing leads out of."""

import os

import pytest

from tasks.agents.actions import files
from tasks.agents.tools import ActionError


@pytest.fixture
def place(tmp_path):
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "workspace"
    root.mkdir()
    return root


def test_write_read_list(place):
    listing, read, write = files.actions(place)
    assert listing() == "the workspace is empty"
    assert write("notes/一.txt", "茶 tea") == "7 bytes written to notes/一.txt"
    assert read("notes/一.txt") == "茶 tea"
    assert listing() == "notes/一.txt (7 bytes)"
    write("notes/一.txt", "x")
    assert read("notes/一.txt") == "x"


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", ".", "..", "x\x00y", "a" * 300])
def test_no_way_out(place, name):
    _, read, write = files.actions(place)
    for attempt in (lambda: read(name), lambda: write(name, "gone")):
        with pytest.raises(ActionError) as error:
            attempt()
        assert "\n" not in str(error.value)
    assert (place.parent / "secret").read_text() == "secret"


def test_links_devices_and_pipes(place):
    _, read, write = files.actions(place)
    (place / "link").symlink_to(place.parent / "secret")
    (place / "up").symlink_to(place.parent)
    os.mkfifo(place / "pipe")
    for name in ("link", "up/secret", "pipe"):
        with pytest.raises(ActionError):
            read(name)
        with pytest.raises(ActionError):
            write(name, "gone")
    assert (place.parent / "secret").read_text() == "secret"


def test_sizes(place):
    listing, read, write = files.actions(place)
    (place / "big").write_bytes(b"a" * 100_000)
    assert read("big").endswith("[cut after 8000 bytes]") and len(read("big")) < 8_100
    (place / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ActionError, match="no UTF-8"):
        read("binary")
    (place / "full").write_bytes(b"\0" * files.TOTAL)
    with pytest.raises(ActionError, match="would pass"):
        write("more", "x")
