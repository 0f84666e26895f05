"""Reward functions: their names, what they ask for, how they are called, and two that are ready made."""
