"""Makes tickets.csv, the spreadsheet of the tutorial: `python examples/make_tickets.py`.

Messages to a shop that does not exist, from the same hand-written phrasings as the quickstart, and the department that
has what each is about. Whoever tunes on it should hold out products: a model that has only learned the names of some
products by heart then shows it.
"""

import csv
import json
from pathlib import Path

from tunesmith.data import shop

DEPARTMENTS = {
    "clothing": (
        "rain jacket, wool jumper, bathrobe, denim shirt, cardigan, winter coat, linen dress, hoodie, leather belt, "
        "sun hat, fleece vest, swimsuit, kimono"
    ),
    "kitchen": (
        "toaster, coffee grinder, food mixer, waffle maker, fridge, kettle, blender, rice cooker, teapot, frying pan, "
        "salad bowl, lunch box, bread bin, pepper mill, casserole"
    ),
    "furniture": "bookshelf, wine rack, stool, wall mirror, desk lamp, coat rack, bed frame, garden chair",
    "electronics": "hair dryer, vacuum cleaner, alarm clock, speaker, razor, baby monitor, printer, fan heater",
}
DEPARTMENT_OF = {product: name for name, products in DEPARTMENTS.items() for product in products.split(", ")}
UNCLEAR = ("wrong_item",)  # two products, one sent and one wanted
NUM_ROWS = 400


def rows() -> list[tuple[str, str, str, str]]:
    """(ticket, message, product, department)."""
    found: list[tuple[str, str, str, str]] = []
    for row in shop.inbox(seed=1):
        said = json.loads(row.completion)
        product = said["product"]
        if product in DEPARTMENT_OF and said["intent"] not in UNCLEAR and len(found) < NUM_ROWS:
            text = " ".join(row.prompt.split())
            found.append((f"T{len(found) + 1:04}", text, product, DEPARTMENT_OF[product]))
    return found


def write(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("ticket", "message", "product", "department"), *rows()])


if __name__ == "__main__":
    write(Path(__file__).with_name("tickets.csv"))
