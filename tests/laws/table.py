"""Prints families x layout with the largest differences to separate sequences: `python -m tests.laws.table`."""

from __future__ import annotations

import logging

from tests import tiny
from tests.laws.test_forest import broken, distances

from tunesmith.models.forward import probe


def main() -> None:
    logging.disable(logging.WARNING)
    print("| family | layout by the probe | hidden states | gradients | least that a mutant differs by (which) |")
    print("| --- | --- | --- | --- | --- |")
    for name, family in tiny.FAMILIES.items():
        found = probe(tiny.build(name))
        hidden, gradient = distances(name, found.layout)
        told = []
        for mutant in family.mutants if found.layout == "forest" else ():
            with broken(mutant):
                told.append((distances(name, "forest")[0], mutant))
        least = "-" if not told else "{:.0e} ({})".format(*min(told))
        print(f"| {name} | {found.layout} | {hidden:.1e} | {gradient:.1e} | {least} |")


if __name__ == "__main__":
    main()
