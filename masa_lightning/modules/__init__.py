"""The training loops, and the worker processes that grade for them."""
