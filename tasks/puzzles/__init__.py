"""reasoning-gym: its problems, how an answer may be written, and what it is worth."""
