// SPDX-License-Identifier: BSL-1.0
// Whether output goes to a terminal.
#pragma once

#include <cstdint>

#if __has_include(<unistd.h>)
#include <unistd.h>
#endif

enum class stream : std::uint8_t { output = 1, errors = 2 };  // as POSIX numbers them

/// False also where the system cannot tell.
[[nodiscard]] inline bool is_terminal([[maybe_unused]] stream s)
{
#if __has_include(<unistd.h>)
    return isatty(static_cast<int>(s)) == 1;
#else
    return false;
#endif
}
