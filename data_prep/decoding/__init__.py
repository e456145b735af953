"""Media files -> frames and waveforms on one time axis."""
