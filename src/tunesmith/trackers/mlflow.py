"""MLflow: the server of MLFLOW_TRACKING_URI, or else a store of files under mlflow/ in the run's folder."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from tunesmith.trackers.asked import PROJECT, Asked

MOST_CHARS = 500  # of a parameter; older servers take no more


class MLflow:
    def __init__(self, asked: Asked) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        said = os.environ.get("MLFLOW_TRACKING_URI")
        if said is None:  # MLflow would rather have a database, which its small package does not bring along
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        uri = said or (asked.folder / "mlflow").resolve().as_uri()
        self.client, self.metric = MlflowClient(tracking_uri=uri), Metric
        if asked.run_id is None:
            project = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            known = self.client.get_experiment_by_name(project)
            where = known.experiment_id if known is not None else self.client.create_experiment(project)
            self.run_id = str(self.client.create_run(where, run_name=asked.name).info.run_id)
            params = [Param(name, str(value)[:MOST_CHARS]) for name, value in asked.flat().items()]
            self.client.log_batch(self.run_id, params=params)
        else:
            self.run_id = asked.run_id
            self.client.update_run(self.run_id, status="RUNNING")
        self.place = f"run {self.run_id} in {uri}"

    def log(self, update: int, facts: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        rows = [self.metric(name, float(value), now, update) for name, value in facts.items() if name != "update"]
        self.client.log_batch(self.run_id, metrics=rows)

    def end(self, summary: Mapping[str, Any] | None) -> None:
        for name, value in (summary or {}).items():
            if isinstance(value, (int, float)):
                self.client.log_metric(self.run_id, f"verdict/{name}", float(value))
            else:
                self.client.set_tag(self.run_id, f"verdict/{name}", str(value))
        self.client.set_terminated(self.run_id, status="FINISHED" if summary is not None else "KILLED")
