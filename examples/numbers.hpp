// SPDX-License-Identifier: BSL-1.0
// Numbers that a person typed.
#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string_view>
#include <system_error>

namespace numbers {

/// The number that a text is, all of it; nothing if it is none or does not fit.
template <class Number>
[[nodiscard]] std::optional<Number> parse(std::string_view text, int base)
{
    Number value{};
    const char* const end = text.data() + text.size();
    const auto [stop, problem] = std::from_chars(text.data(), end, value, base);
    if (problem != std::errc{} || stop != end) return std::nullopt;
    return value;
}

[[nodiscard]] inline std::optional<unsigned> decimal(std::string_view text) { return parse<unsigned>(text, 10); }

/// In hexadecimal with or without 0x; ' may part digits.
[[nodiscard]] inline std::optional<std::uint64_t> hexadecimal(std::string_view text)
{
    if (text.starts_with("0x") || text.starts_with("0X")) text.remove_prefix(2);
    std::uint64_t value = 0;
    bool any = false;
    for (const char c : text) {
        if (c == '\'') continue;
        const auto digit = parse<unsigned>({&c, 1}, 16);
        if (!digit || value >> 60 != 0) return std::nullopt;
        value = value << 4 | *digit;
        any = true;
    }
    return any ? std::optional(value) : std::nullopt;
}

}  // namespace numbers
