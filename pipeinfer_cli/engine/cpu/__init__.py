"""What computes: instructions of the processor, devices beside it; and whether sums are exact."""
