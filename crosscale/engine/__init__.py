"""Training and evaluation: the one forward, the steps, the loop, checkpoints and logs."""
