"""The daemon's program: its composition root."""
