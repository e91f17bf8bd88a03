"""The command line: options in, one frozen configuration out."""
