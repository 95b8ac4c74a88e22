// SPDX-License-Identifier: BSL-1.0
// What every reader of text promises: its messages say where in the file.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

#include "input.hpp"

namespace fuzz {

/// Of what is wrong with a text that is called `file`: FILE:LINE: reason, a line that is there.
/// With `whole`, also FILE: reason, of what no line has.
inline void require_message(const std::string& message, const std::string& file, std::string_view text,
                            bool whole = false)
{
    require(message.starts_with(file + ':'));
    const std::string rest = message.substr(file.size() + 1);
    if (whole && rest.starts_with(' ') && rest.size() > 1) return;
    const std::size_t digits = std::min(rest.find_first_not_of("0123456789"), rest.size());
    require(digits > 0 && digits < 10 && rest.compare(digits, 2, ": ") == 0 && rest.size() > digits + 2);
    const auto lines = static_cast<unsigned long>(std::count(text.begin(), text.end(), '\n'));
    const unsigned long line = std::stoul(rest);
    require(line >= 1 && line <= lines + 1);
}

}  // namespace fuzz
