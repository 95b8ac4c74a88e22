// SPDX-License-Identifier: BSL-1.0
// Memory that an input makes: a few pages of entries that refer to each other, or to nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include <ptebits/walk.hpp>
#include <ptebits/x86.hpp>

#include "input.hpp"

namespace fuzz {

constexpr std::uint64_t base = 0x1000;
constexpr std::size_t pages = 5;

/// Exactly as long as it must be, so that a sanitizer sees the first byte beyond.
class memory {
public:
    explicit memory(input& in) : words(pages * 512)
    {
        // A few entries, placed all over: an input of a hundred bytes is a forest of tables.
        std::uint64_t kept[8];
        for (std::uint64_t& k : kept) {
            k = in.number(8);
            // Mostly one of the pages, with the flags of the input; some as aligned as large pages must be.
            const std::uint64_t choice = k >> 56 & 3;
            const bool large = choice == 1 && (k & 0x80) != 0;
            if (choice != 0) k = (k & 0xfff) | (large ? (k >> 12 & 0xff) << 30 : base + (k >> 12) % pages * 0x1000);
        }
        std::uint64_t state = in.number(4) | 1;
        for (std::uint64_t& w : words) {
            state = state * 6364136223846793005 + 1442695040888963407;
            w = kept[state >> 61];
        }
        while (!in.empty()) {
            const std::uint64_t at = in.number(2);
            words[at % words.size()] = in.number(8);
        }
    }

    template <class Word>
    [[nodiscard]] Word* operator()(std::uint64_t physical, std::type_identity<Word>)
    {
        require(++asked_for <= limit);
        if (physical < base || physical - base >= words.size() * 8) return nullptr;
        return reinterpret_cast<Word*>(reinterpret_cast<char*>(words.data()) + (physical - base));
    }

    /// Of trees: no TLB holds anything.
    static void flush(const ptebits::flush_item& /*due*/) {}

    // Walks: five levels of five each, and again for each entry whose flags are set, and the update.
    std::uint64_t limit = 2000;
    std::uint64_t asked_for = 0;
    std::vector<std::uint64_t> words;
};

/// Whether two walks had one outcome, by the same entries.
[[nodiscard]] inline bool same(const ptebits::walk_result& a, const ptebits::walk_result& b)
{
    bool path = a.steps == b.steps;
    for (unsigned i = 0; path && i < a.steps; ++i) {
        path = a.path[i].slot_address == b.path[i].slot_address && a.path[i].entry == b.path[i].entry;
    }
    return path && a.fault == b.fault && a.level == b.level && a.address == b.address && a.page_shift == b.page_shift &&
           a.allowed == b.allowed && a.broken == b.broken && a.bits == b.bits && a.key_denies == b.key_denies;
}

}  // namespace fuzz
