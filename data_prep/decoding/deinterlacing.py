"""Interlaced frames -> whole ones."""

from collections.abc import Iterator

import av
from av.filter import Graph


def progressive(frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """Frames as they are; from the first interlaced one on, those become whole ones."""
    graph, kind = None, None
    for frame in frames:
        if graph is None and not frame.interlaced_frame:
            yield frame
            continue
        if kind != (frame.width, frame.height, frame.format.name):
            if graph is not None:
                yield from _pull(graph, last=True)
            kind = frame.width, frame.height, frame.format.name
            graph = _deinterlacer(frame)
        if frame.pts is None:
            frame.pts = frame.dts
        graph.push(frame)
        yield from _pull(graph)
    if graph is not None:
        yield from _pull(graph, last=True)


def _deinterlacer(frame: av.VideoFrame) -> Graph:
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base,
    )
    # One frame for each; those that are whole pass.
    bwdif = graph.add("bwdif", "mode=send_frame:deint=interlaced")
    graph.link_nodes(source, bwdif, graph.add("buffersink")).configure()
    return graph


def _pull(graph: Graph, *, last: bool = False) -> Iterator[av.VideoFrame]:
    if last:
        graph.push(None)
    while True:
        try:
            yield graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
