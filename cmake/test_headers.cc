// Exists only for its precompiled header: see room.cmake.
