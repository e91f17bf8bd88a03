"""What the processor computes with, and whether its sums are exact."""
