"""What a run leaves to be used: its adapter and merged folder, or the whole model, each opened again and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tunesmith import class_export
from tunesmith.build import Compute, Material
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot
from tunesmith.errors import InputError
from tunesmith.evals import dialogues
from tunesmith.export.verify import expect, from_measured, in_float32, on_whole_base, verify
from tunesmith.export.vllm_rules import vllm_facts
from tunesmith.export.write import Serving, open_adapter, open_model, write_merged, write_tuned
from tunesmith.files import read_json
from tunesmith.folder import RunFolder
from tunesmith.generate.limits import Limits
from tunesmith.models.load import weights_digest
from tunesmith.recipe import Recipe
from tunesmith.report.facts import read_cases

ASKED, NUM_ASKED = "asked.json", 8  # where a run that measures nothing keeps held-out cases, and how many
NUM_CHECKED, NUM_CHECKED_TOKENS = 2, 32  # prompts, and tokens of each answer, on which an export is compared


def export(
    recipe: Recipe, folder: RunFolder, session: Session, made: Material, where: Compute, snapshot: Snapshot
) -> dict[str, str]:
    """Adapter and merged folder (or the whole model), each opened again by plain peft and transformers and compared."""
    if not session.base.writes:
        return class_export.export_read(recipe, folder, session, made, snapshot)
    stops = made.renderer.stop_ids
    serving = Serving(session.base.tokenizer, made.renderer.template, stops, made.max_new_tokens)
    prompts = [made.asked(made.forms[0], e) for e in made.split.test[:NUM_CHECKED]]
    with folder.doing("answers that each export must give"):
        expected = expect(session, snapshot, prompts, Limits(min(NUM_CHECKED_TOKENS, made.max_new_tokens), stops))
    origin = session.base.located.folder
    facts: dict[str, Any] = {}
    if not recipe.adapt.is_adapter:
        tuned = write_tuned(session, snapshot, serving, folder.path / "model")
        with folder.doing("model opened by transformers and compared"):
            facts["model"] = {"path": "model", **verify("model", open_model(tuned, where.dtype), expected)}
    else:
        tuned = write_tuned(session, snapshot, serving, folder.path / "adapter")
        with folder.doing("adapter opened by peft and compared"):
            opened = open_adapter(origin, tuned, where.dtype)
            found = verify("adapter", opened, expected) | on_whole_base(opened, expected)
            facts["adapter"] = {"path": "adapter", **found, "vllm": vllm_facts(tuned)}
        if "merged" in recipe.export:
            if where.dtype != torch.float32 or recipe.adapt.base_bits:
                del opened  # before the larger one comes
                opened = open_adapter(origin, tuned, torch.float32, to_merge=True)
            with folder.doing("adapter merged"):
                exact = in_float32(opened, expected)
                merged = write_merged(opened, serving, folder.path / "merged")
            del opened
            with folder.doing("merged model opened by transformers and compared"):
                found = verify("merged model", open_model(merged, torch.float32), exact)
            facts["merged"] = {"path": "merged", **found, **from_measured(exact, expected)}
    folder.write("export.json", facts)
    return {"tuned": weights_digest(tuned)}


def keep_asked(folder: RunFolder, made: Material) -> None:
    """The first held-out cases, on which later exports of a run without measured cases are compared."""
    cases = made.split.test[:NUM_ASKED]
    wanted = map(dialogues.transcript, made.references(cases))
    folder.write(ASKED, [["" if e.is_text else made.shown(e), w] for e, w in zip(cases, wanted)])


def first_cases(folder: Path, num: int) -> list[tuple[str, str]]:
    """(prompt, reference) of the first held-out cases of a run that was exported."""
    if (path := folder / ASKED).is_file():
        return [(prompt, reference) for prompt, reference in read_json(path)[:num]]
    cases = read_cases(folder / "scores" / "cases.parquet")
    if cases is None:
        raise InputError(f"{folder} is not exported yet: tunesmith run --resume --out {folder}")
    return [(case.prompt, case.reference) for case in cases[:num]]
