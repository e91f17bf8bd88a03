"""The native engine for Python. The C ABI and llama.cpp's bindings are used only here."""
