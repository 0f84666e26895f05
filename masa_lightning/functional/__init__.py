"""Pure functions: torch and the standard library (grading may also use a maths checker)."""
