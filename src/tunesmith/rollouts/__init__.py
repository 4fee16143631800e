"""What is sampled and what it is worth: rewards of replies, before and during reinforcement."""
