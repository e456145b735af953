"""Many reports in one file, each a line with what it differs in from its template.

A collection is a JSON object:

    {
    "collection_version": 1,
    "reports": [
    {"name": "xdc-seed0.json", "template": 0, "values": {"time": ..., "results": ...}},
    ...
    ],
    "templates": [
    {...},
    ...
    ]
    }

A template has the keys of all reports that name it, each with the value that most of
them have. A report's values replace those of its template, in objects by key and in
lists of objects item by item. So a report comes back with its keys in their order,
which is that of the tables' columns, and every number with all of its digits. Learning
curves are left out: most of a report of finetuning, and in no table.
"""

import collections
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from xdc_tf.evaluation import reports
from xdc_tf.runtime import files, json_files

COLLECTION_VERSION = 1
_CURVE = "learning_curve"
_COLLECTION: reports.Checks = {
    "reports": json_files.list_of(json_files.is_object),
    "templates": json_files.list_of(json_files.is_object),
}
_ENTRY: reports.Checks = {
    "name": json_files.is_text,
    "template": json_files.is_count,
    "values": json_files.is_object,
}


def write(path: str, reports_by_name: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes reports into one file, without their learning curves.

    Args:
      path: of the file; replaced if it exists.
      reports_by_name: as of reports.read; in the file they keep their order.

    Raises:
      OSError: if it cannot be written.
      ValueError: on values that are not finite; names the report, and nothing is
        written.
    """
    files.write_text(path, _to_text(reports_by_name))


def read(path: str) -> dict[str, dict[str, Any]]:
    """Reads the reports of a file, be it a collection or a report alone.

    Returns:
      Reports by path, in their order. The path of a collected one is the collection's,
      a slash and its name.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is neither, or damaged; names the file.
    """
    values = reports.load(path)
    if "collection_version" not in values:
        return {path: reports.check(values, path)}
    if values["collection_version"] != COLLECTION_VERSION:
        raise ValueError(
            f"{path} has collection_version "
            f"{ascii(values['collection_version'])[:80]}, this program reads "
            f"{COLLECTION_VERSION}; collect the reports again."
        )
    json_files.check(values, _COLLECTION, path)
    templates = values["templates"]
    sizes = [len(json.dumps(template)) for template in templates]
    num_bytes = 0
    reports_by_path: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(values["reports"]):
        where = f"{path}: reports[{number}]"
        json_files.check(entry, _ENTRY, where)
        template, report_path = entry["template"], os.path.join(path, entry["name"])
        if report_path in reports_by_path:
            raise ValueError(
                f"{where} has the name of another report, {entry['name'][:80]!a}."
            )
        if template >= len(templates):
            raise ValueError(
                f"{where} has template {template}, but there are {len(templates)}."
            )
        num_bytes += sizes[template]
        if num_bytes > json_files.MAX_BYTES:
            raise ValueError(
                f"{path} holds reports of more than {json_files.MAX_BYTES} bytes; "
                "collect fewer in a file."
            )
        report = _merge(templates[template], entry["values"], where)
        reports_by_path[report_path] = reports.check(report, where)
    return reports_by_path


def make_names(paths: Sequence[str]) -> list[str]:
    """Names of reports in a collection: their paths from the folder that all are in.

    Raises:
      ValueError: if a path is there twice.
    """
    absolute = [os.path.abspath(path) for path in paths]
    for path, count in collections.Counter(absolute).items():
        if count > 1:
            raise ValueError(
                f"{path} is given {count} times, and a collection has each report "
                "once; leave out the others."
            )
    folder = os.path.commonpath(list(map(os.path.dirname, absolute)))
    return [os.path.relpath(path, folder) for path in absolute]


def _to_text(reports_by_name: Mapping[str, Mapping[str, Any]]) -> str:
    """The file: a line for each report, and for each key of a template."""
    trimmed = {
        name: _without_curves(name, report) for name, report in reports_by_name.items()
    }
    alike: dict[str, list[Any]] = {}
    for report in trimmed.values():
        alike.setdefault(_compact(_shape(report)), []).append(report)
    templates = {shape: _make_template(alike[shape]) for shape in alike}
    number_of = {shape: number for number, shape in enumerate(templates)}
    lines = []
    for name, report in trimmed.items():
        shape = _compact(_shape(report))
        values = _difference(templates[shape], report)
        entry = {"name": name, "template": number_of[shape], "values": values}
        lines.append(_compact(entry))
    blocks = []
    for template in templates.values():
        keys = (f"{_compact(key)}: {_compact(template[key])}" for key in template)
        blocks.append("{" + ",\n".join(keys) + "}")
    return (
        f'{{\n"collection_version": {COLLECTION_VERSION},\n'
        f'"reports": [\n{_join(lines)}],\n"templates": [\n{_join(blocks)}]\n}}\n'
    )


def _join(items: Sequence[str]) -> str:
    return ",\n".join(items) + "\n" if items else ""


def _compact(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _without_curves(name: str, report: Mapping[str, Any]) -> dict[str, Any]:
    try:
        copied = json.loads(_compact(report))
    except ValueError as error:
        raise ValueError(
            f"{name} has a number that is not finite ({error}); evaluate again, or "
            "leave it out."
        ) from error
    for result in copied["results"]:
        for split in result["splits"]:
            if json_files.is_object(split.get("details")):
                split["details"].pop(_CURVE, None)
    return copied


def _is_list_of_objects(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and json_files.list_of(json_files.is_object)(value)
    )


def _shape(value: Any) -> Any:
    """What reports of one template have in common: keys, their order, and lengths."""
    if isinstance(value, dict):
        return [[key, _shape(inner)] for key, inner in value.items()]
    if _is_list_of_objects(value):
        return {"items": [_shape(item) for item in value]}
    return None


def _make_template(values: Sequence[Any]) -> Any:
    """The most frequent of values of one shape, key by key; the first of equals."""
    first = values[0]
    if isinstance(first, dict):
        return {key: _make_template([value[key] for value in values]) for key in first}
    if _is_list_of_objects(first):
        return [_make_template(items) for items in zip(*values, strict=True)]
    # As text, since 1, 1.0 and true are equal.
    ((text, _),) = collections.Counter(map(_compact, values)).most_common(1)
    return json.loads(text)


def _difference(template: Any, value: Any) -> Any:
    """What `_merge` needs to make the value of its template."""
    if isinstance(value, dict):
        return {
            key: _difference(template[key], inner)
            for key, inner in value.items()
            if _compact(inner) != _compact(template[key])
        }
    if _is_list_of_objects(value):
        return [_difference(*pair) for pair in zip(template, value, strict=True)]
    return value


def _merge(template: Any, values: Any, where: str) -> Any:
    """A report, or a part of it, of its template and what differs from that.

    Raises:
      ValueError: the two do not fit; names `where`.
    """
    if isinstance(template, dict):
        if not isinstance(values, dict) or not values.keys() <= template.keys():
            raise ValueError(
                f"{where} does not fit its template: {ascii(values)[:80]} is in place "
                f"of an object with keys among {ascii(list(template))[:80]}."
            )
        merged = {key: _merge(template[key], values[key], where) for key in values}
        return template | merged
    if _is_list_of_objects(template):
        if not isinstance(values, list) or len(values) != len(template):
            raise ValueError(
                f"{where} does not fit its template: {ascii(values)[:80]} is in place "
                f"of a list of {len(template)} objects."
            )
        pairs = zip(template, values, strict=True)
        return [_merge(item, change, where) for item, change in pairs]
    return values
