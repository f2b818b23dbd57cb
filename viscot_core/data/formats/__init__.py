"""Row formats that people train on: read as one kind of row, checked, converted."""
