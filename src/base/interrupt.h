#pragma once

namespace nibble {

// Ctrl-C and SIGTERM set a flag; long loops call ThrowIfInterrupted() between units of work, so
// that the stack unwinds and nothing is left half-written. A second signal kills the process at
// once.
void InstallInterruptHandler();
bool Interrupted();

// Throws Error(kInterrupted).
void ThrowIfInterrupted();

}  // namespace nibble
