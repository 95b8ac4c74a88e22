// SPDX-License-Identifier: BSL-1.0
// What tests of walks share: memory, random tables, and what two walks have in common.
#pragma once

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ptebits/ptebits.hpp>
#include <ptebits/x86.hpp>
#include <random>
#include <type_traits>
#include <vector>

namespace walking {

using namespace ptebits;

using word = std::uint64_t;
using asked = ptebits::memory_access;  // POSIX has a function of the short name

// ---- formats of constants, as types

template <shadow_features F>
using shadow_of = constant_format<shadow_description, F>;
template <npt_features F>
using npt_of = constant_format<npt_description, F>;
template <ept_features F>
using ept_of = constant_format<ept_description, F>;

// ---- memory

constexpr word page_bytes = 4096;

/// Some pages of memory from an address up; nothing elsewhere. Tells which slots it gave.
class arena {
public:
    arena(word base, unsigned pages) : base_(base), words_(pages * page_bytes / 8) {}

    template <class Word>
    [[nodiscard]] Word* operator()(word physical, std::type_identity<Word>)
    {
        if (physical % sizeof(Word) != 0 || !holds(physical)) return nullptr;
        given.push_back(physical);
        return reinterpret_cast<Word*>(reinterpret_cast<char*>(words_.data()) + (physical - base_));
    }

    [[nodiscard]] bool holds(word physical) const { return physical >= base_ && physical - base_ < words_.size() * 8; }
    [[nodiscard]] word base() const { return base_; }
    [[nodiscard]] word pages() const { return words_.size() * 8 / page_bytes; }
    [[nodiscard]] std::vector<word>& words() { return words_; }

    template <class Word>
    void put(word physical, Word entry)
    {
        REQUIRE(holds(physical));
        std::memcpy(reinterpret_cast<char*>(words_.data()) + (physical - base_), &entry, sizeof entry);
    }
    template <class Word>
    [[nodiscard]] Word get(word physical) const
    {
        Word entry{};
        std::memcpy(&entry, reinterpret_cast<const char*>(words_.data()) + (physical - base_), sizeof entry);
        return entry;
    }

    std::vector<word> given;

private:
    word base_;
    std::vector<word> words_;
};

/// An entry of 32 or 64 bits.
inline word entry_at(const arena& memory, word physical, unsigned entry_bits)
{
    return entry_bits == 32 ? memory.get<std::uint32_t>(physical) : memory.get<word>(physical);
}

inline void put_entry(arena& memory, word physical, word entry, unsigned entry_bits)
{
    if (entry_bits == 32) {
        memory.put(physical, static_cast<std::uint32_t>(entry));
    } else {
        memory.put(physical, entry);
    }
}

// ---- random things

class dice {
public:
    explicit dice(unsigned seed) : engine_(seed) {}
    word bits() { return engine_(); }
    word below(word n) { return engine_() % n; }
    bool one_in(word n) { return below(n) == 0; }

private:
    std::mt19937_64 engine_;
};

inline shadow_features random_features(dice& d, std::type_identity<shadow_features>)
{
    shadow_features f;
    f.levels = static_cast<unsigned>(2 + d.below(4));
    f.physical_bits = static_cast<unsigned>(32 + d.below(21));
    f.execute_disable = d.one_in(2);
    f.gigabyte_pages = d.one_in(2);
    f.large_pages = f.levels != 2 || !d.one_in(4);
    f.pse36 = d.one_in(2);
    f.global_pages = d.one_in(2);
    f.user_keys = f.levels >= 4 && d.one_in(2);
    f.supervisor_keys = f.levels >= 4 && d.one_in(2);
    f.hlat = f.levels >= 4 && d.one_in(4);
    f.reserved_bit_8 = d.one_in(2);
    if (f.levels > 2 && d.one_in(3)) f.encryption_bit = static_cast<unsigned>(32 + d.below(20));
    if (d.one_in(4)) f.memory_bits = f.levels == 2 || f.encryption_bit.given ? 31 : f.physical_bits - 1;
    return f;
}
inline npt_features random_features(dice& d, std::type_identity<npt_features>)
{
    npt_features f;
    f.levels = static_cast<unsigned>(2 + d.below(4));
    f.physical_bits = static_cast<unsigned>(32 + d.below(21));
    f.execute_disable = d.one_in(2);
    f.gigabyte_pages = d.one_in(2);
    f.large_pages = f.levels != 2 || !d.one_in(4);
    f.pse36 = d.one_in(2);
    f.reserved_bit_8 = d.one_in(2);
    f.guest_mode_execute_trap = d.one_in(2);
    if (f.levels > 2 && d.one_in(3)) f.encryption_bit = static_cast<unsigned>(32 + d.below(20));
    return f;
}
inline ept_features random_features(dice& d, std::type_identity<ept_features>)
{
    ept_features f;
    f.levels = static_cast<unsigned>(4 + d.below(2));
    f.physical_bits = static_cast<unsigned>(32 + d.below(21));
    f.accessed_dirty = d.one_in(2);
    f.execute_only = d.one_in(2);
    f.large_pages = d.one_in(2);
    f.gigabyte_pages = d.one_in(2);
    f.mode_based_execute = d.one_in(2);
    f.verify_guest_paging = d.one_in(4);
    f.paging_write = d.one_in(4);
    f.supervisor_shadow_stack = d.one_in(4);
    f.sub_page_write = d.one_in(4);
    f.suppress_ve = d.one_in(4);
    if (!f.accessed_dirty && d.one_in(2)) f.software_accessed = 52U;
    return f;
}

inline asked random_access(dice& d)
{
    return {.what = static_cast<operation>(d.below(4)),
            .user = d.one_in(2),
            .implicit = d.one_in(8),
            .shadow_stack = d.one_in(8),
            .guest_table = d.one_in(8),
            .linear = true};
}

inline cpu_controls random_controls(dice& d)
{
    return {.write_protect = d.one_in(2),
            .smep = d.one_in(2),
            .smap = d.one_in(2),
            .alignment_check = d.one_in(2),
            .pkru = static_cast<std::uint32_t>(d.bits()),
            .pkrs = static_cast<std::uint32_t>(d.bits())};
}

/// Grants a permission in an entry, or denies it.
inline word with_permission(word entry, const layout& l, role permission, bool granted)
{
    const word bits = l.mask(permission);
    return (entry & ~bits) | (granted ? bits & ~l.denying : bits & l.denying);
}

/// Fills memory with entries that mostly refer to tables in it, some of them broken.
template <class Format>
void fill(arena& memory, const Format& format, dice& d)
{
    const unsigned entry_bits = format->shape().entry_bits;
    for (word at = memory.base(); memory.holds(at); at += entry_bits / 8) {
        const auto level = static_cast<unsigned>(1 + d.below(format->shape().levels));
        const kind k = d.one_in(3) ? kind::leaf : kind::table;
        const layout& l = format->layout_at(level, k);
        const word target = memory.base() + d.below(memory.pages()) * page_bytes;
        word entry = l.address_bits(d.one_in(16) ? d.bits() : target) | (d.bits() & l.mask(role::software)) | l.value;
        entry = with_permission(entry, l, role::read, true);
        for (const role r : {role::write, role::execute, role::user, role::user_execute}) {
            entry = with_permission(entry, l, r, !d.one_in(12));
        }
        for (const role r : {role::accessed, role::dirty, role::attribute}) entry |= d.bits() & l.mask(r);
        if (k == kind::leaf && d.one_in(8)) entry |= d.bits() & l.mask(role::memory_type);
        if constexpr (requires { format->restart; }) {
            if (!d.one_in(16)) entry &= ~format->restart.mask();  // or no walk would go far
        }
        if (d.one_in(30)) entry ^= word{1} << d.below(entry_bits);
        if (d.one_in(60)) entry = d.bits();
        put_entry(memory, at, entry & ones(entry_bits - 1, 0), entry_bits);
    }
}

/// An address that the tables translate, or hardly ever one that they do not.
template <class Format>
word random_address(const Format& format, dice& d)
{
    const word address = d.bits() & ones(format->shape().address_bits() - 1, 0);
    return d.one_in(50) ? d.bits() : format->shape().extended(address);
}

inline bool same_outcome(const walk_result& a, const walk_result& b)
{
    return a.fault == b.fault && a.level == b.level && a.address == b.address && a.page_shift == b.page_shift &&
           a.allowed == b.allowed && a.broken == b.broken && a.bits == b.bits && a.key_denies == b.key_denies &&
           a.steps == b.steps && a.top_level == b.top_level;
}

inline bool same_path(const walk_result& a, const walk_result& b)
{
    for (unsigned i = 0; i < max_levels; ++i) {
        if (a.path[i].slot_address != b.path[i].slot_address || a.path[i].entry != b.path[i].entry) return false;
    }
    return a.steps == b.steps;
}

inline bool uses_an_entry_twice(const walk_result& r)
{
    for (unsigned i = 0; i < r.steps; ++i) {
        for (unsigned j = 0; j < i; ++j) {
            if (r.path[i].slot_address == r.path[j].slot_address) return true;
        }
    }
    return false;
}

/// Plain access that counts what it touches.
struct counting_access : plain_access {
    std::vector<const void*>* loaded;
    std::vector<const void*>* changed;

    template <slot_word Word>
    [[nodiscard]] Word load(const Word& slot) const
    {
        loaded->push_back(&slot);
        return slot;
    }
    template <slot_word Word>
    bool compare_exchange(Word& slot, Word& expected, Word desired) const
    {
        changed->push_back(&slot);
        return plain_access::compare_exchange(slot, expected, desired);
    }
};

// ---- chains

/// Tables one after another in memory, the top one first, that lead to one leaf.
struct chain {
    unsigned leaf_level = 0;
    word slots[max_levels + 1]{};  ///< by level
};

template <class Format>
chain build_chain(arena& memory, const Format& format, unsigned leaf_level, word address, word place)
{
    chain c{leaf_level};
    const shape& s = format->shape();
    word table = memory.base();
    for (unsigned level = s.levels; level >= leaf_level; --level) {
        c.slots[level] =
            table + (address >> s.page_shift(level) & ones(s.index_bits_at(level) - 1, 0)) * s.entry_bytes();
        const kind k = level == leaf_level ? kind::leaf : kind::table;
        table += page_bytes;
        const encoded e = encode(k, level, k == kind::leaf ? place : table, {}, format);
        REQUIRE(e);
        put_entry(memory, c.slots[level], e.entry, s.entry_bits);
    }
    return c;
}

// ---- single walks

inline constexpr auto long_mode = shadow<shadow_features{}>;

/// Four levels of tables to one page of 4 Kbytes at address 0; entries may be changed.
struct one_page {
    arena memory{0x1000, 5};

    explicit one_page(word e4 = 0x2067, word e3 = 0x3067, word e2 = 0x4067, word e1 = 0x5000'0067)
    {
        memory.put(0x1000, e4);
        memory.put(0x2000, e3);
        memory.put(0x3000, e2);
        memory.put(0x4000, e1);
    }

    template <class Format>
    walk_result walked(const Format& format, const asked& a, const cpu_controls& cpu = {})
    {
        return walk(format, 0x1000, 0x123, a, cpu, memory);
    }
};

inline constexpr asked supervisor_read{};
inline constexpr asked supervisor_write{.what = operation::write};
inline constexpr asked supervisor_fetch{.what = operation::fetch};
inline constexpr asked user_read{.user = true};
inline constexpr asked user_write{.what = operation::write, .user = true};
inline constexpr asked user_fetch{.what = operation::fetch, .user = true};

}  // namespace walking
