"""Loading of policies, references and tokenizers, and the embedded model."""
