"""Grading a program by running it: what runs in the sandboxes, one for the program and one for its tests."""
