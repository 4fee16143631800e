"""A tuned model that reads and does not write (a classifier, an encoder with its masked-language head), as folders that
plain transformers and peft open, each opened again and compared."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import PeftModel
from torch.nn.functional import logsigmoid
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tunesmith.build import Material, prompt_text
from tunesmith.data.denoised import MaskedText
from tunesmith.data.pack import forest
from tunesmith.data.render import Renderer
from tunesmith.data.whole_text import WholeText, text_of
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot
from tunesmith.errors import InputError, PlanError, RunError
from tunesmith.evals.tasks import given_replies, label_record
from tunesmith.export.verify import CLOSE, measured_facts
from tunesmith.export.write import Serving, write_merged, write_tuned
from tunesmith.files import broken_files, publish_folder, write_json
from tunesmith.folder import RunFolder
from tunesmith.masked_export import expect_masked
from tunesmith.models.bars import no_bars, no_reports
from tunesmith.models.class_head import ONE, SEVERAL, pad_by
from tunesmith.models.heads import inner
from tunesmith.models.load import weights_digest
from tunesmith.opened import TUNED, Opened
from tunesmith.recipe import Recipe
from tunesmith.report import card
from tunesmith.score_export import ScoreServing, expect_scores
from tunesmith.types import Message

NUM_CHECKED = 8  # texts on which an export is compared
CHECKED = "checked.json"


@dataclass(frozen=True, slots=True)
class ReadServing(Serving):
    """The tokenizer alone, which cuts texts as in training: `max_new_tokens` is the longest."""

    def save(self, folder: Path, model: PreTrainedModel) -> None:
        self.tokenizer.model_max_length = self.max_new_tokens
        self.tokenizer.save_pretrained(folder)


class Expected(Protocol):
    """What the session says of a few texts, and how a folder is opened and asked for the same."""

    @property
    def dtype(self) -> torch.dtype: ...
    def opened(self, folder: Path, dtype: torch.dtype) -> PreTrainedModel: ...  # plain transformers
    def pairs(self, model: Any, tokenizer: Any) -> list[tuple[torch.Tensor, torch.Tensor, bool]]: ...  # found, wanted
    def in_float32(self, found: tuple[torch.Tensor, ...]) -> Expected: ...  # when it was asked again


@dataclass(frozen=True, slots=True)
class Classes:
    texts: tuple[str, ...]
    logp: tuple[torch.Tensor, ...]  # [C] nats each
    labels: tuple[str, ...]
    dtype: torch.dtype
    several: bool = False  # of the labels may fit: each is a question by itself, and `logp` is of its yes

    def nats(self, logits_C: torch.Tensor) -> torch.Tensor:
        logits_C = logits_C.float()
        return logsigmoid(logits_C) if self.several else logits_C.log_softmax(-1)

    def named(self, logp_C: torch.Tensor, names: Mapping[int, str]) -> set[str]:
        """The labels that are given."""
        best = (logp_C.exp() > 0.5).nonzero()[:, 0] if self.several else logp_C.argmax()[None]
        return {names[k] for k in best.tolist()}

    @no_bars()
    @no_reports()
    def opened(self, folder: Path, dtype: torch.dtype) -> PreTrainedModel:
        """As anyone would load it: plain transformers."""
        names = dict(enumerate(self.labels))
        model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            folder, id2label=names, label2id={v: k for k, v in names.items()}, dtype=dtype, local_files_only=True,
            use_safetensors=True, ignore_mismatched_sizes=True, problem_type=SEVERAL if self.several else ONE,
        )  # fmt: skip
        return model.eval()

    def pairs(self, model: Any, tokenizer: Any) -> list[tuple[torch.Tensor, torch.Tensor, bool]]:
        """From text to label, with the folder's own tokenizer."""
        found = []
        for text, wanted_C in zip(self.texts, self.logp):
            inputs = tokenizer(text, truncation=True, split_special_tokens=True, return_tensors="pt")
            found_C = self.nats(model(input_ids=inputs["input_ids"]).logits[0])
            wanted = self.named(wanted_C, dict(enumerate(self.labels)))
            found.append((found_C, wanted_C, self.named(found_C, model.config.id2label) == wanted))
        return found

    def in_float32(self, found: tuple[torch.Tensor, ...]) -> Classes:
        return replace(self, logp=found, dtype=torch.float32)


def serving_of(session: Session, renderer: Renderer) -> Serving:
    if session.base.scores:
        return ScoreServing(session.base.tokenizer, renderer.template, renderer.stop_ids, 0)
    assert isinstance(renderer, WholeText | MaskedText)
    return ReadServing(session.base.tokenizer, "", (), renderer.longest)


def expect(session: Session, snapshot: Snapshot, renderer: Renderer, prompts: Sequence[Sequence[Message]]) -> Expected:
    if session.base.scores:
        return expect_scores(session, snapshot, renderer, prompts)
    if isinstance(renderer, MaskedText):
        return expect_masked(session, snapshot, renderer, prompts)
    assert isinstance(renderer, WholeText)
    records = [label_record(renderer, str(i), p, renderer.labels) for i, p in enumerate(prompts)]
    logp = tuple(session.logprobs(snapshot, [forest([r]) for r in records]))
    told = renderer.labels, session.base.model.dtype, bool(renderer.several)
    return Classes(tuple(map(text_of, prompts)), logp, *told)


def asked_of(made: Material, num: int) -> list[tuple[Message, ...]]:
    """Held-out texts: what a class is given to, or a plain text; of a reward model a prompt with a reply."""
    form = made.forms[0]
    if made.kind.scoring == "scores":
        return [(*form.prompt(e, made.instruction), reply) for e in made.split.test[:num] for reply in given_replies(e)]
    return [
        (Message("user", prompt_text(e)),) if e.is_text else form.prompt(e, made.instruction)
        for e in made.split.test[:num]
    ]


@no_bars()
def open_read_adapter(base: Path, adapter: Path, expected: Expected, dtype: torch.dtype) -> PeftModel:
    """As anyone would load it: plain transformers, plain peft, in the precision of training."""
    opened = expected.opened(base, dtype)
    return PeftModel.from_pretrained(opened, str(adapter), autocast_adapter_dtype=False).eval()


@torch.no_grad()
def verify(name: str, model: Any, folder: Path, expected: Expected) -> dict[str, Any]:
    """Facts of the comparison, with the tokenizer in `folder`. Raises RunError at a difference: such an export must not
    be used. All that is told is compared, so where it is close and another is likeliest, both are as good (a tie)."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    differences, same, is_half = [], 0, expected.dtype != torch.float32
    close = CLOSE[expected.dtype]
    for found, wanted, is_same in expected.pairs(model, tokenizer):
        differences.append(relative(found, wanted))
        same += is_same
    num, apart = len(differences), max(differences, default=0.0)
    if not all(d <= close for d in differences) or (not is_half and same < num):
        raise RunError(
            f"the {name}, loaded by plain transformers, is not the model that was measured: log-probabilities differ "
            f"by {apart:.2g} of their spread or a nat (at most {close:.2g} is rounding) and {same} of {num} likeliest "
            "answers are the same. Do not use this export; please report it with the run folder."
        )
    facts = {"logit_diff": apart, "same_text": same == num, "num_prompts": num, "num_same": same}
    return {**facts, "num_ties": num - same} if is_half else facts


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Root mean square difference, of the spread or of a nat: two labels can be as likely as each other."""
    return float((found - wanted).square().mean().sqrt() / wanted.std().clamp_min(1.0))


def open_tuned(session: Session, tuned: Path, expected: Expected, dtype: torch.dtype) -> Any:
    """The folder opened again, an adapter on its base."""
    if (tuned / "adapter_config.json").is_file():
        return open_read_adapter(session.base.located.folder, tuned, expected, dtype)
    return expected.opened(tuned, dtype)


def compared(session: Session, tuned: Path, expected: Expected) -> dict[str, Any]:
    return verify(tuned.name, open_tuned(session, tuned, expected, session.base.model.dtype), tuned, expected)


@torch.no_grad()
def in_float32(session: Session, tuned: Path, expected: Expected) -> tuple[Expected, dict[str, Any]]:
    """What the tuned folder says in float32, which whole weights are held against, and how far that is from what was
    measured. That itself, and {}, where it was measured in float32."""
    if expected.dtype == torch.float32:
        return expected, {}
    tokenizer = AutoTokenizer.from_pretrained(tuned, local_files_only=True)
    said = expected.pairs(open_tuned(session, tuned, expected, torch.float32), tokenizer)
    apart = max((relative(found, wanted) for found, wanted, _ in said), default=0.0)
    facts = measured_facts(expected.dtype, apart, sum(is_same for *_, is_same in said))
    return expected.in_float32(tuple(found for found, *_ in said)), facts


def export_read(
    recipe: Recipe, folder: RunFolder, session: Session, made: Material, snapshot: Snapshot
) -> dict[str, str]:
    """Adapter and merged folder, or the whole model; export.json."""
    serving, facts = serving_of(session, made.renderer), {}
    with folder.doing("answers that each export must give"):
        expected = expect(session, snapshot, made.renderer, asked_of(made, NUM_CHECKED))
    name = "adapter" if recipe.adapt.is_adapter else "model"
    tuned = write_tuned(session, snapshot, serving, folder.path / name)
    with folder.doing(f"{name} opened by plain libraries and compared"):
        facts[name] = {"path": name, **compared(session, tuned, expected)}
    if recipe.adapt.is_adapter and "merged" in recipe.export:
        with folder.doing("adapter merged, opened by transformers and compared"):
            exact, measured = in_float32(session, tuned, expected)
            merged = merge(session, tuned, serving, expected, folder.path / "merged")
            found = verify("merged", exact.opened(merged, torch.float32), merged, exact)
            facts["merged"] = {"path": "merged", **found, **measured}
    folder.write("export.json", facts)
    return {"tuned": weights_digest(tuned)}


def merge(session: Session, adapter: Path, serving: Serving, expected: Expected, final: Path) -> Path:
    opened = open_read_adapter(session.base.located.folder, adapter, expected, torch.float32)
    if not session.base.scores:  # read where the base's own padding says
        pad_by(inner(opened), serving.tokenizer)
    return write_merged(opened, serving, final)


def export_once(session: Session, made: Material, final: Path, snapshot: Snapshot) -> None:
    """What a run will export, after one step, opened and compared on one text."""
    tuned = write_tuned(session, snapshot, serving_of(session, made.renderer), final)
    compared(session, tuned, expect(session, snapshot, made.renderer, asked_of(made, 1)))


def deliver_read(
    folder: Path, kind: str, out: Path | None, opened: Opened, cases: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """An adapter or a whole model of a run, made if it is not there, compared and copied to `out`. `cases`: (prompt,
    reference), on which it is compared."""
    if kind not in ("adapter", "merged"):
        base = opened.session.base
        what = "gives classes" if base.by_head else "gives scores" if base.scores else "tells hidden tokens"
        raise InputError(f"--to {kind} is for models that write; this one {what}: export --to merged or adapter")
    is_adapter, session, renderer = opened.recipe.adapt.is_adapter, opened.session, opened.renderer
    if kind == "adapter" and not is_adapter:
        raise PlanError("this run tuned weights of the model itself, so there is no adapter: export `--to merged`")
    snapshot = opened.who(TUNED)
    assert snapshot is not None
    source = folder / (kind if is_adapter else "model")
    texts = [prompt or reference for prompt, reference in cases]  # a plain text stands under what was wanted
    prompts = [opened.messages([Message("user", text)]) for text in texts]
    if session.base.scores:
        prompts = [(*p, Message("assistant", reference)) for p, (_, reference) in zip(prompts, cases, strict=True)]
    expected = expect(session, snapshot, renderer, prompts)
    if source.name == "merged" and broken_files(source):
        merge(session, folder / "adapter", serving_of(session, renderer), expected, source)
        card.write_model_card(folder, source)
    tuned = folder / ("adapter" if is_adapter else "model")
    found, measured = compared(session, tuned, expected), dict[str, Any]()
    if source != tuned:  # both as one model
        exact, measured = in_float32(session, tuned, expected)
        found = verify("merged", exact.opened(source, torch.float32), source, exact)
    facts = {"to": kind, "prompts": len(texts), "transformers": found, **measured}
    if out is None:
        return {**facts, "folder": str(source)}

    def fill(partial: Path) -> None:
        shutil.copytree(source, partial, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json", CHECKED))
        write_json(partial / CHECKED, facts)

    publish_folder(fill, out)
    return {**facts, "folder": str(out)}
