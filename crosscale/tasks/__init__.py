"""What a model is trained for: inputs, loss, metrics and decoding."""
