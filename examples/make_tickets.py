"""Makes tickets.csv, the spreadsheet of the tutorial: `python examples/make_tickets.py`.

Messages to a shop that does not exist, from the same hand-written phrasings as the quickstart. `family` names the
phrasing that a message was made from, so that one phrasing never stands in training and in the test.
"""

import csv
import json
from pathlib import Path

from tunesmith.data import shop

TEAMS = {
    "delivery": ("delivery", "address", "missing", "wrong_item"),
    "payments": ("refund", "discount", "invoice"),
    "returns": ("exchange", "warranty", "damaged", "cancel"),
    "sales": ("question",),
}
TEAM_OF = {intent: team for team, intents in TEAMS.items() for intent in intents}
NUM_ROWS = 600


def rows() -> list[tuple[str, str, str, str]]:
    """(ticket, message, family, team)."""
    found = []
    for row in shop.inbox(seed=1):
        team = TEAM_OF.get(json.loads(row.completion)["intent"])
        if team and len(found) < NUM_ROWS:
            found.append((f"T{len(found) + 1:04}", " ".join(row.prompt.split()), row.group, team))
    return found


def write(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("ticket", "message", "family", "team"), *rows()])


if __name__ == "__main__":
    write(Path(__file__).with_name("tickets.csv"))
