// SPDX-License-Identifier: BSL-1.0
// A walk down one chain of tables, for tests of formats with tables of any size.
#pragma once

#include <cstdint>

#include "walking.hpp"
#include "wider_formats.hpp"

namespace wider {

using walking::word;

/// How far apart the tables of a chain are, and the first: aligned for the largest of them.
inline constexpr word chain_apart = 0x1'0000;
inline constexpr word chain_root = 0x10'0000;

/// Tables one after another, the top one first, that lead to one entry.
template <class Format>
class entry_chain {
public:
    /// `above`: further bits of the entries that refer to tables.
    entry_chain(const Format& format, unsigned level, std::uint64_t entry, word address, word above = 0)
        : format_(format),
          memory_(chain_root, static_cast<unsigned>(chain_apart / walking::page_bytes * format->shape().levels)),
          address_(address)
    {
        const shape& s = format->shape();
        word table = chain_root;
        for (unsigned at = s.levels; at > level; --at) {
            const encoded e = encode(kind::table, at, table + chain_apart, {}, format);
            REQUIRE(e);
            slots_[at] = s.slot_address(table, address, at);
            walking::put_entry(memory_, slots_[at], e.entry | above, s.entry_bits);
            table += chain_apart;
        }
        slots_[level] = s.slot_address(table, address, level);
        put(level, entry);
    }

    void put(unsigned level, std::uint64_t entry)
    {
        walking::put_entry(memory_, slots_[level], entry, format_->shape().entry_bits);
    }
    [[nodiscard]] std::uint64_t get(unsigned level) const
    {
        return walking::entry_at(memory_, slots_[level], format_->shape().entry_bits);
    }
    [[nodiscard]] word slot(unsigned level) const { return slots_[level]; }
    [[nodiscard]] walking::arena& memory() { return memory_; }

    walk_result walked(const access_of<Format>& a = {}, const controls_of<Format>& controls = {},
                       update_flags update = update_flags::yes)
    {
        return walk(format_, chain_root, address_, a, controls, memory_, update);
    }

private:
    const Format& format_;
    walking::arena memory_;
    word address_;
    word slots_[max_levels + 1]{};
};

/// A walk to one entry: where it ended, and what it left there.
struct one_walk {
    walk_result ended;
    std::uint64_t entry = 0;
};
template <class Format>
one_walk walk_to(const Format& format, unsigned level, std::uint64_t entry, word address,
                 const access_of<Format>& a = {}, const controls_of<Format>& controls = {}, word above = 0)
{
    entry_chain chain(format, level, entry, address, above);
    const walk_result r = chain.walked(a, controls);
    return {r, chain.get(level)};
}

}  // namespace wider
