"""Command lines before they are options: values, llama.cpp's spellings, what is misspelt."""
