"""Media files below a root, and the clips that annotations make of them.

Media are found by listing the tree below a root once, since data sets have millions of
rows. They are looked up by name without suffix, so that videos may be re-encoded.
"""

import os
from collections.abc import Iterable
from typing import NamedTuple

from data_prep.datasets.annotation_files import check_inside

# Of what FFmpeg opens; a file's content decides what it is.
VIDEO_SUFFIXES = (
    *(".3g2", ".3gp", ".amv", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif"),
    *(".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mj2", ".mkv", ".mod", ".mov", ".mp4"),
    *(".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".ogx"),
    *(".qt", ".rm", ".rmvb", ".tod", ".trp", ".ts", ".vob", ".webm", ".wmv", ".wtv"),
    ".y4m",
)
AUDIO_SUFFIXES = (
    *(".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".ape", ".au", ".caf", ".dts"),
    *(".eac3", ".flac", ".m4a", ".m4b", ".mka", ".mp2", ".mp3", ".mpa", ".oga", ".ogg"),
    *(".opus", ".ra", ".snd", ".spx", ".tta", ".voc", ".w64", ".wav", ".wave", ".weba"),
    *(".wma", ".wv"),
)


class Row(NamedTuple):
    """A file, or a segment of one."""

    file: str  # relative to the root
    start_secs: float | None  # None: from its start
    end_secs: float | None  # None: to its end
    labels: tuple[str, ...]  # in most data sets one; empty for none


class Missing(NamedTuple):
    """An annotated clip that is not below the root."""

    name: str  # what was looked for first, any media suffix would do
    labels: tuple[str, ...]


class Clips(NamedTuple):
    """A split of a data set."""

    rows: list[Row]  # in the order of the annotations
    missing: list[Missing]
    label_names: tuple[str, ...]  # of the whole data set, sorted
    several_labels: bool = False  # whether it is one of several labels per clip
    others: tuple[str, ...] = ()  # files of a folder that are no media by their names


class MediaTree(NamedTuple):
    """The media files below a root."""

    files_of_stem: dict[str, list[str]]  # relative paths by file name without suffix
    fold_case: bool  # whether the stems are case-folded


def list_media(root: str) -> list[str]:
    """The first of list_files: paths of media relative to the root, sorted.

    Raises:
        OSError: see list_files.
    """
    return list_files(root)[0]


def list_files(root: str) -> tuple[list[str], list[str]]:
    """Lists the files below a root; symbolic links are followed.

    Hidden files and folders are left out: among them are the `._NAME.wav` that macOS
    puts into archives.

    Returns:
        Paths relative to the root, sorted: video and audio files by their suffixes, and
        all others, with links to nothing.

    Raises:
        OSError: the root, or a folder below it, cannot be read.
    """
    media, others = [], []
    pending: list[tuple[str, tuple]] = [("", (_identity(root),))]
    while pending:
        prefix, ancestors = pending.pop()
        with os.scandir(os.path.join(root, prefix)) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    # A link to a folder that holds it would never end.
                    identity = _identity(entry.path)
                    if identity not in ancestors:
                        pending.append(
                            (f"{prefix}{entry.name}/", (*ancestors, identity))
                        )
                elif _is_media(entry.name) and entry.is_file():
                    media.append(prefix + entry.name)
                else:
                    others.append(prefix + entry.name)
    return sorted(media), sorted(others)


def index_media(root: str, *, fold_case: bool = False) -> MediaTree:
    """Lists a tree once, for look-ups by name.

    Args:
        root: see list_media.
        fold_case: whether upper and lower case are one.

    Raises:
        OSError: see list_media.
    """
    files_of_stem: dict[str, list[str]] = {}
    for file in list_media(root):
        stem = stem_of(file)
        if fold_case:
            stem = stem.casefold()
        if stem in files_of_stem:
            files_of_stem[stem].append(file)
        else:
            files_of_stem[stem] = [file]
    return MediaTree(files_of_stem, fold_case)


def find_file(
    tree: MediaTree, stem: str, *, folder: str = "", elsewhere: bool = True
) -> str | None:
    """Finds a file by its name.

    Args:
        tree: where.
        stem: name without suffix.
        folder: name of the folder that should hold it, at any depth; spaces and
            underscores in it are one, as are upper and lower case.
        elsewhere: whether another folder will do too.

    Returns:
        Path relative to the tree's root, None without a file. Of several, one in the
        folder, then a video rather than audio, then the first by path.
    """
    files = tree.files_of_stem.get(stem.casefold() if tree.fold_case else stem, ())
    if not elsewhere:
        files = [file for file in files if _lies_in(file, folder)]
    if len(files) < 2:
        return files[0] if files else None
    return min(files, key=lambda f: (not _lies_in(f, folder), _is_audio(f), f))


def find_path(
    tree: MediaTree, path: str, *, where: str, elsewhere: bool = True
) -> str | None:
    """Finds the file that an annotated path such as `audio/a001.wav` names.

    Args:
        tree: where.
        path: the annotated path; it may lie deeper in the tree and have another suffix.
        where: file and line of the annotation, for the message.
        elsewhere: whether a folder other than the path's will do.

    Raises:
        ValueError: the path leads out of the root.
    """
    check_inside(path, where=where)
    folder = os.path.basename(os.path.dirname(path))
    return find_file(tree, stem_of(path), folder=folder, elsewhere=elsewhere)


def find_youtube_clip(
    tree: MediaTree,
    video_id: str,
    *,
    cut_stems: Iterable[str],
    start_secs: float,
    end_secs: float,
    labels: tuple[str, ...],
    folder: str = "",
) -> Row | Missing:
    """Finds a segment of a video: a file of its own, or part of the whole video.

    Args:
        tree: where.
        video_id: file name, without suffix, of the whole video.
        cut_stems: file names, without suffix, of a file that holds just the segment.
        start_secs: of the segment in the whole video.
        end_secs: of the segment in the whole video.
        labels: of the segment.
        folder: preferred, see find_file.

    Returns:
        A row; with times only if it is the whole video that was found.
    """
    for stem in cut_stems:
        file = find_file(tree, stem, folder=folder)
        if file is not None:
            return Row(file, None, None, labels)
    file = find_file(tree, video_id, folder=folder)
    if file is not None:
        return Row(file, start_secs, end_secs, labels)
    return Missing(next(iter(cut_stems)), labels)


def row_or_missing(file: str | None, name: str, *, label: str) -> Row | Missing:
    """A whole file's row, or what is missing.

    Args:
        file: its path; None if it is missing.
        name: the name that was searched for.
        label: empty for none.
    """
    labels = (label,) if label else ()
    return Missing(name, labels) if file is None else Row(file, None, None, labels)


def collect(clips: Iterable[Row | Missing], label_names: Iterable[str]) -> Clips:
    """Puts rows and missing clips apart, in their order."""
    rows: list[Row] = []
    missing: list[Missing] = []
    for clip in clips:
        if isinstance(clip, Row):
            rows.append(clip)
        else:
            missing.append(clip)
    return Clips(rows, missing, tuple(sorted(set(label_names) - {""})))


def stem_of(path: str) -> str:
    """File name without folders and suffix."""
    return os.path.splitext(os.path.basename(path))[0]


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is_media(name: str) -> bool:
    return name.lower().endswith(VIDEO_SUFFIXES + AUDIO_SUFFIXES)


def _is_audio(name: str) -> bool:
    return name.lower().endswith(AUDIO_SUFFIXES)


def _lies_in(file: str, folder: str) -> bool:
    return _plain(os.path.basename(os.path.dirname(file))) == _plain(folder)


def _plain(folder: str) -> str:
    return folder.casefold().replace("_", " ")
