"""Where made rows go, and what lies beside them while they are made and after."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import InputError


@dataclass(frozen=True, slots=True)
class Place:
    """`by`: what made the rows, as the file beside them is called."""

    out: Path
    by: str

    @property
    def kept(self) -> Path:
        return self.out.with_name(f"{self.out.name}.partial")

    @property
    def about(self) -> Path:
        return self.out.with_name(f"{self.out.name}.{self.by}.json")

    @property
    def ledger(self) -> Path:
        return self.out.with_name(f"{self.out.name}.left_out.jsonl")

    def check(self, *, resume: bool) -> None:
        """InputError where something would be overwritten, or paid for twice."""
        if self.out.suffix != ".jsonl":
            raise InputError(f"--out {self.out} is written as JSON lines: wanted a name that ends with .jsonl")
        if self.out.exists():
            raise InputError(f"--out {self.out} is there already: name another file, or move this one away")
        if self.kept.exists() and not resume:
            raise InputError(f"{self.kept} holds answers of a stopped command: add --resume to go on, or remove it")
        if self.about.exists() and not self.kept.exists():  # beside them it is of these very answers
            raise InputError(
                f"{self.about} says where rows came from that were moved: move it too, or name another --out"
            )
