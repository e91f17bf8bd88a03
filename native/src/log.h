#pragma once

#include <string>

// llama.cpp reports why something failed through its log only: we keep the last error line for our own message.

// Take over llama.cpp's log; with verbose, warnings and errors go to stderr as well.
void log_capture(bool verbose);

// From now on its warnings and errors are appended to the file as well: after the time, and `name` (who writes).
void log_to_file(int fd, const char * name);

// Forget the errors that have been kept so far.
void log_reset_errors();

// The first error line since the last reset, without its newline; empty if there is none. The first, since the ones
// after it only say that loading has failed.
std::string log_first_error();

// The warnings since the last call, each once, with newlines between them.
std::string log_take_warnings();
