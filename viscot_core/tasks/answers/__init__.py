"""What a reply says: its final answer, read as a letter or as words."""
