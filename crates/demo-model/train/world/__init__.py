"""The small world that the demo model knows: every sentence it is trained on is made here, from a seed."""
