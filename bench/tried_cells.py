"""What bench/tried.py runs: each method beside the plain run that it is held against."""

from __future__ import annotations

from dataclasses import dataclass

SMALL = (
    "train.rehearsal=false", "train.watch=0", "evals.guards=off", "evals.explain_cases=0", "evals.few_shot=0",
    "evals.max_dev_cases=30", "export=[adapter]",
)  # fmt: skip
SENTIMENT = ("--data", "{rows}/sentiment")
DECODER = ("--model", "smollm2-135m-instruct")
SHORT = (*SMALL, "precision=bfloat16", "train.max_updates=10", "train.update_tokens=1024", "evals.max_cases=150")
THRICE = (*SMALL, "evals.max_cases=300", "train.epochs=3", "train.update_tokens=512")


@dataclass(frozen=True, slots=True)
class Job:
    """`words`: of the command line; `{rows}`, `{out}`, `{encoder}` and `{masked}` stand for folders."""

    what: str
    words: tuple[str, ...]
    sets: tuple[str, ...]


JOBS = {
    "encoder": Job(
        "all-MiniLM-L6-v2 with a class head, 200 rows of hutto_sentiment (3 labels), 3 epochs of updates of 512 tokens",
        ("--model", "{encoder}", *SENTIMENT),
        THRICE,
    ),
    "several": Job(
        "the same encoder and rows, whose labels are the sentiment and where the text is from",
        ("--model", "{encoder}", "--data", "{rows}/several"),
        (*THRICE, "task.name=multilabel"),
    ),
    "masked": Job(
        "SPLADE-tiny (a BERT of 4.4 million weights with its masked-language head), 400 answers of medquad, 3 epochs",
        ("--model", "{masked}", "--data", "{rows}/plain"),
        (*SMALL, "task.name=pretrain", "train.epochs=3", "train.update_tokens=2048", "data.max_tokens=256"),
    ),
    "decoder": Job(
        "SmolLM2-135M-Instruct, the same rows, labels as text, 10 updates of 1,024 tokens, bfloat16",
        (*DECODER, *SENTIMENT),
        SHORT,
    ),
    "plays": Job(
        "SmolLM2-135M-Instruct, 60 pieces of tinyshakespeare of about 1,000 tokens, 16 of 270 held out, 16 updates of "
        "1,024 tokens, bfloat16; long texts as far as 20 seconds a model reached",
        (*DECODER, "--data", "{rows}/plays"),
        (
            *SMALL,
            "task.name=pretrain",
            "precision=bfloat16",
            "data.max_tokens=1024",
            "train.max_updates=16",
            "train.update_tokens=1024",
            "evals.guard_budget_s=20",
        ),
    ),
    "mixture": Job(
        "SmolLM2-135M-Instruct, these rows and sums (svamp_mawps) half and half, 10 updates of 1,024 tokens, bfloat16",
        DECODER,
        (*SHORT, "data.test_frac=0.2", "task.metric=exact_match", "task.instruction="),
    ),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """`method`: its row of docs/methods/index.md ("": what others are held against). `first`: a command that has to be
    done once before, which leaves `made`. `text`: ordinary text is read too, to see what was forgotten."""

    name: str
    method: str
    job: str
    against: str = ""
    sets: tuple[str, ...] = ()
    words: tuple[str, ...] = ()  # instead of the job's
    first: tuple[str, ...] = ()
    made: str = ""
    text: bool = False

    @property
    def folder(self) -> str:
        return self.name.replace(", ", "_").replace(" ", "_")

    @property
    def settings(self) -> tuple[str, ...]:
        """What tells one trial of a cell from another."""
        return (*(self.words or JOBS[self.job].words), *JOBS[self.job].sets, *self.sets)


def peft(name: str, *more: str) -> tuple[str, ...]:
    return ("adapt.method=peft", f"adapt.peft={name}", *more)


PROMPT = ("adapt.options={num_virtual_tokens: 20}", "train.lr=0.01")
TEACHER = "{out}/decoder_all_weights/model"  # another run's
NEW = ("models", "resize", "smollm2-135m-instruct", "--token", "@anonymous", "--token", "http://url_removed")
ASKED = "{text} Is this negative, neutral or positive?"
MIXED = (
    "data.sources=[{name: sentiment, files: ['{rows}/sentiment/train.jsonl'], weight: 1, "
    "templates: [{prompt: '" + ASKED + "', reply: '{label}'}]}, "
    "{name: sums, files: ['{rows}/sums.jsonl'], weight: 1, templates: [{prompt: '{question}', reply: '{final}'}]}]"
)


def settings(*sets: str) -> tuple[str, ...]:
    return tuple(word for one in sets for word in ("--set", one))


SEARCH = ("--try", "lr=1e-4..3e-3", "--try", "adapt.rank=8,32", "--trials", "4", "--out", "{out}/sweep")


def on_encoder(name: str, *sets: str, against: str = "encoder") -> Cell:
    return Cell(f"encoder, {name}", name, "encoder", against, sets)


def on_decoder(name: str, *sets: str, against: str = "decoder", text: bool = False) -> Cell:
    return Cell(f"decoder, {name}", name, "decoder", against, sets, text=text)


WHOLE, WHOLE_DECODER = "encoder, all weights", "decoder, all weights"
FULL = "adapt.method=full"
CELLS = {
    cell.name: cell
    for cell in (
        Cell("encoder", "LoRA", "encoder"),
        on_encoder("label smoothing", "objective.smoothing=0.1"),
        on_encoder("focal loss", "objective.focal=2"),
        on_encoder("supervised contrastive loss", "objective.contrastive=0.5"),
        on_encoder("EMA", "train.average.ema=0.9"),
        on_encoder("mean of the last updates", "train.average.last=10"),
        on_encoder("early stopping", "train.early_stop.patience=2"),
        on_encoder("dropout", "adapt.dropout=0.1"),
        on_encoder("R-Drop", "adapt.dropout=0.1", "regularise.rdrop=1", against="encoder, dropout"),
        on_encoder("DoRA", "adapt.dora=true"),
        on_encoder("rsLoRA", "adapt.rslora=true"),
        on_encoder("the last layers", "adapt.method=last_k", "adapt.last_k=2"),
        on_encoder("weights by name", "adapt.method=named", 'adapt.names=["*attention*"]'),
        on_encoder("all weights", FULL),
        on_encoder("Mixout", FULL, "regularise.mixout=0.5", against=WHOLE),
        on_encoder("L2-SP", FULL, "regularise.l2sp=0.01", against=WHOLE),
        on_encoder("gradual unfreezing", FULL, "train.unfreeze_groups=3", against=WHOLE),
        on_encoder("rates by depth", FULL, "train.by_depth=2.6", against=WHOLE),
        on_encoder("weight decay", FULL, "train.optim.weight_decay=0.1", against=WHOLE),
        Cell("masked, denoising", "denoising", "masked", sets=(FULL,)),
        Cell("encoder, several labels", "several labels", "several"),
        Cell("decoder", "LoRA", "decoder", text=True),
        on_decoder("IA3", "adapt.method=ia3"),
        on_decoder("QLoRA", "adapt.base_bits=4", text=True),
        on_decoder("prompt tuning", *peft("prompt_tuning", *PROMPT)),
        on_decoder("p-tuning", *peft("p_tuning", PROMPT[0], "train.lr=0.001")),
        on_decoder("prefix tuning", *peft("prefix_tuning", *PROMPT), "precision=float32"),
        on_decoder("other methods of peft", *peft("loha", "adapt.options={r: 8, alpha: 16}")),
        on_decoder("KL to the base", "regularise.kl=0.1", text=True),
        on_decoder("replay", "data.replay.files=['{rows}/general.jsonl']", "data.replay.share=0.3", text=True),
        on_decoder("WiSE-FT", "train.average.base_share=auto", text=True),
        on_decoder("NEFTune", "regularise.neftune=5"),
        on_decoder("all weights", FULL, text=True),
        on_decoder("distillation", f"objective.distil={{teacher: '{TEACHER}', share: 0.5}}"),
        on_decoder("EWC", FULL, "regularise.ewc=100", against=WHOLE_DECODER, text=True),
        Cell(
            "decoder, new tokens", "new tokens", "decoder", WHOLE_DECODER, (FULL,),
            words=("--model", "{out}/with_tokens", *SENTIMENT), first=(*NEW, "--out", "{out}/with_tokens"),
            made="with_tokens",
        ),
        Cell(
            "decoder, best of a sweep", "", "decoder", "decoder", words=("{out}/sweep/best.yaml",),
            first=("sweep", *DECODER, *SENTIMENT, *settings(*SHORT), *SEARCH), made="sweep/best.yaml",
        ),
        Cell(
            "plays, longer context", "longer context", "plays", sets=("adapt.context={tokens: 16384, method: linear}",)
        ),
        Cell("decoder, mixtures", "mixtures", "mixture", sets=(MIXED,)),
        *(
            Cell(f"encoder, {kind}", "schedule", "encoder", "encoder", (f"train.schedule.kind={kind}", *more))
            for kind, more in (
                ("slanted", ("train.schedule.warmup_frac=0.1",)),
                ("wsd", ()),
            )
        ),
    )
}  # fmt: skip
