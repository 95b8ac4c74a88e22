// Two translation units of one program, both with all headers and something of each.
#pragma once

#include <cstddef>
#include <sstream>
#include <string>

#include <ptebits/text_stream.hpp>

#include "use.hpp"

struct unit {
    unsigned failed;
    std::string words;
    const void* places[7];  // of what must be one object in the whole program
    std::uint64_t (*function)(unsigned, unsigned);
};

// One for each unit that includes this.
static unit in_this_unit()
{
    std::ostringstream words;
    words << ptebits::in_words(0x1107, 1, use::ept_constant);
    return {use::all(),
            words.str(),
            {&ptebits::every, &ptebits::tables, &ptebits::leaves, &ptebits::ept_description::rows,
             &ptebits::shadow_description::rows, &use::ept_constant->accessed, &use::ept_constant->layout_at(1, {})},
            &ptebits::ones};
}

unit in_other_unit();
