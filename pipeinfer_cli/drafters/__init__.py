"""What proposes tokens: n-grams, a draft model, and the thread that runs them."""
