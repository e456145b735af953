"""Lost pictures of H.264 streams, by the numbers of their frames.

FFmpeg replaces a missing reference by its neighbour and shows what follows as if
nothing were wrong. Section numbers are those of ITU-T H.264 (08/2021).
"""

from collections.abc import Iterator
from typing import NamedTuple

_SLICE, _KEY_SLICE, _PARAMETERS, _PICTURE_PARAMETERS = 1, 5, 7, 8
# Profiles whose sequence parameters say more of the colours (7.3.2.1.1).
_PROFILES_WITH_FORMAT = frozenset(
    (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
)
# Of a slice, more is not needed for the number of its frame.
_MOST_HEAD_BYTES = 64


class _Numbering(NamedTuple):
    """How a sequence numbers its frames.

    Attributes:
      num_bits: of a frame's number.
      has_planes: whether slices name their colour plane.
      may_skip: whether numbers may be left out (gaps_in_frame_num_allowed_flag).
      has_fields: whether slices say if they are of a field.
    """

    num_bits: int
    has_planes: bool
    may_skip: bool
    has_fields: bool


class LossDetector:
    """Follows the frame numbers of one stream's packets, in decoding order.

    Attributes:
      saw_key: whether there was a frame that needs none before it.
    """

    def __init__(self, extradata: bytes | None):
        """Takes what the container says of the stream: avcC, Annex B, or nothing."""
        self._sequences: dict[int, _Numbering] = {}
        self._sequence_of_picture: dict[int, int] = {}
        self._length_bytes = 0  # of a unit's length; 0 for start codes
        # Number of the last reference frame, and which field came last, if one did.
        self._last: int | None = None
        self._last_field: int | None = None
        self.saw_key = False
        extradata = bytes(extradata or b"")
        if len(extradata) > 6 and extradata[0] == 1:
            self._length_bytes = (extradata[4] & 3) + 1
            for unit in _units_of_avcc(extradata):
                self._read_parameters(unit)
        else:
            for unit in _units_by_start_codes(extradata):
                self._read_parameters(unit)

    def misses_reference(self, packet: bytes) -> bool:
        """Whether a reference frame is missing between the packet before and this.

        What cannot be read counts as complete: the decoder reports damage itself.
        """
        units = (
            _units_by_lengths(packet, self._length_bytes)
            if self._length_bytes
            else _units_by_start_codes(packet)
        )
        is_missing, is_first = False, True
        for unit in units:
            kind = unit[0] & 31
            if kind in (_PARAMETERS, _PICTURE_PARAMETERS):
                self._read_parameters(unit)
            elif kind in (_SLICE, _KEY_SLICE):
                try:
                    number, field, sequence = self._read_slice(unit)
                except (EOFError, KeyError):
                    self._last = None
                    continue
                if is_first and kind != _KEY_SLICE and not sequence.may_skip:
                    is_missing = self._is_out_of_order(number, field, sequence)
                is_first = False
                self.saw_key |= kind == _KEY_SLICE
                if unit[0] >> 5 & 3:  # nal_ref_idc: a reference
                    self._last, self._last_field = number, field
        return is_missing

    def _is_out_of_order(
        self, number: int, field: int | None, sequence: _Numbering
    ) -> bool:
        """Whether a picture cannot be the one after the last reference (7.4.3)."""
        if self._last is None:
            return False
        if number == (self._last + 1) % (1 << sequence.num_bits):
            return False
        is_second_field = None not in (field, self._last_field) and (
            field != self._last_field
        )
        return not (number == self._last and is_second_field)

    def _read_slice(self, unit: bytes) -> tuple[int, int | None, _Numbering]:
        """Number, and 0 or 1 for a field, and what the sequence says (7.3.3)."""
        bits = _Bits(unit[1:_MOST_HEAD_BYTES])
        bits.exponential()  # first_mb_in_slice
        bits.exponential()  # slice_type
        sequence = self._sequences[self._sequence_of_picture[bits.exponential()]]
        if sequence.has_planes:
            bits.read(2)
        number, field = bits.read(sequence.num_bits), None
        if sequence.has_fields and bits.read(1):
            field = bits.read(1)
        return number, field, sequence

    def _read_parameters(self, unit: bytes) -> None:
        try:
            if unit[0] & 31 == _PARAMETERS:
                number, numbering = _read_sequence(unit)
                self._sequences[number] = numbering
            elif unit[0] & 31 == _PICTURE_PARAMETERS:
                bits = _Bits(unit[1:_MOST_HEAD_BYTES])
                picture = bits.exponential()
                self._sequence_of_picture[picture] = bits.exponential()
        except (EOFError, IndexError):
            pass  # damage, which the decoder reports


def _read_sequence(unit: bytes) -> tuple[int, _Numbering]:
    """Number and numbering of sequence parameters (7.3.2.1.1)."""
    profile = unit[1]
    bits = _Bits(unit[4:])
    number = bits.exponential()
    has_planes = False
    if profile in _PROFILES_WITH_FORMAT:
        chroma = bits.exponential()
        if chroma == 3:
            has_planes = bool(bits.read(1))
        bits.exponential()  # bit_depth_luma_minus8
        bits.exponential()  # bit_depth_chroma_minus8
        bits.read(1)  # qpprime_y_zero_transform_bypass_flag
        if bits.read(1):  # seq_scaling_matrix_present_flag
            for size in [16] * 6 + [64] * (2 if chroma != 3 else 6):
                if bits.read(1):
                    _pass_over_scaling_list(bits, size)
    num_bits = bits.exponential() + 4
    order = bits.exponential()  # pic_order_cnt_type
    if order == 0:
        bits.exponential()
    elif order == 1:
        bits.read(1)
        bits.exponential()
        bits.exponential()
        for _ in range(min(bits.exponential(), 255)):
            bits.exponential()
    bits.exponential()  # max_num_ref_frames
    may_skip = bool(bits.read(1))
    bits.exponential()  # pic_width_in_mbs_minus1
    bits.exponential()  # pic_height_in_map_units_minus1
    has_fields = not bits.read(1)
    return number, _Numbering(min(num_bits, 16), has_planes, may_skip, has_fields)


def _pass_over_scaling_list(bits: "_Bits", size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed_exponential()) % 256
        last = following or last


class _Bits:
    """Reads bits of a unit, most significant first, without its emulation bytes."""

    def __init__(self, data: bytes):
        data = data.replace(b"\0\0\3", b"\0\0")
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def read(self, count: int) -> int:
        if count > self._left:
            raise EOFError
        self._left -= count
        return self._value >> self._left & ((1 << count) - 1)

    def exponential(self) -> int:
        """An unsigned Exp-Golomb number, ue(v)."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)

    def signed_exponential(self) -> int:
        """A signed Exp-Golomb number, se(v)."""
        value = self.exponential()
        return (value + 1) // 2 if value % 2 else -(value // 2)


def _units_of_avcc(extradata: bytes) -> Iterator[bytes]:
    """The parameter sets of an AVCDecoderConfigurationRecord (ISO/IEC 14496-15)."""
    at = 5
    for mask in (31, 255):
        if at >= len(extradata):
            return
        count = extradata[at] & mask
        at += 1
        for _ in range(count):
            size = int.from_bytes(extradata[at : at + 2], "big")
            if unit := extradata[at + 2 : at + 2 + size]:
                yield unit
            at += 2 + size


def _units_by_lengths(data: bytes, length_bytes: int) -> Iterator[bytes]:
    at = 0
    while at + length_bytes < len(data):
        size = int.from_bytes(data[at : at + length_bytes], "big")
        at += length_bytes
        if unit := data[at : at + size]:
            yield unit
        at += size


def _units_by_start_codes(data: bytes) -> Iterator[bytes]:
    starts = []
    at = data.find(b"\0\0\1")
    while at >= 0:
        starts.append(at)
        at = data.find(b"\0\0\1", at + 3)
    for start, end in zip(starts, [*starts, len(data)][1:], strict=True):
        if unit := data[start + 3 : end]:
            yield unit
