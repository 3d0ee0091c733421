"""Which of the formats in its pretraining RL with a verified reward amplifies."""
