"""Fingerprints: addresses, pure functions of one document, and the table's order."""

import numpy as np
import pytest

from tasks.data import fingerprints
from tasks.data.fingerprints import FingerprintParams, canonical


@pytest.mark.parametrize("url, same", [
    ("HTTPS://Docs.Example:443/a/index.html#part", "docs.example/a"), ("http://docs.example/a/", "docs.example/a"),
    ("http://docs.example:8080/a", "docs.example:8080/a"), ("http://x.org/p?id=2", "x.org/p?id=2"),
    ("pypi:package/1.0/models.py#1", "pypi:package/1.0/models.py#1"), ("", ""), ("http://[broken", ""),
    ("http://x.org:99999/", ""),
])
def test_canonical_addresses(url, same):
    assert canonical(url) == same



PARAMS = FingerprintParams(permutations=16, shingle=5, threshold=0.7, repeat_words=20)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b))


def test_a_fingerprint_is_a_function_of_text_and_address_alone(data):
    page = data.pages()[0]
    made = fingerprints.fingerprint(page.text, page.metadata["url"], PARAMS, 1)
    fingerprints.fingerprint(data.chinese(1), "", PARAMS, 1)  # whatever went before
    assert same(made, fingerprints.fingerprint(page.text, page.metadata["url"], PARAMS, 1))
    folded = fingerprints.fingerprint(page.text.upper().replace(".", " . "), "", PARAMS, 1)
    assert folded.exact == made.exact and (folded.signature == made.signature).all()
    assert folded.address == fingerprints.NOWHERE != made.address
    assert len(fingerprints.fingerprint(page.text, "", PARAMS.model_copy(update={"repeat_words": None}), 1).runs) == 0


def test_the_table_stands_from_newest_to_oldest_then_by_id(tmp_path):
    one = fingerprints.fingerprint("some words of a text", "http://x.org/a", PARAMS, 1)
    two = fingerprints.fingerprint("other words", "", PARAMS, 1)
    fingerprints.write(tmp_path, 0, [("b", "2024"), ("a", ""), ("d", "2025-01")], [one, two, one], PARAMS)
    fingerprints.write(tmp_path, 1, [], [], PARAMS)
    fingerprints.write(tmp_path, 2, [("c", "2024"), ("e", "2025-01")], [two, one], PARAMS)
    table = fingerprints.Table(tmp_path)
    assert table.names == ["d", "e", "b", "c", "a"]
    assert [numbers.tolist() for numbers in table.numbers] == [[2, 4, 0], [], [3, 1]]
    exact, address = table.groups
    assert exact[0] == exact[1] == exact[2] != exact[3] == exact[4]
    assert address[0] == address[1] == address[2] >= 0 and address[3] == address[4] == -1
    assert table.lengths.tolist() == [20, 20, 20, 11, 11]
    assert table.index(0.7).signatures[0].tolist() == one.signature.tolist()


@pytest.mark.parametrize("digests, expected", [([], 0), ([[1, 2], [1, 3], [1, 2], [2, 2]], 3), ([[0, 0]] * 4, 1)])
def test_equal_digests_have_one_number(digests, expected):
    rows = np.array(digests, np.uint64).reshape(-1, 2)
    found = fingerprints.grouped(rows)
    assert len(set(found.tolist())) == expected
    assert all((found[i] == found[j]) == (rows[i] == rows[j]).all() for i in range(len(rows)) for j in range(len(rows)))
