"""The laboratory that made book/results; no reader needs it to follow an answer."""
