"""The parts of ``foreign_eye.py``."""
