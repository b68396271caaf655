"""A task is landed: its results become files and a receipt."""

import json
from dataclasses import dataclass

from pipeline.stages.messages import ExplainMessage
from pipeline.tables import receipts


@dataclass(frozen=True)
class Land:
    """An ExplainMessage -> files and a receipt below `out`; the failure of a task goes on as it is."""

    out: str

    def __call__(self, row: dict) -> dict:
        message = ExplainMessage.from_row(row)
        failure = message.failure
        if failure is None:
            try:
                return {"receipt": receipts.land(self.out, message.task.id, message.results, dict(message.facts)).to_json()}
            except Exception as error:  # a full disk, a store that stays away: the other tasks may still land
                failure = message.task.failure(error, "land")
        return {"receipt": json.dumps({"failure": failure})}
