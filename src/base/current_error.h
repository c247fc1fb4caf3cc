#pragma once

#include "nibble/error.h"

// The one place where what others throw or return becomes an Error.
namespace nibble {

// The kind of error that an errno value of a system call stands for: kNotFound, kResourceExhausted
// (disk, memory, descriptors, threads), else kIo.
ErrorCode CodeOfErrno(int code);

// The exception being handled, as an Error; to be called in a catch block. An Error stays what it
// is. What the standard library throws for the machine's limits and for paths becomes the kind of
// CodeOfErrno and names the path. Anything else is a bug: kInternal.
Error CurrentError();

}  // namespace nibble
