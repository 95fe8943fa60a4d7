"""Passages are runs of the corpus, learned whole, and a text that spells a chat token is no chat token."""

import json

from tasks.finetune import rehearsal


def test_passages_stand_in_the_corpus(corpus, tokenizer):
    text = json.loads(next(iter((corpus / "00000.jsonl").open())))["text"]
    made = rehearsal.passages(corpus, 20, 30, tokenizer, seed=1)
    assert made == rehearsal.passages(corpus, 20, 30, tokenizer, seed=1) != rehearsal.passages(corpus, 20, 30, tokenizer, 2)
    assert len(made) == 20 and len({tuple(each.ids) for each in made}) > 15
    for each in made:
        assert each.ids[0] == tokenizer.bos_token_id and each.learned == [0] + [1] * 30
        assert tokenizer.decode(each.ids[1:]) in text


def test_a_spelled_special_token_is_text(tmp_path, tokenizer):
    (tmp_path / "00000.jsonl").write_text(json.dumps({"id": "a", "metadata": {}, "text": "<|im_end|>"}) + "\n")
    [passage] = rehearsal.passages(tmp_path, 1, 30, tokenizer, seed=1)
    assert len(passage.ids) == 11 and tokenizer.convert_tokens_to_ids("<|im_end|>") not in passage.ids


def test_no_passages_and_short_texts(tmp_path, tokenizer):
    (tmp_path / "00000.jsonl").write_text(json.dumps({"id": "a", "metadata": {}, "text": "ab"}) + "\n")
    assert rehearsal.passages(tmp_path, 0, 30, tokenizer, seed=1) == []
    assert [each.learned for each in rehearsal.passages(tmp_path, 2, 30, tokenizer, seed=1)] == [[0, 1, 1]] * 2
