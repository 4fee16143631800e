"""What was learned of this run's memory, kept in its folder: sizes.json. A resume makes the same pieces.

Where the system kills a process for its memory, nothing can be caught. Then the next start sees that the last process
ended without a word (working.json is there), and asks the system's own count of such kills. A plain kill leaves the
count as it was, and the run goes on unchanged, unless the same place kills it twice.
"""

from __future__ import annotations

from tunesmith.deaths import killed_for_memory
from tunesmith.engine.cuts import Cuts
from tunesmith.folder import RunFolder
from tunesmith.recipe import Recipe

NAME = "sizes.json"


def kept_sizes(recipe: Recipe, folder: RunFolder) -> Cuts:
    """The cuts of this run so far, halved where the last process was killed for its memory. What is added is kept."""
    kept = folder.read(NAME) or {}
    cuts = Cuts([(int(u), int(t)) for u, t in kept.get("tokens", [])], kept.get("rows"), kept.get("scored_tokens"))
    said = list(kept.get("said", []))
    deaths = [tuple(d) for d in kept.get("deaths", [])]

    def write() -> None:
        sizes = {"tokens": cuts.tokens, "rows": cuts.rows, "scored_tokens": cuts.scored_tokens}
        folder.write(NAME, {**sizes, "said": said, "deaths": deaths})

    def keep(what: str) -> None:
        folder.tell.say(what)
        said.append(what)
        write()

    cuts.changed = keep
    if folder.died is not None:
        place = (str(folder.died["stage"]), last_update(folder) + 1)
        is_again = bool(deaths) and deaths[-1] == place
        deaths.append(place)
        is_short = killed_for_memory(folder.died)
        if is_short or is_again:
            why = "the system killed the last process for its memory" if is_short else "two processes in a row ended"
            halve(recipe, folder, cuts, place, why)
        else:
            folder.tell.say(
                f"the last process was killed ({place[0]}, update {place[1]}), and not for its memory as far as the "
                "system tells: going on as before"
            )
            write()
    return cuts


def halve(recipe: Recipe, folder: RunFolder, cuts: Cuts, place: tuple[str, int], why: str) -> None:
    """Half of all that is done at once: training answers and scores too, and where a label is asked for nothing else
    is done. Micro-batches of updates that were made stay as they were."""
    stage, update = place
    cuts.rows = max(1, (cuts.rows or recipe.evals.rows) // 2)
    cuts.scored_tokens = max(1, (cuts.scored_tokens or recipe.train.micro) // 2)
    now = f"{cuts.rows} answers are written side by side and at most {cuts.scored_tokens} tokens scored at once"
    if stage in ("prepare", "rehearsal", "train"):
        planned = folder.read("plan.json")  # there is none yet where speeds were measured
        largest = recipe.train.micro if planned is None else planned["feed"]["update_tokens_max"]
        most = max(1, (cuts.most(update) or min(recipe.train.micro, largest)) // 2)
        cuts.tokens.append((update if stage == "train" else 0, most))
        now = f"micro-batches have at most {most} tokens, {now}"
    cuts.changed(f"{why} ({stage}, update {update}): from there on {now}")


def last_update(folder: RunFolder) -> int:
    return max((r["update"] for r in folder.metrics()), default=0)
