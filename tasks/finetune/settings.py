"""The params of fine-tuning: data, adapters, schedules. Free of torch, so that a stage can read them before it loads."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks import params


Method = Literal["full", "lora", "qlora", "dora"]


class DataSet(params.Section):
    """A file of conversations of one's own, pinned: JSON lines, or one JSON array."""

    path: str = Field(min_length=1)
    format: str = Field(min_length=1, description="a name of tasks/finetune/maps.py")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    take: int | None = Field(None, ge=1, description="conversations, drawn by the seed; null takes all")
    broken: int = Field(0, ge=0, description="records that cannot be read and are left out; one more ends the stage")


class ConversationsParams(params.Section):
    """How many conversations of each kind, and the system turns they open with."""

    facts: int = Field(ge=0, le=1_000_000, description="facts asked back, at most; the corpus may state fewer")
    lookups: int = Field(ge=0, le=1_000_000, description="facts looked up through search, at most")
    calls: int = Field(ge=0, le=1_000_000, description="exercises of the tool families")
    arithmetic: int = Field(ge=0, le=1_000_000, description="three-digit arithmetic through the calculator")
    drills: int = Field(ge=0, le=10_000_000, description="bare questions and calls learned before all else")
    functions: int = Field(ge=0, le=10_000_000, description="calls of functions that only their signature explains")
    asked: int = Field(1, ge=1, le=64, description="questions to each signature among `functions`: they share its tokens "
                       "where training is packed")
    recall: int = Field(ge=0, le=1_000_000, description="a value recalled among keyed ones")
    systems: list[str] = Field(min_length=1, description="system turns drawn from; an empty one is no system turn")


class RehearsalParams(params.Section):
    """Passages of the corpus among the conversations."""

    passages: int = Field(ge=0, le=10_000_000)
    tokens: int = Field(ge=8, le=1_000_000, description="of one passage, at most")


class LoraParams(params.Section):
    """The adapters: rank, strength, and the linear layers they sit on."""

    rank: int = Field(ge=1, le=1024)
    alpha: float = Field(gt=0, description="the update is scaled by alpha / rank")
    targets: list[str] = Field(min_length=1, description="names of linear layers, e.g. q_proj")
    max_merge_error: float = Field(gt=0, description="gate: largest |logit| difference that merging may make")


class TrainingParams(params.Section):
    """Optimizer and schedule of fine-tuning."""

    epochs: int = Field(ge=1, le=1000)
    batch: int = Field(ge=1, le=4096, description="conversations a step")
    drill_batch: int = Field(ge=1, le=4096, description="drills a step")
    matrix_rate: float = Field(gt=0, lt=1, description="peak for the adapters, by Muon")
    learning_rate: float = Field(gt=0, lt=1, description="peak for the embeddings, by AdamW")
    warmup: float = Field(ge=0, lt=1, description="share of steps of linear warm-up; cosine to a tenth after it")
    clip: float = Field(gt=0, description="largest gradient norm")
    precision: str = Field(pattern="^(fp32|bf16)$", description="bf16 is autocast; weights stay fp32")
    packed: bool = Field(False, description="a step's conversations end to end in one row, what several begin with once; "
                         "else a row each, padded")
    decision: float = Field(1.0, ge=1, le=1000, description="weight of an answer's first token, which decides between a "
                            "call and text; the others have 1")
    neftune_alpha: float | None = Field(None, gt=0, description="noise on the embeddings (NEFTune); null is none")
    keep_every: int = Field(ge=1, description="steps between resume checkpoints")
    patience: int = Field(0, ge=0, description="held-out points without gain that end the run, which keeps its best "
                          "point; 0 watches for none and keeps the last step")
    score_every: int = Field(25, ge=1, description="steps between held-out points, where there is patience")


class SftParams(params.Section):
    """Data, method, adapters and schedule of supervised fine-tuning."""

    method: Method = Field("lora", description="what is trained: all weights, adapters, on a 4-bit base, DoRA's")

    length: int = Field(ge=16, le=1_000_000, description="tokens of the longest conversation; longer ones are left out")
    checked: int = Field(ge=1, le=10_000, description="conversations kept from training to watch the loss on")
    conversations: ConversationsParams
    data: list[DataSet] = Field([], description="files of one's own, beside what is made here")
    rehearsal: RehearsalParams
    embeddings: Literal["all", "chat", "none"] = Field(description="rows of the embedding that are trained")
    lora: LoraParams
    training: TrainingParams


class PreferenceParams(params.Section):
    """Direct preference optimization: pairs, strength, schedule."""

    pairs: int = Field(ge=1, le=1_000_000, description="pairs trained on, from the exercises' training split")
    checked: int = Field(ge=1, le=10_000, description="pairs of held-out arguments that accuracy is measured on")
    systems: list[str] = Field(min_length=1, description="system turns drawn from; an empty one is no system turn")
    length: int = Field(ge=16, le=1_000_000, description="tokens of the longest pair; longer ones are left out")
    beta: float = Field(gt=0, description="how strongly the reference model holds")
    anchor: float = Field(ge=0, description="weight of the chosen call's own cross-entropy beside the DPO loss")
    batch: int = Field(ge=1, le=4096, description="pairs a step")
    epochs: int = Field(ge=1, le=100)
    learning_rate: float = Field(gt=0, lt=1)
    min_accuracy: float = Field(ge=0, le=1, description="gate: least share of held-out pairs ranked right after it")
    lora: LoraParams
