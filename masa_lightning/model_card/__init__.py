"""The model card of an exported checkpoint."""
