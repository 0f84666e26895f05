"""What runs left in their folders -> one HTML page to look at: `masa report`. Loads neither torch nor Lightning."""
