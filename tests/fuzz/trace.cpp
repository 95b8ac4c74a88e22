// SPDX-License-Identifier: BSL-1.0
// The reader of page traces: any bytes give a trace or a message with file and line.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string_view>

#include "input.hpp"
#include "message.hpp"
#include "trace.hpp"

using namespace fuzz;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    page_trace::trace t;
    try {
        t = page_trace::parse("F", text);
    } catch (const page_trace::user_error& e) {
        require_message(e.what(), "F", text);
        return 0;
    }
    // A line is an interval, as the first is, or a page, a blank and flags.
    const auto count = [text](char c) { return static_cast<std::size_t>(std::count(text.begin(), text.end(), c)); };
    require(text.front() == '@' && count('@') == t.intervals && count(' ') == t.touches.size());
    require(t.intervals + t.touches.size() == count('\n'));
    require(t.intervals > 0 && !t.touches.empty());
    // Pages are numbered in the order of first touch.
    require(std::set<std::uint64_t>(t.pages.begin(), t.pages.end()).size() == t.pages.size());
    std::size_t known = 0;
    for (const page_trace::touch& one : t.touches) {
        require(one.page <= known && one.flags >= 1 && one.flags <= 7);
        known += one.page == known;
    }
    require(known == t.pages.size());
    for (const std::uint64_t page : t.pages) require(page >> 35 == 0);
    return 0;
}
