"""What records hold: summaries, figures and audio of examples, and their faults."""
