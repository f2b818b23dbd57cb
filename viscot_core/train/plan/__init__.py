"""What a recipe does on given machines: rows, steps, memory, hours, disk, and the problems that stop it."""
