"""The audio of a file, read forwards: mono waveforms on the file's time axis."""

import math
from collections.abc import Iterator

import av
import numpy as np

from data_prep.decoding.containers import media_error
from data_prep.decoding.timed_frames import SKIP_SECS, TimedStream
from data_prep.reasons import DECODE_ERROR, MediaError

# Audio this far from where its samples, counted, would be is placed anew: a gap, or a
# clock that drifts. Less is a container's rounding.
_MISPLACED_SECS = 0.01
# Of FLAC in these, what is misplaced is wrong: FFmpeg passes over frames with damaged
# headers, and in ASF and WTV reads ahead of the time stamps that it gives.
_GAPLESS_FLAC_FORMATS = frozenset({"flac", "asf", "wtv"})
_LOWEST_HZ, _HIGHEST_HZ = 1000, 1_000_000


class AudioReader:
    """Reads segments of one audio stream; in order of their starts, each frame once.

    Attributes:
      widest: of the channels decoded by the last `read`, if there are several, the
        largest peak-to-peak amplitude within a frame.
    """

    def __init__(self, stream: TimedStream, sample_rate_hz: int):
        self._stream = stream
        self._rate_hz = sample_rate_hz
        self._is_gapless = (
            stream.stream.codec_context.name == "flac"
            and stream.container.format.name in _GAPLESS_FLAC_FORMATS
        )
        self._frames: Iterator | None = None
        self.widest = 0.0

    def read(
        self, start_secs: float, end_secs: float, *, pad: bool = True
    ) -> tuple[np.ndarray, float, MediaError | None]:
        """The waveform of [start_secs, end_secs), zero where there is no audio.

        Channels are averaged.

        Args:
          start_secs: of the segment.
          end_secs: of the segment.
          pad: whether the waveform goes on, as zeros, past the end of the audio.

        Returns:
          [samples] float32, nominally in [-1, 1]; the time in the file where the audio
          ended, infinite if it went on past end_secs; and what ended it before its
          time, or None.
        """
        first = round(start_secs * self._rate_hz)
        end = first + round((end_secs - start_secs) * self._rate_hz)
        self._go_to(first, start_secs)
        self._num_decoded, error = 0, None
        self.widest = 0.0
        try:
            while self._filled < end and self._decode():
                pass
        except (av.FFmpegError, OSError, MemoryError) as caught:
            error = media_error(caught, f"sound after {self._num_decoded} frames")
        except MediaError as refusal:
            error = refusal
        last = end
        if not pad:
            audio_end = math.ceil(self._audio_end_secs * self._rate_hz)
            last = min(end, max(first, self._filled, audio_end))
        waveform = np.zeros(last - first, np.float32)
        for position, samples in self._chunks:
            skipped = max(0, first - position)
            kept = samples[skipped : max(0, end - position)]
            at = position + skipped - first
            waveform[at : at + len(kept)] = kept
        self._chunks = [
            chunk for chunk in self._chunks if chunk[0] + len(chunk[1]) > end
        ]
        self._read_to = end
        went_on = self._filled >= end and error is None
        return waveform, math.inf if went_on else self._audio_end_secs, error

    def _go_to(self, first: int, start_secs: float) -> None:
        """Reads on, or jumps, to where the segment starts."""
        if self._frames:
            # Segments' ends may be rounded by a sample.
            ahead = first - self._read_to
            if -1 <= ahead < SKIP_SECS * self._rate_hz:
                return
        self._frames = self._stream.frames(start_secs)
        self._resampler, self._kind = None, None
        self._chunks: list[tuple[int, np.ndarray]] = []
        self._filled = first  # all samples before this number are there
        self._position = 0  # of the next sample that the resampler gives
        self._expected_secs = 0.0
        self._audio_end_secs = 0.0

    def _decode(self) -> bool:
        """Places the samples of one more frame; False at the end."""
        timed = next(self._frames, None)
        if timed is None:
            self._flush()
            return False
        self._num_decoded += 1
        secs, duration_secs, frame = timed
        if not _LOWEST_HZ <= frame.sample_rate <= _HIGHEST_HZ:
            # A damaged header; resampling from 1 Hz would not end.
            raise MediaError(DECODE_ERROR, f"sound of {frame.sample_rate} Hz")
        kind = frame.format.name, frame.layout.name, frame.sample_rate
        misplaced = abs(secs - self._expected_secs) > _MISPLACED_SECS
        if misplaced and self._kind and self._is_gapless:
            raise MediaError(
                DECODE_ERROR,
                f"sound after {self._num_decoded} frames: none from "
                f"{self._expected_secs:.2f} to {secs:.2f} s",
            )
        if kind != self._kind or misplaced:
            self._flush()
            # Channels stay: FFmpeg's mix to mono would exceed full scale.
            self._resampler = av.AudioResampler(format="fltp", rate=self._rate_hz)
            self._kind, self._expected_secs = kind, secs
            self._position = round(secs * self._rate_hz)
        self._expected_secs += duration_secs
        self._audio_end_secs = secs + duration_secs
        frame.pts = None
        self._place(self._resampler.resample(frame))
        return True

    def _flush(self) -> None:
        if self._resampler is not None:
            self._place(self._resampler.resample(None))
            self._resampler = self._kind = None

    def _place(self, frames) -> None:
        for frame in frames:
            channels = frame.to_ndarray()
            if len(channels) > 1:
                self.widest = max(self.widest, float(np.ptp(channels, axis=1).max()))
            samples = channels.mean(axis=0, dtype=np.float32)
            self._chunks.append((self._position, samples))
            self._position += len(samples)
            self._filled = max(self._filled, self._position)
