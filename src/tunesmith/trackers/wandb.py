"""Weights & Biases: online where its user has said who they are (WANDB_API_KEY, netrc) or asked for it (WANDB_MODE);
otherwise offline, in files of the run's folder that `wandb sync` sends later."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from tunesmith.trackers.asked import PROJECT, Asked


def mode() -> str:
    said = os.environ.get("WANDB_MODE")
    if said:
        return said
    return "online" if os.environ.get("WANDB_API_KEY") or is_in_netrc() else "offline"


def is_in_netrc() -> bool:
    path = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    return path.is_file() and netrc.netrc(str(path)).authenticators(host or "") is not None


class WeightsAndBiases:
    def __init__(self, asked: Asked) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its own crash reports go to a third party
        import wandb

        chosen: Any = mode()
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=asked.name,
            dir=str(asked.folder),
            id=asked.run_id,
            resume="allow" if asked.run_id and chosen == "online" else None,
            config=dict(asked.settings),
            mode=chosen,
            settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
        )
        self.run.define_metric("*", step_metric="update")
        self.run_id = str(self.run.id)
        self.place = str(self.run.url) if chosen == "online" else f"offline: wandb sync {Path(self.run.dir).parent}"

    def log(self, update: int, facts: Mapping[str, float]) -> None:
        self.run.log({**facts, "update": update})

    def end(self, summary: Mapping[str, Any] | None) -> None:
        for name, value in (summary or {}).items():
            self.run.summary[f"verdict/{name}"] = value
        self.run.finish(exit_code=0 if summary is not None else 1)
