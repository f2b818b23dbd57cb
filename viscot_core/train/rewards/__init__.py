"""What an answered question earns: pure functions of what was said, seen and known."""
