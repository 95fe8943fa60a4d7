"""Lists of domains and words: suffixes, borders, density, and lists that cannot be used."""

import hashlib
import pickle
import time

import pytest

from tasks.data import blocklists
from tasks.data.blocklists import Domains, ListFile, Words
from tasks.stage import StageError


def given(path, content):
    """A list file with `content`, pinned."""
    raw = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(raw)
    return ListFile(path=str(path), sha256=hashlib.sha256(raw).hexdigest())


def test_a_domain_covers_what_is_below_it(tmp_path):
    folder = tmp_path / "gambling"
    folder.mkdir()
    raw = "Bad.Example\n\n# no entry: fine.example\n10.9.8.7\n赌.中国\n"
    (folder / "domains").write_text(raw)
    domains = Domains([ListFile(path=str(folder), sha256=hashlib.sha256(raw.encode()).hexdigest())])
    for url in ("https://bad.example/a", "http://user@WWW.bad.example.:8080/", "bad.example", "http://10.9.8.7/x",
                "https://赌.中国/", "https://" + "赌.中国".encode("idna").decode() + "/"):
        assert domains.listed(url), url
    assert domains.listed("https://a.b.xvideos.com/") == "xvideos.com" and domains.listed("https://some.xxx/") == "xxx"
    for url in ("https://notbad.example/", "https://bad.example.org/", "https://fine.example/", "http://8.7/", "",
                "pypi:tencentcloud/3#2", "http://[broken", "https://essex.ac.uk/", "https://example/bad.example"):
        assert domains.listed(url) is None, url
    assert pickle.loads(pickle.dumps(domains)).listed("https://bad.example/a") == "bad.example"


def test_words_need_borders_in_english_and_none_in_chinese():
    words = Words()
    town = "Scunthorpe, Essex, Middlesex and the cockpit of a class analysis; a Dickensian cocktail."
    assert words.density(town) == (0, 0)
    assert words.density("PORN porno")[1] == 2 and words.density("ＰＯＲＮ")[1] == 1
    assert words.density("porn_star spornado")[1] == 0
    assert words.density("看色情网站的人")[1] == 1 and words.density("porn视频")[1] == 1


def test_density_is_of_words_and_overlaps_count_once(tmp_path):
    words = Words([given(tmp_path / "w", "红色小球\t2\n小球\nred ball\nball\n")])
    assert words.density("red ball" + " a" * 98) == (20, 1)
    assert words.density("红色小球" + "的" * 96) == (80, 1)
    assert words.density("") == (0, 0)


def test_entries_are_literal_not_patterns(tmp_path):
    words = Words([given(tmp_path / "w", "c.t\n(a+)+$\n[x]\n.*\n")])
    assert words.density("the cat and the cut aaaaaaaaaaaa! x")[1] == 0
    assert words.density("a c.t here")[1] == 1 and words.density("see (a+)+$ there")[1] == 1


def test_a_page_about_it_is_not_a_page_of_it(data):
    words = Words()
    medicine = ("The penis and the vagina are examined in both sexes. Anal cancer is rare; oral sex and sex with many "
                "partners raise the risk, as the human papillomavirus is passed on by contact with skin. Breast and "
                "cervical screening is offered to women from the age of twenty five. Naked eye inspection comes first, "
                "then a biopsy is taken under local anaesthesia and read by a pathologist within two weeks. ") * 3
    law = ("法院认为，被告人在网络上传播色情视频、开设赌场并组织赌博，情节严重，依照刑法有关规定，判处有期徒刑三年，并处罚金。"
           + "公安机关提醒市民远离网络赌博，发现线索请及时举报。" * 6)
    spam = "Free porn videos, hot milf, blowjob and cumshot clips, live sex cam girls, online casino free spins! " * 3
    dirt = "激情视频免费看，成人电影、无码视频、裸聊约炮、自拍偷拍，真人荷官百家乐，博彩网注册送彩金。" * 3
    limit = data.values["safety"]["words"]
    for text, wanted in ((medicine, False), (law, False), (data.chinese(3), False), (spam, True), (dirt, True)):
        density, different = words.density(text)
        assert (density > limit["max_density"] and different >= limit["min_different"]) is wanted, (text[:40], density)


@pytest.mark.parametrize("kind", [Domains, Words])
def test_a_list_that_cannot_be_used_is_one_line(tmp_path, kind):
    with pytest.raises(StageError, match=r"the list .*absent cannot be read \(No such file"):
        kind([ListFile(path=str(tmp_path / "absent"), sha256="0" * 64)])
    with pytest.raises(StageError, match="holds no entry"):
        kind([given(tmp_path / "empty", "\n# nothing\n\n")])
    with pytest.raises(StageError, match=r"gbk:2 is not UTF-8"):
        kind([given(tmp_path / "gbk", b"fine\n" + "色情".encode("gbk") + b"\n")])
    (tmp_path / "changed").write_text("other\n")
    with pytest.raises(StageError, match="has sha256 [0-9a-f]{64}, params.yaml pins 0000"):
        kind([ListFile(path=str(tmp_path / "changed"), sha256="0" * 64)])


@pytest.mark.parametrize("weight", ["heavy", "0", "-1", "nan", "1e9", "1 2"])
def test_a_weight_that_is_none_is_one_line(tmp_path, weight):
    with pytest.raises(StageError, match="w:1 has the weight"):
        Words([given(tmp_path / "w", f"word\t{weight}\n")])


def test_a_byte_order_mark_and_windows_lines_are_fine(tmp_path):
    words = Words([given(tmp_path / "w", b"\xef\xbb\xbfgrumbly\r\nfrumious\r\n")])
    assert words.density("the grumbly frumious one")[1] == 2


def test_a_million_entries(tmp_path):
    lines = "\n".join(f"d{n:x}.example" for n in range(1_000_000))
    started = time.process_time()
    domains = Domains([given(tmp_path / "domains.txt", lines)])
    assert domains.listed("https://www.d3e8.example/") == "d3e8.example" and not domains.listed("https://g.example/")
    assert time.process_time() - started < 15
    words = Words([given(tmp_path / "words.txt", "\n".join(f"w{n * 37 % 200_003:x}q" for n in range(1_000_000)))])
    started = time.process_time()
    assert words.density("a plain text about w25q " * 20_000)[1] == 1
    assert time.process_time() - started < 5


def test_our_own_lists_can_be_read():
    for name in (*blocklists.OWN_DOMAINS, *blocklists.OWN_WORDS):
        found = [line for _, line in blocklists.entries(blocklists.OWN / name)]
        assert len(found) == len({line.partition("\t")[0] for line in found}) > 20, name
