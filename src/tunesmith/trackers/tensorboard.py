"""TensorBoard: event files under tensorboard/ in the run's folder. Nothing leaves this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tunesmith.trackers.asked import Asked


class TensorBoard:
    def __init__(self, asked: Asked) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = asked.folder / "tensorboard"
        self.run_id = asked.name
        self.place = f"tensorboard --logdir {folder}"
        self.open = SummaryWriter
        self.folder = str(folder)
        self.purges = asked.run_id is not None  # the updates after the checkpoint are made again
        self.settings = json.dumps(asked.settings, indent=1, default=str)
        self.writer: Any = None if self.purges else self.opened(None)

    def opened(self, purge_from: int | None) -> Any:
        writer = self.open(self.folder, purge_step=purge_from, flush_secs=10)
        if purge_from is None:
            writer.add_text("settings", f"```\n{self.settings}\n```")
        return writer

    def log(self, update: int, facts: Mapping[str, float]) -> None:
        if self.writer is None:
            self.writer = self.opened(update)
        for name, value in facts.items():
            if name != "update":
                self.writer.add_scalar(name, value, update)

    def end(self, summary: Mapping[str, Any] | None) -> None:
        if self.writer is None:
            return
        for name, value in (summary or {}).items():
            if isinstance(value, (int, float)):
                self.writer.add_scalar(f"verdict/{name}", value)
            else:
                self.writer.add_text(f"verdict/{name}", str(value))
        self.writer.close()
