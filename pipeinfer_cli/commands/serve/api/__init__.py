"""What the endpoints mean: requests of several dialects as ours, and answers in theirs."""
