"""The programs of an MPEG transport stream: which streams are of one broadcast."""

from collections.abc import Iterator

from xdc_tf.runtime import files

# Tables come several times a second.
_READ_BYTES = 1 << 21
_SYNC = 0x47
# As stored; with a time before each packet, as cameras write; with a checksum after.
_PACKET_SIZES = (188, 192, 204)
_NUM_SYNCS = 5
_PROGRAMS_TABLE, _STREAMS_TABLE = 0, 2


def read_programs(path: str) -> list[frozenset[int]]:
    """The stream numbers (PIDs) of each program; empty if there are no tables."""
    with files.open_regular(path) as file:
        content = file.read(_READ_BYTES)
    pending: dict[int, bytes] = {}
    table_pids = {0}
    streams: dict[int, set[int]] = {}
    for packet in _packets(content):
        pid = (packet[1] & 0x1F) << 8 | packet[2]
        if pid not in table_pids:
            continue
        payload = packet[4:]
        if packet[3] & 0x20:  # padding or clocks first
            payload = payload[1 + payload[0] :]
        if packet[1] & 0x40 and payload:  # a table begins
            pending[pid] = payload[1 + payload[0] :]
        elif pid in pending:
            pending[pid] += payload
        table = pending.get(pid, b"")
        size = 3 + ((table[1] & 0x0F) << 8 | table[2]) if len(table) > 2 else 0
        if not 12 <= size <= len(table):
            continue
        if table[0] == _PROGRAMS_TABLE and pid == 0:
            for at in range(8, size - 7, 4):
                if table[at : at + 2] != b"\0\0":
                    table_pids.add(_pid(table, at + 2))
        elif table[0] == _STREAMS_TABLE:
            number = table[3] << 8 | table[4]
            at = 12 + ((table[10] & 0x0F) << 8 | table[11])
            while at + 5 <= size - 4:
                streams.setdefault(number, set()).add(_pid(table, at + 1))
                at += 5 + ((table[at + 3] & 0x0F) << 8 | table[at + 4])
    return [frozenset(pids) for pids in streams.values()]


def _pid(table: bytes, at: int) -> int:
    return (table[at] & 0x1F) << 8 | table[at + 1]


def _packets(content: bytes) -> Iterator[bytes]:
    """Packets of 188 bytes each, from the first place on where several follow."""
    for size in _PACKET_SIZES:
        for first in range(min(size, len(content))):
            syncs = content[first : first + _NUM_SYNCS * size : size]
            if len(syncs) and set(syncs) == {_SYNC}:
                for at in range(first, len(content) - 187, size):
                    if content[at] == _SYNC:
                        yield content[at : at + 188]
                return
