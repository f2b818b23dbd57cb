"""Large synthetic images whose questions take two or three looks."""
