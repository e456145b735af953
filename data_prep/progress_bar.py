"""How far a conversion is."""

import sys
from collections.abc import Callable, Sequence

from tqdm import tqdm

from data_prep.answers import Outcome
from data_prep.shards import ShardReport

# Between lines where there is no terminal.
_LINE_SECS = 60.0


class Progress:
    """A bar with rate, time left and number of refusals; lines without a terminal.

    As a context, it gives the function that takes the outcome of each row.

    Args:
      total: rows.
      unit: what a row is called.
      done: reports of shards that are there already.
    """

    def __init__(self, total: int, unit: str, done: Sequence[ShardReport]):
        interval_secs = 0.2 if sys.stderr.isatty() else _LINE_SECS
        self._bar = tqdm(
            total=total,
            unit=unit,
            initial=sum(len(r.examples) + len(r.refused) for r in done),
            mininterval=interval_secs,
            delay=0 if sys.stderr.isatty() else interval_secs,
        )
        self._num_refused = sum(len(report.refused) for report in done)

    def __enter__(self) -> Callable[[Outcome], None]:
        self._bar.set_postfix(quarantined=self._num_refused, refresh=False)
        return self._tell

    def _tell(self, outcome: Outcome) -> None:
        if outcome.result is None:
            self._num_refused += 1
            self._bar.set_postfix(quarantined=self._num_refused, refresh=False)
        self._bar.update()

    def __exit__(self, *_) -> None:
        self._bar.close()
