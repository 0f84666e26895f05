"""Python scripts that nobody trusts, in a bubblewrap sandbox that is probed before it is used."""
