"""A model directory as an lm-eval model: every request packed, heads only where something is scored.

lm-eval's own `hf` model runs each choice of a question on its own and pads each batch. Here the choices of a question
are branches of one packed row (a block mask keeps them apart), so a context is computed once, and greedy generation
computes a prompt head that all questions share once. In fp32 the values are those of lm-eval's `hf` model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.utils import get_rolling_token_windows
from transformers import DynamicCache, LlamaForCausalLM, PreTrainedTokenizerFast

from tasks import chat
from tasks.stage import StageError

ROW = 512       # tokens of a packed row: longer rows win nothing in the matrix products and pay in attention
SCORED = 256    # rows of the head computed at once: bounds memory at a vocabulary of 49,152
PATIENCE = 24   # tokens in which an answer must begin as it should; a call's mark takes six at most
Grammar = Callable[[dict[str, Any]], Any]   # an item -> a fresh tasks.serve.engine.grammar.Matcher


@dataclass
class Group:
    """Sequences that begin alike: `shared` tokens once, then one branch each; `first[b]` is the first scored token.

    Positions count from the start of the sequence; token t of sequence b is scored when t >= first[b].
    """

    shared: list[int]
    branches: list[list[int]]
    first: list[int]

    def __len__(self) -> int:
        return len(self.shared) + sum(map(len, self.branches))


def group(sequences: Sequence[list[int]], first: Sequence[int]) -> Group:
    """The group of token sequences (each non-empty): their longest common beginning is computed once."""
    common = min(map(len, sequences)) - 1 if len(sequences) > 1 else 0
    for at in range(common):
        if len({sequence[at] for sequence in sequences}) > 1:
            common = at
            break
    return Group(sequences[0][:common], [sequence[common:] for sequence in sequences], list(first))


class PackedLM(LM):
    """lm-eval's three requests on a Llama and its tokenizer. `window` bounds every sequence in tokens."""

    def __init__(self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, window: int,
                 batch: int = 32, grammar: Grammar | None = None) -> None:
        super().__init__()
        self.model, self.tokenizer, self.batch, self.grammar = model.eval(), tokenizer, batch, grammar
        self.window = min(window, model.config.max_position_embeddings)
        vocabulary = tokenizer.get_vocab()
        self.prefix = vocabulary.get(chat.BOS, tokenizer.bos_token_id)
        self.ends = {vocabulary[t] for t in (chat.END, chat.BOS) if t in vocabulary} | {tokenizer.eos_token_id}

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, the specials in it read as such, none added."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    # lm-eval's requests

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """(sum of log-probabilities in nats, whether greedy decoding gives it) of each (context, continuation)."""
        documents: dict[tuple[str | None, int | None], list[int]] = {}
        for at, request in enumerate(requests):
            documents.setdefault((request.task_name, request.doc_id), []).append(at)
        groups = []
        for members in documents.values():
            pairs = [self.encode_pair(*requests[at].args) for at in members]
            sequences = [(context + continuation)[-self.window - 1:] for context, continuation in pairs]
            first = [len(s) - len(continuation) for s, (_, continuation) in zip(sequences, pairs)]
            groups.append(group(sequences, first))
        results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for members, scores in zip(documents.values(), self.score(groups)):
            for at, (values, greedy) in zip(members, scores):
                results[at] = float(values.sum()), bool(greedy.all())
        return results

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Log-probability in nats of each whole text given the document mark, in windows side by side."""
        groups, owners = [], []
        for at, request in enumerate(requests):
            ids = self.encode(request.args[0])
            for given, predicted in get_rolling_token_windows(ids, self.prefix, self.window, 1):
                sequence = given + predicted[-1:]
                groups.append(group([sequence], [len(sequence) - len(predicted)]))
                owners.append(at)
        totals = [0.0] * len(requests)
        for at, scores in zip(owners, self.score(groups)):
            totals[at] += float(scores[0][0].sum())
        return totals

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Greedy continuation of each (prompt, arguments): `max_gen_toks`, `until`, `grammar` (see Grammar), and
        `begins`: an answer that does not hold this text within PATIENCE tokens ends there."""
        kinds: dict[str, list[int]] = {}
        for at, request in enumerate(requests):
            kinds.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(at)
        texts = [""] * len(requests)
        for kind, members in kinds.items():
            arguments = json.loads(kind)
            members.sort(key=lambda at: len(requests[at].args[0]))
            for start in range(0, len(members), self.batch):
                chosen = members[start:start + self.batch]
                prompts = [self.encode(requests[at].args[0])[-self.window:] for at in chosen]
                matchers = [self.grammar(requests[at].doc) for at in chosen] if arguments.get("grammar") else None
                limit, begins = int(arguments.get("max_gen_toks", 64)), arguments.get("begins", "")
                for at, ids in zip(chosen, self.greedy(prompts, limit, matchers, begins)):
                    text = self.tokenizer.decode(ids, skip_special_tokens=True)
                    for stop in arguments.get("until") or []:
                        text = text.split(stop)[0] if stop else text
                    texts[at] = text
        return texts

    # what they are made of

    def encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of both sides, split where lm-eval's `hf` model splits them: a context's trailing space belongs
        to the continuation, an empty context is the document mark."""
        if not context:
            return [self.prefix], self.encode(continuation)
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        whole, before = self.encode(context + continuation), self.encode(context)
        return before, whole[len(before):]

    @torch.inference_mode()
    def score(self, groups: Sequence[Group]) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """For each group and sequence: log-probabilities [scored] float64 in nats and greedy agreement [scored]."""
        results: list[list[tuple[np.ndarray, np.ndarray]] | None] = [None] * len(groups)
        row: list[int] = []
        for at in sorted(range(len(groups)), key=lambda at: (-len(groups[at]), at)):
            if row and sum(len(groups[i]) for i in row) + len(groups[at]) > ROW:
                self.score_row(groups, row, results)
                row = []
            row.append(at)
        if row:
            self.score_row(groups, row, results)
        return results  # type: ignore[return-value]  # every group was in a row

    def score_row(self, groups: Sequence[Group], row: Sequence[int], results: list[Any]) -> None:
        """Run one packed row and put what it scored into `results`."""
        tokens, position, owner, branch = [], [], [], []
        queries: list[list[tuple[list[int], list[int]]]] = []   # per group and sequence: rows asked, tokens scored
        for at in row:
            one, start = groups[at], len(tokens)
            add(tokens, position, owner, branch, one.shared, 0, at, 0)
            asked = []
            for number, (rest, first) in enumerate(zip(one.branches, one.first), 1):
                at_rest = len(tokens)
                add(tokens, position, owner, branch, rest, len(one.shared), at, number)
                whole = [start + i for i in range(len(one.shared))] + [at_rest + i for i in range(len(rest))]
                sequence = one.shared + rest
                asked.append((whole[first - 1:-1], sequence[first:]))
            queries.append(asked)
        o, b, p = torch.tensor(owner), torch.tensor(branch), torch.tensor(position)
        mask = ((o[:, None] == o) & ((b == 0) | (b[:, None] == b)) & (p[:, None] >= p))[None, None]
        hidden = self.model.model(input_ids=torch.tensor([tokens]), attention_mask=mask, position_ids=p[None],
                                  use_cache=False).last_hidden_state[0]
        rows = torch.tensor([i for asked in queries for at, _ in asked for i in at], dtype=torch.long)
        targets = torch.tensor([t for asked in queries for _, ids in asked for t in ids], dtype=torch.long)
        values, greedy = [], []
        for start in range(0, len(rows), SCORED):
            logits = self.model.lm_head(hidden[rows[start:start + SCORED]]).float()
            wanted = targets[start:start + SCORED]
            picked = logits.gather(1, wanted[:, None])[:, 0]
            values.append((picked - logits.logsumexp(1)).double().numpy())
            greedy.append((logits.argmax(1) == wanted).numpy())
        flat, agree = np.concatenate(values or [np.zeros(0)]), np.concatenate(greedy or [np.zeros(0, bool)])
        taken = 0
        for at, asked in zip(row, queries):
            results[at] = []
            for _, ids in asked:
                results[at].append((flat[taken:taken + len(ids)], agree[taken:taken + len(ids)]))
                taken += len(ids)

    @torch.inference_mode()
    def greedy(self, prompts: Sequence[list[int]], limit: int, matchers: Sequence[Any] | None,
               begins: str = "") -> list[list[int]]:
        """At most `limit` greedy tokens after each prompt, the end mark left out; `matchers` mask what is allowed;
        without `begins` in its first PATIENCE tokens an answer ends."""
        common = min(map(len, prompts)) - 1
        common = next((i for i in range(common) if len({p[i] for p in prompts}) > 1), common)
        cache, count = DynamicCache(config=self.model.config), len(prompts)
        if common:
            self.model.model(input_ids=torch.tensor([prompts[0][:common]]), past_key_values=cache, use_cache=True)
            cache.batch_repeat_interleave(count)
        longest = max(map(len, prompts)) - common
        ids = torch.full((count, longest), self.prefix)
        mask = torch.ones((count, common + longest), dtype=torch.long)
        for i, prompt in enumerate(prompts):                      # padding lies between what is shared and the rest
            rest = prompt[common:]
            ids[i, longest - len(rest):] = torch.tensor(rest)
            mask[i, common:common + longest - len(rest)] = 0
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, common:]
        written: list[list[int]] = [[] for _ in prompts]
        alive = list(range(count))
        for _ in range(limit):
            hidden = self.model.model(input_ids=ids, attention_mask=mask, position_ids=positions,
                                      past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
            logits = self.model.lm_head(hidden).float()
            if matchers is not None:
                for i, which in enumerate(alive):
                    logits[i, torch.from_numpy(~matchers[which].allowed())] = -torch.inf
            chosen = logits.argmax(1).tolist()
            keep = []
            for i, (which, token) in enumerate(zip(alive, chosen)):
                if token in self.ends:
                    continue
                written[which].append(token)
                hopeless = len(written[which]) == PATIENCE and begins not in self.tokenizer.decode(written[which])
                if not hopeless and (matchers is None or not matchers[which].accept(token)):
                    keep.append(i)
            if not keep:
                break
            if len(keep) < len(alive):
                chosen_rows = torch.tensor(keep)
                cache.batch_select_indices(chosen_rows)
                mask, positions = mask[chosen_rows], positions[chosen_rows]
            alive = [alive[i] for i in keep]
            ids = torch.tensor([[chosen[i]] for i in keep])
            mask = torch.cat([mask, torch.ones((len(keep), 1), dtype=torch.long)], 1)
            positions = positions[:, -1:] + 1
        return written


def add(tokens: list[int], position: list[int], owner: list[int], branch: list[int], new: Sequence[int], start: int,
        at: int, number: int) -> None:
    """Append `new` tokens of group `at`, branch `number` (0: shared), at positions from `start`, to a packed row."""
    tokens.extend(new)
    position.extend(range(start, start + len(new)))
    owner.extend([at] * len(new))
    branch.extend([number] * len(new))


def load(directory: Path, dtype: torch.dtype) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The model (an int4 directory dequantized) and tokenizer of `directory`. Raises StageError where it is none."""
    from tasks.finetune import checkpoint
    from tasks.quantize import formats

    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise StageError(f"{directory} is no model directory: config.json cannot be read ({error})") from None
    packed = "quantization_config" in config
    model = formats.load_dequantized(directory) if packed else checkpoint.load_model(directory)
    return model.to(dtype), checkpoint.load_tokenizer(directory, model.get_input_embeddings().weight.shape[0])
