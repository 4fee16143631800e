"""Takes a finished run elsewhere: opens it, writes one export, compares what was written, and only then keeps it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from tunesmith.class_export import NUM_CHECKED, deliver_read
from tunesmith.data.template import ChatTemplate
from tunesmith.errors import InputError, PlanError
from tunesmith.export.gguf_check import Asked, check_gguf
from tunesmith.export.gguf_file import About, refuse_family, write_gguf
from tunesmith.export.modelfile import ollama_template, write_modelfile
from tunesmith.export.verify import Expected, expect, from_measured, in_float32, on_whole_base, verify
from tunesmith.export.vllm_rules import vllm_facts
from tunesmith.export.vocabulary import vocabulary
from tunesmith.export.write import Serving, open_adapter, open_model, write_merged
from tunesmith.exported import first_cases
from tunesmith.files import broken_files, publish_folder, write_json
from tunesmith.folder import Teller
from tunesmith.models.context import extended
from tunesmith.opened import TUNED, Opened, open_run
from tunesmith.report import card
from tunesmith.room import check_disk
from tunesmith.types import Message

Kind = Literal["adapter", "merged", "gguf", "ollama"]
Quant = Literal["f32", "f16", "q8_0"]
QUANT_BYTES = {"f32": 4.0, "f16": 2.0, "q8_0": 1.07}  # of a weight in GGUF
NUM_ASKED, NUM_ASKED_TOKENS = 4, 48  # held-out cases, and tokens of each answer, on which an export is compared
CHECKED = "checked.json"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A run that is open, and what its tuned model answers to a few held-out cases."""

    folder: Path
    opened: Opened
    asked: Asked

    @property
    def serving(self) -> Serving:
        renderer, base = self.opened.renderer, self.opened.session.base
        return Serving(base.tokenizer, renderer.template, renderer.stop_ids, self.opened.served.max_new_tokens)

    def weights(self, kind: str) -> Path:
        """Where the run itself keeps its adapter or its whole model."""
        is_adapter = self.opened.recipe.adapt.is_adapter
        if kind == "adapter" and not is_adapter:
            raise PlanError("this run tuned weights of the model itself, so there is no adapter: export `--to merged`")
        return self.folder / (kind if is_adapter else "model")

    def exact(self) -> Expected:
        """What the tuned weights answer in float32, where the session computes in 16 bits: held against that first."""
        expected, base = self.asked.expected, self.opened.session.base
        if expected.dtype == torch.float32:
            return expected
        if not self.opened.recipe.adapt.is_adapter:
            check_whole(self, self.folder / "model")
            return in_float32(open_model(self.folder / "model", torch.float32), expected)
        origin, adapter = base.located.folder, self.folder / "adapter"
        verify("adapter", open_adapter(origin, adapter, expected.dtype), expected)
        return in_float32(open_adapter(origin, adapter, torch.float32, to_merge=True), expected)

    @property
    def name(self) -> str:
        return self.folder.resolve().name


def asked_of(opened: Opened, folder: Path) -> Asked:
    """The session's greedy answers to the first held-out cases."""
    conversations = [opened.messages([Message("user", prompt)]) for prompt, _ in first_cases(folder, NUM_ASKED)]
    limits = opened.limits(max_new_tokens=min(NUM_ASKED_TOKENS, opened.served.max_new_tokens))
    tuned = opened.who(TUNED)
    assert tuned is not None
    expected = expect(opened.session, tuned, [opened.renderer.prompt(c) for c in conversations], limits)
    template = ChatTemplate(opened.session.base.tokenizer, opened.session.base.layout)
    return Asked(
        expected,
        tuple([m.as_dict() for m in c] for c in conversations),
        tuple(template.render(c, is_prompt=True) for c in conversations),
        tuple(opened.renderer.text(c.tokens) for c in expected.completions),
    )


def deliver(folder: Path, kind: Kind, out: Path | None, quant: Quant, tell: Teller) -> dict[str, Any]:
    """Write the export, compared, into `out` (the run's own folder without it). Facts: folder, kind, comparisons."""
    if kind not in WAYS:
        raise InputError(f"--to {kind} is not known; wanted one of {', '.join(WAYS)}")
    final = out or folder / kind
    if out is not None and out.exists() and (out.is_file() or (any(out.iterdir()) and not (out / CHECKED).is_file())):
        raise InputError(f"--out {out} is taken by something that is no export; name a folder that is new")
    tell.stage(f"opening {folder}", None)
    opened = open_run(folder)
    if not opened.session.base.writes:
        return deliver_read(folder, kind, out, opened, first_cases(folder, NUM_CHECKED))
    if kind in ("gguf", "ollama"):
        refuse_family(extended(opened.session.base.model.config, opened.recipe.adapt.context))
    if kind != "adapter" and opened.recipe.adapt.is_prompt:
        raise PlanError("this run tuned a prompt or prefix, no part of the model's weights: export `--to adapter`")
    delivery = Delivery(folder, opened, asked_of(opened, folder))
    check_room(opened, final, kind, quant, has_merged=whole(folder / "merged"))
    tell.stage(f"writing and comparing: {kind}", None)
    facts: dict[str, Any] = {"to": kind, "prompts": len(delivery.asked.answers)}
    if out is None and kind in IN_PLACE and whole(there := delivery.weights(kind)):
        return {**facts, **IN_PLACE[kind](delivery, there), "folder": str(there)}

    def fill(partial: Path) -> None:
        facts.update(WAYS[kind](delivery, partial, quant))
        write_json(partial / CHECKED, facts)

    publish_folder(fill, final)
    return {**facts, "folder": str(final)}


def check_room(opened: Opened, final: Path, kind: Kind, quant: Quant, *, has_merged: bool) -> None:
    """PlanError where the disk has no room for the export, or the one for what is made only on the way."""
    size = opened.session.base.num_weights / 2**30
    if kind == "adapter":
        return
    check_disk(final, size * (4 if kind == "merged" else QUANT_BYTES[quant]), "name another folder with --out")
    if not has_merged and opened.recipe.adapt.is_adapter:
        scratch = Path(tempfile.gettempdir())
        check_disk(scratch, size * 4, "set TMPDIR to a folder with more")


def whole(folder: Path) -> bool:
    return folder.is_dir() and not broken_files(folder)


def copied(source: Path, partial: Path) -> None:
    shutil.copytree(source, partial, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json", CHECKED))


def adapter(delivery: Delivery, partial: Path, quant: Quant) -> dict[str, Any]:
    copied(delivery.weights("adapter"), partial)
    return check_adapter(delivery, partial)


def check_adapter(delivery: Delivery, folder: Path) -> dict[str, Any]:
    """The run's adapter, compared through plain peft and against vLLM's rules."""
    base = delivery.opened.session.base
    model, expected = open_adapter(base.located.folder, folder, base.model.dtype), delivery.asked.expected
    found = verify("adapter", model, expected) | on_whole_base(model, expected)
    return {"peft": found, "vllm": vllm_facts(folder)}


def merged(delivery: Delivery, partial: Path, quant: Quant) -> dict[str, Any]:
    with_weights(delivery, lambda source: copied(source, partial))
    card.write_model_card(delivery.folder, partial)
    return check_merged(delivery, partial)


def check_merged(delivery: Delivery, folder: Path) -> dict[str, Any]:
    """Base and adapter as one model, or the model that was tuned, compared through plain transformers."""
    if not delivery.opened.recipe.adapt.is_adapter:
        return {"transformers": check_whole(delivery, folder)}
    exact = delivery.exact()
    found = verify("merged model", open_model(folder, torch.float32), exact)
    return {"transformers": found, **from_measured(exact, delivery.asked.expected)}


def check_whole(delivery: Delivery, folder: Path) -> dict[str, Any]:
    """Weights of a model that was tuned itself, which are written in the precision of the run."""
    expected = delivery.asked.expected
    return verify("model", open_model(folder, expected.dtype), expected)


def with_weights(delivery: Delivery, use: Callable[[Path], None]) -> None:
    """Call `use` with a folder of whole weights: the run's own, or one that is made for as long as that takes."""
    if whole(delivery.weights("merged")):
        use(delivery.weights("merged"))
        return
    with tempfile.TemporaryDirectory(prefix="tunesmith_") as scratch:
        origin = delivery.opened.session.base.located.folder
        tuned = open_adapter(origin, delivery.weights("adapter"), torch.float32, to_merge=True)
        use(write_merged(tuned, delivery.serving, Path(scratch) / "merged"))


def gguf(delivery: Delivery, partial: Path, quant: Quant) -> dict[str, Any]:
    """One GGUF file, compared by its metadata, by transformers, and by llama.cpp where it is installed."""
    opened, base = delivery.opened, delivery.opened.session.base
    path = partial / f"{delivery.name}-{quant}.gguf"
    words = vocabulary(base.tokenizer, opened.renderer.stop_ids, base.model.config.get_text_config().vocab_size)
    template = opened.renderer.template
    about = About(delivery.name, base.located.base_model, base.located.licence)
    with_weights(delivery, lambda source: write_gguf(source, words, template, path, quant, about))
    exact = delivery.exact()
    answers = tuple(opened.renderer.text(c.tokens) for c in exact.completions)
    found = check_gguf(path, words, template, replace(delivery.asked, expected=exact, answers=answers), quant)
    (partial / "README.md").write_text(gguf_card(delivery, path.name), encoding="utf-8")
    return {"file": path.name, "quant": quant, **found, **from_measured(exact, delivery.asked.expected)}


def ollama(delivery: Delivery, partial: Path, quant: Quant) -> dict[str, Any]:
    """A GGUF file with its Modelfile, whose TEMPLATE was held against the chat template."""
    opened = delivery.opened
    tokenizer = opened.session.base.tokenizer
    chat = ChatTemplate(tokenizer, opened.session.base.layout)
    bos = tokenizer.bos_token_id
    adds = bos is not None and tokenizer("x")["input_ids"][:1] == [bos]
    template = ollama_template(
        lambda turns, is_prompt: chat.render(turns, is_prompt=is_prompt), str(tokenizer.bos_token) if adds else ""
    )
    facts = gguf(delivery, partial, quant)
    stops = [str(tokenizer.convert_ids_to_tokens(i)) for i in opened.renderer.stop_ids]
    instruction, context = opened.served.instruction, opened.session.base.context_tokens
    write_modelfile(partial / "Modelfile", facts["file"], template, instruction, stops, context)
    return {**facts, "modelfile": "template held against the chat template; not run: Ollama is not called"}


WAYS: dict[str, Callable[[Delivery, Path, Quant], dict[str, Any]]] = {
    "adapter": adapter,
    "merged": merged,
    "gguf": gguf,
    "ollama": ollama,
}
IN_PLACE: dict[str, Callable[[Delivery, Path], dict[str, Any]]] = {"adapter": check_adapter, "merged": check_merged}


def gguf_card(delivery: Delivery, file: str) -> str:
    """README.md of a folder with a GGUF file: where it comes from, how to run it, and the verdict of its run."""
    located = delivery.opened.session.base.located
    head = {"license": located.licence, "base_model": located.base_model, "library_name": "gguf", "tags": ["tunesmith"]}
    lines = ["---", *(f"{k}: {json.dumps(v)}" for k, v in head.items()), "---", "", f"# {delivery.name}", ""]
    lines += ["    " + f"llama-cli -m {file} -cnv --temp 0", ""]
    if delivery.opened.served.instruction:
        lines += ["It was tuned with this system message:", ""]
        lines += [f"    {line}" for line in delivery.opened.served.instruction.splitlines()] + [""]
    verdict = delivery.folder / "report.md"
    return "\n".join(lines) + (verdict.read_text(encoding="utf-8") if verdict.is_file() else "")
