"""Lost pictures of MPEG-1 and MPEG-2 streams, by their temporal references.

FFmpeg predicts from the pictures that there are and shows what follows as if nothing
were wrong. Section numbers are those of ITU-T H.262 (02/2012).
"""

_PICTURE, _GROUP = 0x00, 0xB8
_INTRA, _BIDIRECTIONAL = 1, 3


class LossDetector:
    """Follows the temporal references of one stream's packets, in decoding order.

    Within a group, an I or P picture (an anchor) is followed by the B pictures that are
    shown before it and after the anchor before it; none of their numbers is left out.

    Attributes:
      saw_key: whether a group of pictures began.
    """

    def __init__(self) -> None:
        self.saw_key = False
        # Temporal references of the last two anchors of this group, and of the B
        # pictures since.
        self._before: int | None = None
        self._anchor: int | None = None
        self._between: set[int] = set()

    def misses_reference(self, packet: bytes) -> bool:
        """Whether a picture is missing between the packet before and this.

        B pictures count as well; those at a group's beginning and end do not, where
        recordings are cut.
        """
        is_missing = False
        at = packet.find(b"\0\0\1")
        while 0 <= at < len(packet) - 5:
            code = packet[at + 3]
            if code == _GROUP:
                self.saw_key = True
                self._before = self._anchor = None
                self._between.clear()
            elif code == _PICTURE:
                # temporal_reference, picture_coding_type (6.2.3).
                number = packet[at + 4] << 2 | packet[at + 5] >> 6
                kind = packet[at + 5] >> 3 & 7
                is_missing |= self._follow(number, kind)
            at = packet.find(b"\0\0\1", at + 3)
        return is_missing

    def _follow(self, number: int, kind: int) -> bool:
        if self._anchor is None:
            # Until the first group begins, numbers are counted from anywhere.
            if self.saw_key and kind != _BIDIRECTIONAL:
                self._anchor = number
            return False
        # Numbers have 10 bits.
        number = self._anchor + (number - self._anchor + 512) % 1024 - 512
        if kind == _BIDIRECTIONAL:
            self._between.add(number)
            return number > self._anchor
        if number == self._anchor:
            return False  # the second field
        if number < self._anchor and kind == _INTRA:
            # Numbered anew, without a group's head.
            self._before, self._anchor = None, number
            self._between.clear()
            return False
        is_missing = number < self._anchor
        if self._before is not None:
            due = range(self._before + 1, self._anchor)
            is_missing |= not self._between.issuperset(due)
        self._before, self._anchor = self._anchor, number
        self._between.clear()
        return is_missing
