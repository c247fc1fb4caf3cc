// Only here for its precompiled header: see room.cmake.
