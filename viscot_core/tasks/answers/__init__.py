"""What a reply says: its final answer, read as a letter, as yes or no, or as words."""
