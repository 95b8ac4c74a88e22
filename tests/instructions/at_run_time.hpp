// The functions of at_run_time.cpp.
#pragma once

#include <cstdint>

/// Calls one by name, as main() of measured.cpp does with its own. Returns the program's status.
int measure_at_run_time(const char* function, unsigned level, std::uint64_t address);
