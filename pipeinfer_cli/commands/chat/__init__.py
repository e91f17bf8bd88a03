"""`pipeinfer chat`: conversations, in the GGUF's chat template."""
