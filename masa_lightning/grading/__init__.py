"""Graders decide which completions are right; their worker processes and the sandbox for programs."""
