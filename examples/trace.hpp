// SPDX-License-Identifier: BSL-1.0
// Reader of page traces: text files that tell which pages a program touched.
//
//     @0
//     401a 4
//     1fff000 3
//
// `@N` opens interval N, from 0 up; `PAGE FLAGS` is a page that it touches, once: its number
// in hexadecimal, and 1 read, 2 write, 4 execute, or-ed.
#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

namespace page_trace {

/// What is wrong with a file or the command line, in words for the user.
struct user_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// A page of the guest, by the order of first touch.
using page_id = std::uint32_t;

struct touch {
    page_id page;
    unsigned flags;  ///< 1 read, 2 write, 4 execute, or-ed
};

struct trace {
    std::vector<std::uint64_t> pages;  ///< page numbers, each once
    std::vector<touch> touches;
    std::size_t intervals = 0;
};

/// The number that a text is, all of it; nothing if it is none or does not fit.
[[nodiscard]] inline std::optional<std::uint64_t> number(std::string_view text, int base)
{
    std::uint64_t value = 0;
    const char* const end = text.data() + text.size();
    const auto [stop, problem] = std::from_chars(text.data(), end, value, base);
    if (problem != std::errc{} || stop != end) return std::nullopt;
    return value;
}

[[nodiscard]] inline std::string read_text(const std::string& file)
{
    std::error_code problem;
    const std::filesystem::file_status status = std::filesystem::status(file, problem);
    if (!std::filesystem::exists(status)) throw user_error(file + ": no such file");
    if (std::filesystem::is_directory(status)) throw user_error(file + ": is a directory");
    std::ifstream in(file, std::ios::binary);
    std::ostringstream text;
    if (in.peek() != std::ifstream::traits_type::eof()) text << in.rdbuf();
    if (in.bad() || !in.is_open()) throw user_error(file + ": cannot be read");
    return std::move(text).str();
}

/// The trace in a text; `file` is what errors call it. Throws user_error.
[[nodiscard]] inline trace parse(const std::string& file, std::string_view text)
{
    std::string_view rest = text;
    std::size_t line_number = 0;
    const auto fail = [&](const std::string& reason) {
        throw user_error(file + ':' + std::to_string(line_number) + ": " + reason);
    };

    trace t;
    std::unordered_map<std::uint64_t, page_id> ids;
    std::vector<std::size_t> touched_in;  // by page: the last interval that touches it, from 1
    while (!rest.empty()) {
        ++line_number;
        const std::size_t end = rest.find('\n');
        if (end == rest.npos) fail("the last line is cut off");
        const std::string_view line = rest.substr(0, end);
        rest.remove_prefix(end + 1);

        if (line.starts_with('@')) {
            if (number(line.substr(1), 10) != t.intervals) {
                fail("not '@" + std::to_string(t.intervals) + "', the next interval");
            }
            ++t.intervals;
            continue;
        }
        const std::size_t space = line.find(' ');
        if (space == line.npos) fail("neither an interval nor a page and its flags");
        const auto page = number(line.substr(0, space), 16);
        const auto flags = number(line.substr(space + 1), 10);
        if (!page) fail("the page is not a hexadecimal number of 64 bits");
        if (!flags || *flags < 1 || *flags > 7) fail("the flags are not 1 to 7");
        // What every format here translates: shadow tables have the lower half of 48 bits.
        if (*page >> (47 - 12) != 0) fail("the page lies above 128 Tbytes");
        if (t.intervals == 0) fail("a page before the first interval");

        const auto [at, added] = ids.try_emplace(*page, static_cast<page_id>(t.pages.size()));
        if (added) {
            t.pages.push_back(*page);
            touched_in.push_back(0);
        }
        if (std::exchange(touched_in[at->second], t.intervals) == t.intervals) fail("the interval has the page twice");
        t.touches.push_back({at->second, static_cast<unsigned>(*flags)});
    }
    if (line_number == 0) line_number = 1;
    if (t.touches.empty()) fail("no page is touched");
    return t;
}

/// The trace in a file. Throws user_error.
[[nodiscard]] inline trace read(const std::string& file) { return parse(file, read_text(file)); }

}  // namespace page_trace
