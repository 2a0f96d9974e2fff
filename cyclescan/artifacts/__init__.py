"""What training leaves behind and what reads it: directions, runs, checkpoints, cards, exported and shipped models."""
