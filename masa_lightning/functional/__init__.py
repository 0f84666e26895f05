"""Pure functions: torch and the standard library (grading also mpmath)."""
