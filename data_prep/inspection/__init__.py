"""What records hold: summaries, pictures and sounds of examples, and their faults."""
