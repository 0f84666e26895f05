"""Datamodules: rows of text become `list[Problem]`. Nothing here knows tokens; the module owns the tokenizer."""
