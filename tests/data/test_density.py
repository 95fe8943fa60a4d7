"""Density orders texts as a reader would, in both languages, and holds for anything."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data import density

EN = ("Photosynthesis converts sunlight, water and carbon dioxide into glucose and oxygen inside chloroplasts. "
      "Chlorophyll absorbs red and blue wavelengths; green reflects. The Calvin cycle then fixes carbon using ATP.")
ZH = ("光合作用把阳光、水和二氧化碳转化为葡萄糖与氧气，发生在叶绿体内。叶绿素吸收红光和蓝光，反射绿光。"
      "随后卡尔文循环利用三磷酸腺苷固定碳元素，生成糖类。")


def test_padding_repetition_and_grammar_words_lower_it():
    for prose, padding in ((EN, "as you know it is what it is and so it will be then "), (ZH, "也就是说这个的话呢我们都会的吧 ")):
        plain = density.density(prose)
        assert plain > 0.7
        assert density.density(prose * 20) < plain - 0.3
        assert density.density(padding * 6) < plain - 0.3
        assert density.density(prose + padding * 6) < plain


def test_parts_by_hand():
    # content: cat, sat, mat of six words; every run distinct; too short to compress
    assert abs(density.density("the cat sat on the mat") - (3 / 6 + 1 + 1) / 3) < 1e-9
    assert density.density("") == density.density(" \n，。") == 0.0
    assert density.compressed("a" * 10_000) == 0.0


def test_long_text_is_sampled_at_the_beginning_and_the_middle():
    assert density.density(EN * 200 + "x" * 10**7) == density.density(EN * 200 + "y" * 10**7)


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet=st.characters(), max_size=300), st.integers(1, 60))
def test_bounds(text, times):
    assert 0 <= density.density(text * times) <= 1
