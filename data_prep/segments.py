"""Long recordings -> rows of a few seconds each."""

import csv
import functools
import io
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from data_prep import answers
from data_prep.answers import Form, Outcome, Packed, Value
from data_prep.decoding import containers, packets
from data_prep.decoding.containers import MISSING_END_SECS
from data_prep.manifest import ManifestRow, video_id
from data_prep.reasons import MediaError
from data_prep.remote_files import local_copy
from data_prep.worker_processes import PoolSettings, map_groups

_COLUMNS = ("row", "start_secs", "end_secs")
# Of one file. One that declares more declares anything.
_MOST_SEGMENTS = 1_000_000


class Segmentation(NamedTuple):
    """How recordings are cut.

    Attributes:
      segment_secs: length of a segment; None to leave rows whole.
      max_segments: of a row of the manifest, evenly spread over it; None for all.
    """

    segment_secs: float | None = None
    max_segments: int | None = None


def validate(segmentation: Segmentation, min_secs: float, max_secs: float) -> None:
    """Checks a segmentation.

    Raises:
      ValueError: names the setting, its value and the remedy.
    """
    secs, most = segmentation
    if most is not None and (secs is None or most < 1):
        raise ValueError(
            f"max_segments={most} must be 1 or more, and needs segment_secs."
        )
    if secs is not None and not max(min_secs, 1e-3) <= secs <= max_secs:
        raise ValueError(
            f"segment_secs={secs:g} must be from min_secs={min_secs:g} to "
            f"max_secs={max_secs:g}."
        )


def cut_rows(
    rows: Sequence[ManifestRow],
    segmentation: Segmentation,
    *,
    min_secs: float,
    max_file_mib: float,
    pool: PoolSettings,
    map_groups: Callable[..., Generator[Outcome, None, None]] = map_groups,
) -> Generator[list[ManifestRow], None, None]:
    """Cuts rows by the lengths that their files declare.

    The last segment may be shorter, down to min_secs; what is less belongs to none. Of
    a file that ends before, the first segment that it does not fill is the last: its
    conversion says so. A row whose length is not known stays whole, for the same.

    Yields:
      For each row its segments, numbered through from 0.
    """
    measure = functools.partial(measure_length, limit_bytes=int(max_file_mib * 2**20))
    lengths = map_groups(
        measure,
        [[row] for row in rows],
        form=LENGTH_FORM,
        pool=pool,
    )
    number = 0
    for row, outcome in zip(rows, lengths, strict=True):
        pieces = []
        if outcome.result is not None:
            declared_secs, last_secs = outcome.result
            end_secs = min(declared_secs, row.end_secs or math.inf)
            if segmentation.max_segments is not None:
                # Spread over what there is, not over what is declared.
                end_secs = min(end_secs, last_secs)
            pieces = cut(row.start_secs, end_secs, segmentation, min_secs)
            pieces = _up_to(pieces, last_secs)
        pieces = pieces or [(row.start_secs, row.end_secs)]
        yield [make_segment(row, number + k, *piece) for k, piece in enumerate(pieces)]
        number += len(pieces)


def cut(
    start_secs: float, end_secs: float, segmentation: Segmentation, min_secs: float
) -> list[tuple[float, float]]:
    """Starts and ends of the segments of a stretch; see Segmentation.

    None at all if nothing is left of it, or so much that the file cannot be right.
    """
    secs, most = segmentation
    # Not less than a microsecond, in which times are kept.
    whole = max(0, math.floor((end_secs - start_secs) / secs + 1e-6))
    rest_secs = end_secs - (start_secs + whole * secs)
    number = whole + (rest_secs >= max(min_secs, 1e-3))
    chosen: Iterable[int] = range(number)
    if most is not None and number > most:
        # The middles of as many equal parts.
        chosen = (int((k + 0.5) * number / most) for k in range(most))
    elif number > _MOST_SEGMENTS:
        return []
    return [
        (
            round(start_secs + k * secs, 6),
            round(end_secs if k == whole else start_secs + k * secs + secs, 6),
        )
        for k in chosen
    ]


def make_segment(
    row: ManifestRow, number: int, start_secs: float, end_secs: float | None
) -> ManifestRow:
    """A segment of a row, as a row of its own."""
    whole = (start_secs, end_secs) == (row.start_secs, row.end_secs)
    return row._replace(
        example_index=number,
        start_secs=start_secs,
        end_secs=end_secs,
        video_id=row.video_id if whole else video_id(row.path, start_secs, end_secs),
    )


def write_cuts(cuts: Sequence[Sequence[ManifestRow]]) -> str:
    """Segments as CSV text: number of the manifest's row, start, end."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for number, segments in enumerate(cuts):
        writer.writerows(
            (number, segment.start_secs, segment.end_secs) for segment in segments
        )
    return text.getvalue()


def read_cuts(text: str, rows: Sequence[ManifestRow]) -> list[ManifestRow]:
    """The segments that write_cuts has written."""
    return [
        make_segment(
            rows[int(values["row"])],
            number,
            float(values["start_secs"]),
            float(values["end_secs"]) if values["end_secs"] else None,
        )
        for number, values in enumerate(csv.DictReader(io.StringIO(text, newline="")))
    ]


def _up_to(
    pieces: Sequence[tuple[float, float]], last_secs: float
) -> Sequence[tuple[float, float]]:
    """Segments in order, to the first that a file which ends there does not fill."""
    for number, (_, end_secs) in enumerate(pieces, start=1):
        # Less is not taken for missing.
        if end_secs > last_secs + MISSING_END_SECS:
            return pieces[:number]
    return pieces


class _Length(NamedTuple):
    """Where a file ends as it declares, or else by its packets, which may end before.

    Attributes:
      declared_secs: the end.
      last_secs: where the last packet ends, if that is before; or infinite.
    """

    declared_secs: float
    last_secs: float


def measure_length(rows: Sequence[ManifestRow], limit_bytes: int) -> Iterator[Outcome]:
    """The _Length of each row's file."""
    for row in rows:
        try:
            with local_copy(row.file, limit_bytes=limit_bytes) as path:
                containers.check_file(path, limit_bytes=limit_bytes)
                yield Outcome(_length(path))
        except MediaError as error:
            yield Outcome(reason=error.reason, detail=error.detail)


def _length(path: str) -> _Length:
    with containers.open_media(path) as container:
        streams = containers.choose_streams(container, path)
        origin_secs = containers.origin_secs(container, streams)
        declared_secs = containers.declared_secs(container, origin_secs)
        is_steady = containers.has_steady_clock(container, streams)
    if declared_secs and is_steady:
        due_secs = containers.due_secs(declared_secs)
        if packets.end_before(path, due_secs) is None:
            return _Length(declared_secs, math.inf)
    survey = packets.survey(path)
    if survey.error and not declared_secs:
        raise MediaError(survey.error.reason, survey.error.detail)
    end_secs = survey.end_secs()
    if (
        survey.joints
        or not declared_secs
        or containers.due_secs(end_secs) > declared_secs
    ):
        return _Length(end_secs, math.inf)
    end = packets.file_end(path, end_secs, declared_secs)
    if end.secs >= containers.due_secs(end.declared_secs):
        return _Length(end.declared_secs, math.inf)
    return _Length(end.declared_secs, end.secs)


def _pack(length: _Length) -> Packed:
    values = length._asdict()
    if length.last_secs == math.inf:
        values["last_secs"] = None
    return Packed(values)


def _unpack(values: Mapping[str, Value], data: memoryview) -> _Length:
    answers.check_keys(values, *_Length._fields)
    if len(data):
        raise ValueError("data that were not asked for")
    declared_secs = answers.finite_number(values, "declared_secs")
    if values["last_secs"] is None:
        return _Length(declared_secs, math.inf)
    return _Length(declared_secs, answers.finite_number(values, "last_secs"))


LENGTH_FORM = Form(_pack, _unpack)  # of the results of measure_length
