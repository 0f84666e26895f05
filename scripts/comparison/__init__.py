"""What `scripts/compare.py` is made of: arms, their runs, figures of runs, pictures, and the page."""
