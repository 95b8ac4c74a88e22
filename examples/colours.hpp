// SPDX-License-Identifier: BSL-1.0
// Colours, on a terminal only, and not where NO_COLOR says so.
#pragma once

#include <cstdlib>
#include <string_view>

#include "terminal.hpp"

/// What to write before and behind a text. Nothing by default.
struct colours {
    const char* head = "";
    const char* dim = "";
    const char* alarm = "";
    const char* off = "";
};

/// Those for standard output.
[[nodiscard]] inline colours choose_colours()
{
    const auto variable = [](const char* key) {
        const char* value = std::getenv(key);
        return std::string_view(value != nullptr ? value : "");
    };
    if (!is_terminal(stream::output) || !variable("NO_COLOR").empty() || variable("TERM") == "dumb") return {};
    return {"\033[1m", "\033[2m", "\033[31m", "\033[0m"};
}
