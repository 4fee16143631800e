"""Writes the rows of both examples: python examples/environments/make_rows.py FOLDER"""

import json
import random
import sys
from pathlib import Path

folder, rng = Path(sys.argv[1]), random.Random(0)
folder.mkdir(parents=True, exist_ok=True)
with (folder / "guess.jsonl").open("w") as file:
    for number in range(120):
        turn = {"role": "user", "content": f"Game {number}."}  # `reset` puts its own question in its place
        file.write(json.dumps({"messages": [turn], "secret": rng.randint(1, 8), "most": 8}) + "\n")
with (folder / "sums.jsonl").open("w") as file:
    for a, b in {(rng.randint(100, 999), rng.randint(100, 999)) for _ in range(240)}:
        turn = {"role": "user", "content": f"What is {a} + {b}?"}
        file.write(json.dumps({"messages": [turn], "answer": a + b}) + "\n")
