"""What is run (model, data, optimizer, schedule, seed) and, separately, where it runs and what it records."""

from collections.abc import Iterator
from math import gcd
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from scaling.config.curriculum import Stage, check_stages, stage_steps
from scaling.config.placement import Placement
from scaling.config.records import Records
from scaling.config.start import StartConfig
from scaling.families import AnyModel, Tensor
from scaling.frozen import MANY, Config
from scaling.numbers import divisors
from scaling.objectives import AnyObjective, NextToken

WIDTH_TRANSFER = ("adamw", "lion")  # updates of about the learning rate, whatever the gradient: Adam in µP


class TokenizerConfig(Config):
    """How text becomes tokens."""

    kind: Literal["bytes", "bpe"] = "bytes"
    """raw bytes, or byte-level BPE trained on the training split"""
    vocab: int = Field(default=256, ge=256)
    """bytes: always 256, byte 0 marks the end of a document; bpe: any size, byte fallback included"""
    split_digits: bool = False
    """bpe: every digit is a token of its own"""

    @model_validator(mode="after")
    def _bytes_are_256(self) -> Self:
        if self.kind == "bytes" and (self.vocab != 256 or self.split_digits):
            raise ValueError(
                f"kind=bytes needs vocab=256 and split_digits=false, got vocab={self.vocab} and "
                f"split_digits={str(self.split_digits).lower()}"
            )
        return self


class LongDocuments(Config):
    """Documents that a run sees more often than others, as when a context is extended (Llama 3, 2407.21783)."""

    tokens: int = Field(ge=1)
    """documents of at least this many tokens; a window belongs to the document of its first token"""
    times: int = Field(ge=2)
    """how often an epoch has each of their windows"""


class DataConfig(Config):
    """A corpus, its tokenizer and the part of it that a run may see."""

    TRAINED_ON: ClassVar[tuple[str, ...]] = ("train_tokens", "epochs", "long_documents", "curriculum")
    """keys that leave the held-out text as it is"""

    corpus: str
    """`python_stdlib`, `tfds:NAME` (any text dataset of tensorflow-datasets) or `files:GLOB`"""
    text_field: str = "text"
    """the field of a record that holds the text (tfds, jsonl, parquet)"""
    document_bytes: int | None = Field(default=None, ge=256, le=2**24)
    """split each .txt into documents of this many bytes, extended to the next end of a paragraph, or else of a line,
    within as many bytes again; unset: a .txt is one document"""
    tokenizer: TokenizerConfig = TokenizerConfig()
    validation_fraction: float = Field(default=0.05, gt=0, lt=1)
    """share of documents held out where the corpus has no validation split of its own"""
    validation_tokens: int | None = Field(default=None, ge=1)
    """cut the held-out split to its first tokens; unset: the whole split"""
    train_tokens: int | None = Field(default=None, ge=1)
    """cut the training split to its first tokens (data-constrained runs); unset: all of it"""
    epochs: float = Field(default=1.0, gt=0)
    """passes over the training split that a run may make; a run that needs more is refused"""
    long_documents: LongDocuments | None = None
    """unset: an epoch has every window once"""
    curriculum: tuple[Stage, ...] | None = Field(default=None, min_length=1)
    """shorter windows first, those of `model.context` after the last stage; unset: the latter from the first step
    on"""


class OptimizerConfig(Config):
    """The optimizer; weight decay is decoupled and multiplied by the learning rate (as in PyTorch and optax)."""

    name: Literal["adamw", "adafactor", "muon", "lion"] = "adamw"
    """muon: for hidden matrices, with AdamW for everything else; the papers are in `training.optimizer`"""
    learning_rate: float = Field(gt=0)
    """peak of the schedule; with model.mup that of the base model, from which every parameter's own rate follows"""
    b1: float = Field(default=0.9, ge=0, lt=1)
    """momentum: first moment of AdamW and Lion, momentum of Muon"""
    b2: float = Field(default=0.95, gt=0, lt=1)
    """second moment of AdamW, slow momentum of Lion; Adafactor has its own decay"""
    eps: float = Field(default=1e-8, gt=0)
    """of AdamW and Muon; Adafactor and Lion have none"""
    weight_decay: float = Field(default=0.1, ge=0)
    """on matrices only: never on norms, biases or embeddings"""
    clip_norm: float | None = Field(default=1.0, gt=0)
    """largest global norm of the gradient; null for no clipping"""


class ScheduleConfig(Config):
    """The learning rate over a run, as fractions of its steps and of its peak."""

    name: Literal["cosine", "wsd", "linear", "inverse_sqrt", "constant"] = "cosine"
    """shape of the decay after the warmup"""
    warmup: float = Field(default=0.02, ge=0, lt=1)
    """share of the steps spent rising linearly to the peak"""
    warmup_tokens: int | None = Field(default=None, ge=0)
    """the same in tokens, for runs of different lengths that start identically; `warmup` is then 0"""
    cooldown: float = Field(default=0.2, ge=0, lt=1)
    """wsd: share of the steps spent decaying as 1−√ (Hägele et al. 2024, 2405.18392)"""
    final: float = Field(default=0.1, ge=0, le=1)
    """share of the peak left at the last step (cosine, linear, wsd)"""

    @model_validator(mode="before")
    @classmethod
    def _one_warmup(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("warmup_tokens") is None:
            return values
        if values.get("warmup"):
            raise ValueError(
                f"warmup={values['warmup']} and warmup_tokens={values['warmup_tokens']} both set the length of the "
                "warmup; keep one of them"
            )
        return {**values, "warmup": 0.0}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.name == "wsd" and self.warmup + self.cooldown > 1:
            raise ValueError(
                f"warmup={self.warmup} and cooldown={self.cooldown} are together longer than the run; their sum may "
                "be at most 1"
            )
        return self

    def warmup_steps(self, steps: int, batch_tokens: int) -> int:
        """Warmup steps of a run of `steps` steps of `batch_tokens` tokens; the last step is never warmup."""
        wanted = self.warmup * steps if self.warmup_tokens is None else self.warmup_tokens / batch_tokens
        return min(round(wanted), steps - 1)

    def cooldown_steps(self, steps: int, batch_tokens: int) -> int:
        """Cooldown steps of a run of `steps` steps: 0 except for wsd; at least one where there is a cooldown, at most
        what warmup leaves."""
        if self.name != "wsd" or not self.cooldown:
            return 0
        return min(max(1, round(self.cooldown * steps)), steps - max(1, self.warmup_steps(steps, batch_tokens)))


class RunConfig(Config):
    """One training run. Everything but `placement` and `records` enters the hash that names it."""

    model: AnyModel
    """the model; its `kind` names the family"""
    data: DataConfig
    objective: AnyObjective = NextToken()
    """what is learned from a window"""
    optimizer: OptimizerConfig
    schedule: ScheduleConfig = ScheduleConfig()
    batch_size: int = Field(ge=1, le=MANY)
    """windows of `model.context` tokens in a batch, over all devices"""
    tokens: int = Field(ge=1)
    """tokens to train on, repeats included; rounded to whole batches"""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """seed of the initial parameters, the order of the data, and all random draws in training"""
    start: StartConfig | None = None
    """another run whose parameters this one starts from; unset: its own, drawn from the seed"""
    placement: Placement = Placement()
    records: Records = Records()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.batch_size % max(1, self.placement.accumulate):
            raise ValueError(
                f"batch_size={self.batch_size} is not divisible by placement.accumulate={self.placement.accumulate}"
            )
        self._check_vocabulary()
        self._check_mask()
        self.check_mesh()
        self._check_curriculum()
        self._check_remat()
        self._check_schedule()
        if self.model.base is not None and self.optimizer.name not in WIDTH_TRANSFER:
            raise ValueError(
                f"model.mup has no rule for optimizer.name={self.optimizer.name}; "
                f"allowed: {', '.join(WIDTH_TRANSFER)}; or leave model.mup unset"
            )
        if self.start is not None:
            self.start.check(self.model.tensors())
        if self.objective.REFERENCE and not self.has_reference:
            raise ValueError(
                f"objective.kind={self.objective.kind} compares the model with that of the run it starts from; set "
                "start.run to that run and start.reference=true"
            )
        return self

    def _check_vocabulary(self) -> None:
        least = self.data.tokenizer.vocab + self.objective.EXTRA_TOKENS
        if least > self.model.vocab:
            extra = f" plus {self.objective.EXTRA_TOKENS} for objective.kind={self.objective.name}"
            extra *= self.objective.EXTRA_TOKENS > 0
            raise ValueError(
                f"data.tokenizer.vocab={self.data.tokenizer.vocab}{extra} is more than "
                f"model.vocab={self.model.vocab}; set model.vocab to {least} or slightly more"
            )

    def _check_mask(self) -> None:
        if self.objective.mask not in self.model.masks:
            raise ValueError(
                f"objective.kind={self.objective.name} needs a {self.objective.mask} attention mask, which "
                f"{self.model.whole_windows or 'a model of this kind'} does not support; it supports: "
                f"{', '.join(self.model.masks)}"
            )
        self.model.check_mask(self.objective.mask)

    def _check_remat(self) -> None:
        if self.placement.remat not in self.model.REMAT:
            raise ValueError(
                f"placement.remat={self.placement.remat} is not available for a model of kind {self.model.kind}; "
                f"allowed: {', '.join(self.model.REMAT)}"
            )
        if self.placement.offload_activations and self.placement.remat not in self.model.OFFLOAD:
            fits = f"set remat to {' or '.join(self.model.OFFLOAD)}" if self.model.OFFLOAD else "leave it false"
            raise ValueError(
                f"placement.offload_activations=true with remat={self.placement.remat} and a model of kind "
                f"{self.model.kind or 'transformer'} leaves nothing to offload to the host; {fits}"
            )

    def _check_schedule(self) -> None:
        schedule, tokens = self.schedule, self.tokens
        own = schedule.cooldown * tokens if schedule.name == "wsd" else 0
        if schedule.warmup_tokens is not None and schedule.warmup_tokens + own > tokens:
            cooldown = f" and schedule.cooldown={schedule.cooldown}" if own else ""
            raise ValueError(
                f"schedule.warmup_tokens={schedule.warmup_tokens}{cooldown} are longer than the whole run of "
                f"tokens={tokens}"
            )
        if self.records.trunk is not None and schedule.name != "wsd":
            raise ValueError(f"records.trunk needs schedule.name=wsd, got {schedule.name}")

    def check_mesh(self) -> None:
        """Raises ValueError where the model does not divide over `placement.mesh`."""
        self._check_expert_axis()
        self._check_context_axis()
        self._check_pipeline_axis()

    def _check_expert_axis(self) -> None:
        """Raises ValueError unless every device along `expert` gets the same number of experts."""
        axis = self.placement.mesh.expert
        tensors = self.model.tensors()
        counts = {n for t in tensors for name, n in zip(t.axes, t.shape, strict=True) if name == "experts"}
        if axis > 1 and not counts:
            raise ValueError(f"placement.mesh.expert={axis}, but the model has no experts; use fsdp to shard storage")
        if odd := [count for count in sorted(counts) if count % axis]:
            allowed = divisors(gcd(*counts))  # layers may have different numbers of experts
            raise ValueError(f"placement.mesh.expert={axis} does not divide experts={odd[0]}; allowed: {allowed}")

    def _check_context_axis(self) -> None:
        """Raises ValueError unless every device along `context` gets an equal part of each window, or of its
        heads."""
        axis, length = self.placement.mesh.context, self.model.context
        if axis > 1 and (whole := self.model.whole_windows):
            raise ValueError(
                f"placement.mesh.context={axis}, but {whole} needs whole windows; use data, fsdp or tensor"
            )
        if length % axis:
            able = divisors(length)
            near = [max(k for k in able if k < axis), *[k for k in able if k > axis][:1]]
            raise ValueError(
                f"placement.mesh.context={axis} does not divide model.context={length}; nearest that do: "
                f"{', '.join(map(str, near))}"
            )
        if self.placement.context == "ring" and axis > 1 and length % (2 * axis):
            near = [max(2 * axis, length // (2 * axis) * 2 * axis + more) for more in (0, 2 * axis)]
            raise ValueError(
                f"placement.context=ring cuts windows into two pieces for each of placement.mesh.context={axis} "
                f"devices, and {2 * axis} does not divide model.context={length}; nearest that it does: "
                f"{', '.join(map(str, sorted(set(near))))}; or placement.context=gather or ulysses"
            )

        self.model.check_shared(self.placement.context, self.placement.mesh.tensor, axis)

    def _check_pipeline_axis(self) -> None:
        """Raises ValueError unless all stages have the same layers, and microbatches divide as they require."""
        placement = self.placement
        stages, repeats, parts = placement.mesh.pipeline, placement.pipeline_repeats, placement.accumulate
        if stages == 1:
            for key, usual in (("pipeline_repeats", 1), ("pipeline_microbatches", None), ("pipeline_schedule", None)):
                if getattr(placement, key) != usual:
                    raise ValueError(
                        f"placement.{key}={getattr(placement, key)} applies only to a pipeline; set "
                        "placement.mesh.pipeline to 2 or more, or leave it out"
                    )
            return
        if self.model.staged(stages * repeats) is None:
            kind, most = self.model.kind or "transformer", self.model.most_runs
            able = f"their product may be at most {most}" if most > 1 else "use other axes: data, fsdp or tensor"
            raise ValueError(
                f"placement.mesh.pipeline={stages} × placement.pipeline_repeats={repeats}: the {self.model.layers} "
                f"layers of a model of kind {kind} cannot be cut into {stages * repeats} equal parts; {able}"
            )
        if placement.pipeline_schedule == "1f1b":
            self._check_alternated()
        at_once = placement.pipeline_microbatches
        if at_once and (not parts or parts % at_once):
            able = (
                f"one of {', '.join(map(str, divisors(parts)))}"
                if parts
                else "a divisor of accumulate, which is not set"
            )
            raise ValueError(
                f"placement.pipeline_microbatches={at_once} does not divide placement.accumulate={parts}; "
                f"allowed: {able}"
            )
        key, together = ("pipeline_microbatches", at_once) if at_once else ("accumulate", parts)
        if repeats > 1 and together % stages:
            near = sorted({max(1, together // stages) * stages, -(-together // stages) * stages})
            raise ValueError(
                f"placement.pipeline_repeats={repeats} takes microbatches in groups of placement.mesh.pipeline="
                f"{stages}, which does not divide placement.{key}={together}; nearest that it does: "
                f"{', '.join(map(str, near))}"
            )

    def _check_alternated(self) -> None:
        """Raises ValueError for settings that a 1f1b pipeline does not support."""
        if self.placement.offload_activations:
            raise ValueError(
                "placement.pipeline_schedule=1f1b keeps no activations of a layer for a later backward pass, so "
                "placement.offload_activations has nothing to offload; leave it out, or use gpipe"
            )
        if self.objective.REFERENCE:
            raise ValueError(
                f"placement.pipeline_schedule=1f1b runs one model, but objective.kind={self.objective.kind} also "
                "runs the reference model; use gpipe"
            )

    def _check_curriculum(self) -> None:
        """Raises ValueError unless its stages fit the model's windows."""
        stages = self.data.curriculum or ()
        check_stages(stages, self.model.context, self.placement.mesh.context)
        for stage in stages:
            try:
                self.model.check_context(stage.context)
            except ValueError as error:
                raise ValueError(f"data.curriculum: context={stage.context}: {error}") from None
        if stages and self.records.trunk is not None:
            raise ValueError(
                "data.curriculum sets its stages as shares of a run, so runs of different lengths begin differently "
                "and cannot branch off one trunk; use a design of whole runs, such as grid or isoflop"
            )

    def tensors(self) -> Iterator[Tensor]:
        """Every array of the model's parameters, those that this run does not train marked as frozen."""
        return self.model.tensors() if self.start is None else self.start.marked(self.model.tensors())

    @property
    def has_reference(self) -> bool:
        """Whether the initial parameters are kept besides the trained ones."""
        return self.start is not None and self.start.reference

    @property
    def batch_tokens(self) -> int:
        """Tokens predicted in one step."""
        return self.batch_size * self.model.context

    @property
    def steps(self) -> int:
        """Optimizer steps: `tokens` in whole batches, at least one."""
        return max(1, round(self.tokens / self.batch_tokens))

    def contexts(self, steps: int | None = None) -> list[tuple[int, int]]:
        """(tokens of a window, steps) of each part of the first `steps` steps (unset: all); beyond the run's steps
        the last part continues."""
        last, found = self.steps if steps is None else steps, []
        begin = 0
        for context, end in stage_steps(self.data.curriculum or (), self.model.context, self.steps):
            end = last if end == self.steps else min(end, last)
            found += [(context, end - begin)] * (end > begin)
            begin = max(begin, end)
        return found

    def context_at(self, step: int) -> int:
        """Tokens of a window in step number `step`, counted from 0."""
        return self.contexts(step + 1)[-1][0]

    @property
    def warmup_steps(self) -> int:
        """Steps in which the learning rate warms up."""
        return self.schedule.warmup_steps(self.steps, self.batch_tokens)

    @property
    def cooldown_steps(self) -> int:
        """Steps in which a `wsd` schedule decays; 0 for others."""
        return self.schedule.cooldown_steps(self.steps, self.batch_tokens)

    @property
    def fork_step(self) -> int:
        """Updates of a `wsd` run that it may share with a longer one: all before its cooldown and before the last
        tenth, over which its own training loss is averaged."""
        return self.steps - max(self.cooldown_steps, tail_steps(self.steps))


def tail_steps(steps: int) -> int:
    """Steps at the end of a run of `steps` over which its training loss is averaged."""
    return max(1, steps // 10)
