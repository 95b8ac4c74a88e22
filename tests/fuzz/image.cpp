// SPDX-License-Identifier: BSL-1.0
// The reader of page-table images: any bytes give an image or a message with file and line.
// An image is what its lines say, and visits find the same in it.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include "image.hpp"
#include "input.hpp"
#include "message.hpp"

using namespace ptebits;
using namespace fuzz;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    ptimg::image image;
    try {
        image = ptimg::parse("F", text);
    } catch (const ptimg::error& e) {
        require_message(e.what(), "F", text);
        return 0;
    }
    std::size_t entries = 0;
    for (std::string_view rest = text; !rest.empty(); rest.remove_prefix(rest.find('\n') + 1)) {
        entries += rest.front() != '#';
    }
    require(image.tables.size() <= entries + 1);
    std::size_t kept = 0;
    for (const auto& [page, t] : image.tables) {
        require(page % 0x1000 == 0 && t.address - page < 0x1000);
        require(t.slots.size() * 8 + t.slots32.size() * 4 == (t.slots.size() == 4 ? 32U : 4096U));
        for (const std::uint64_t slot : t.slots) kept += slot != 0;
        for (const std::uint32_t slot : t.slots32) kept += slot != 0;
    }
    require(kept == entries);

    // A table is entered again at another level, of 5, and with rights that no earlier way had: of the sets of 5 rights
    // at most 10 do not include each other.
    std::vector<std::uint64_t> words(64 * image.tables.size());
    table_set once(words.data(), words.size());
    std::set<std::uint64_t> seen;
    const auto look = [&](const auto& e) {
        using word = std::remove_reference_t<decltype(*e.slot)>;
        require(image.slot<word>(e.slot_address) == e.slot && *e.slot == e.entry);
        seen.insert(e.slot_address);
        return visit_next::into;
    };
    const auto go = [&](const auto& features) {
        const visit_summary s = visit(format_for(features), image.root, {}, image, look, &once);
        require(s.entered >= image.tables.size() && s.missing == 0 && !s.set_is_full);
    };
    std::visit(go, image.features);
    require(seen.size() == entries);
    return 0;
}
