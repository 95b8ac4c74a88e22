// SPDX-License-Identifier: BSL-1.0
// What holds of every walk, over random memory and all formats; and single walks by the
// manuals' rules. Recorded outcomes of other MMUs are replayed by replay.cpp.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <ptebits/ptebits.hpp>
#include <ptebits/walk.hpp>
#include <random>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

using namespace ptebits;

namespace {

using word = std::uint64_t;
using asked = ptebits::memory_access;  // POSIX has a function of the short name

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

/// The slot type of a format's entries; static formats of 32-bit entries are two-level paging.
word entry_at(const arena& memory, word physical, unsigned entry_bits)
{
    return entry_bits == 32 ? memory.get<std::uint32_t>(physical) : memory.get<word>(physical);
}

void put_entry(arena& memory, word physical, word entry, unsigned entry_bits)
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

shadow_features random_features(dice& d, std::type_identity<shadow_features>)
{
    shadow_features f;
    f.levels = static_cast<unsigned>(2 + d.below(4));
    f.physical_bits = static_cast<unsigned>(32 + d.below(21));
    f.execute_disable = d.one_in(2);
    f.gigabyte_pages = d.one_in(2);
    f.large_pages = !d.one_in(4);
    f.pse36 = d.one_in(2);
    f.global_pages = d.one_in(2);
    f.protection_keys = f.levels >= 4 && d.one_in(2);
    f.reserved_bit_8 = d.one_in(2);
    return f;
}
npt_features random_features(dice& d, std::type_identity<npt_features>)
{
    npt_features f;
    f.levels = static_cast<unsigned>(2 + d.below(4));
    f.physical_bits = static_cast<unsigned>(32 + d.below(21));
    f.execute_disable = d.one_in(2);
    f.gigabyte_pages = d.one_in(2);
    f.guest_mode_execute_trap = d.one_in(2);
    return f;
}
ept_features random_features(dice& d, std::type_identity<ept_features>)
{
    ept_features f;
    f.levels = static_cast<unsigned>(4 + d.below(2));
    f.physical_bits = static_cast<unsigned>(32 + d.below(21));
    f.accessed_dirty = d.one_in(2);
    f.execute_only = d.one_in(2);
    f.large_pages = d.one_in(2);
    f.gigabyte_pages = d.one_in(2);
    f.mode_based_execute = d.one_in(2);
    return f;
}

asked random_access(dice& d)
{
    return {.what = static_cast<operation>(d.below(4)),
            .user = d.one_in(2),
            .implicit = d.one_in(8),
            .guest_table = d.one_in(8),
            .linear = true};
}

cpu_controls random_controls(dice& d)
{
    return {.write_protect = d.one_in(2),
            .smep = d.one_in(2),
            .smap = d.one_in(2),
            .alignment_check = d.one_in(2),
            .user_keys = d.one_in(2),
            .supervisor_keys = d.one_in(2),
            .pkru = static_cast<std::uint32_t>(d.bits()),
            .pkrs = static_cast<std::uint32_t>(d.bits())};
}

/// Fills memory with entries that mostly refer to tables in it, some of them broken.
template <class Format>
void fill(arena& memory, const Format& format, dice& d)
{
    const unsigned entry_bits = format.tables().entry_bits;
    for (word at = memory.base(); memory.holds(at); at += entry_bits / 8) {
        const auto level = static_cast<unsigned>(1 + d.below(format.tables().levels));
        const kind k = d.one_in(3) ? kind::leaf : kind::table;
        const layout& l = format.layout_at(level, k);
        const word target = memory.base() + d.below(memory.pages()) * page_bytes;
        word entry = l.address_bits(d.one_in(16) ? d.bits() : target) | (d.bits() & l.mask(role::software));
        entry |= l.mask(role::present) | l.mask(role::page_size) | l.mask(role::read);
        for (const role r : {role::write, role::execute, role::user, role::user_execute}) {
            if (!d.one_in(12)) entry |= l.mask(r);
        }
        for (const role r : {role::accessed, role::dirty, role::attribute}) entry |= d.bits() & l.mask(r);
        if (k == kind::leaf && d.one_in(8)) entry |= d.bits() & l.mask(role::memory_type);
        if (d.one_in(10)) entry |= l.mask(role::execute_disable);
        if (d.one_in(30)) entry ^= word{1} << d.below(entry_bits);
        if (d.one_in(60)) entry = d.bits();
        put_entry(memory, at, entry & l.all, entry_bits);
    }
}

/// An address that the tables translate, or hardly ever one that they do not.
template <class Format>
word random_address(const Format& format, dice& d)
{
    const unsigned used = format.tables().address_bits();
    word address = d.bits() & ones(used - 1, 0);
    if (format.tables().canonical && (address >> (used - 1) & 1) != 0) address |= ~ones(used - 1, 0);
    return d.one_in(50) ? d.bits() : address;
}

bool same_outcome(const walk_result& a, const walk_result& b)
{
    return a.fault == b.fault && a.level == b.level && a.address == b.address && a.page_shift == b.page_shift &&
           a.allowed == b.allowed && a.memory_type == b.memory_type && a.broken == b.broken && a.bits == b.bits &&
           a.key_denies == b.key_denies && a.steps == b.steps && a.top_level == b.top_level;
}

bool same_path(const walk_result& a, const walk_result& b)
{
    for (unsigned i = 0; i < max_levels; ++i) {
        if (a.path[i].slot_address != b.path[i].slot_address || a.path[i].entry != b.path[i].entry) return false;
    }
    return a.steps == b.steps;
}

bool uses_an_entry_twice(const walk_result& r)
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

/// What holds of one walk, whatever memory holds. Returns how it ended.
template <class Format>
fault_kind check_one(const Format& format, arena& memory, word root, word address, const asked& a,
                     const cpu_controls& cpu)
{
    const unsigned levels = format.tables().levels;
    const std::vector<word> before = memory.words();

    // Without updates nothing changes; at most one slot a level is asked for and read.
    std::vector<const void*> loaded, changed;
    counting_access counted;
    counted.loaded = &loaded;
    counted.changed = &changed;
    memory.given.clear();
    const walk_result looked = walk(format, root, address, a, cpu, memory, update_flags::no, counted);
    CHECK(memory.words() == before);
    CHECK(changed.empty());
    CHECK(loaded.size() == looked.steps);
    CHECK(looked.steps <= levels);
    REQUIRE(memory.given.size() == looked.steps);
    for (unsigned i = 0; i < looked.steps; ++i) {
        CHECK(memory.given[i] == looked.path[i].slot_address);
        CHECK(looked.path[i].entry == entry_at(memory, looked.path[i].slot_address, format.tables().entry_bits));
        CHECK(looked.level_of(i) == levels - i);
    }
    CHECK((looked.fault == fault_kind::memory_absent || looked.steps == 0 ||
           looked.level == looked.level_of(looked.steps - 1)));

    // With updates it ends the same, unless it used an entry twice.
    const walk_result walked = walk(format, root, address, a, cpu, memory, update_flags::yes, plain_access{});
    const bool twice = uses_an_entry_twice(looked);
    const std::vector<word> after = memory.words();
    if (!twice) {
        CHECK(same_outcome(looked, walked));
        CHECK(same_path(looked, walked));
    }
    // Whatever changed is A or D of an entry that was used, by an access that was allowed.
    arena expected(memory.base(), static_cast<unsigned>(memory.pages()));
    expected.words() = before;
    for (unsigned i = 0; walked && i < walked.steps; ++i) {
        const bool last = i + 1 == walked.steps;
        const layout& l = format.layout_at(walked.level_of(i), last ? kind::leaf : kind::table);
        word flags = format.hardware_accessed() ? l.mask(role::accessed) : 0;
        if (last && a.writes()) flags |= l.mask(role::dirty);
        const word at = walked.path[i].slot_address;
        put_entry(expected, at, entry_at(expected, at, format.tables().entry_bits) | flags, format.tables().entry_bits);
    }
    if (walked || !twice) CHECK(expected.words() == after);

    // Once more changes nothing.
    const walk_result again = walk(format, root, address, a, cpu, memory, update_flags::yes, plain_access{});
    if (!twice) CHECK(same_outcome(again, walked));
    if (walked) CHECK(memory.words() == after);

    memory.words() = before;
    return looked.fault;
}

template <class Features>
std::array<unsigned, 16> check_random(unsigned seed)
{
    dice d(seed);
    std::array<unsigned, 16> ends{};
    for (unsigned round = 0; round < 60; ++round) {
        const auto format = format_for(random_features(d, std::type_identity<Features>{}));
        REQUIRE(format.wrong().what == defect::none);
        arena memory(0x10'0000, 6);
        fill(memory, format, d);
        for (unsigned n = 0; n < 40; ++n) {
            const word root = memory.base() + d.below(memory.pages()) * page_bytes;
            const fault_kind end = check_one(format, memory, d.one_in(40) ? d.bits() : root, random_address(format, d),
                                             random_access(d), random_controls(d));
            ++ends[static_cast<unsigned>(end)];
        }
    }
    return ends;
}

}  // namespace

TEST_CASE("over random memory a walk reads what it was given, changes A and D only, and repeats itself")
{
    const auto ordinary = check_random<shadow_features>(1);
    const auto nested = check_random<npt_features>(2);
    const auto extended = check_random<ept_features>(3);
    // The memory is worth its randomness: each way to end was met.
    for (const fault_kind k : {fault_kind::none, fault_kind::not_present, fault_kind::protection,
                               fault_kind::reserved_bits, fault_kind::pdpte_reserved, fault_kind::not_canonical,
                               fault_kind::address_too_wide, fault_kind::memory_absent}) {
        CAPTURE(static_cast<unsigned>(k));
        CHECK(ordinary[static_cast<unsigned>(k)] > 2);
    }
    CHECK(nested[static_cast<unsigned>(fault_kind::none)] > 20);
    CHECK(nested[static_cast<unsigned>(fault_kind::reserved_bits)] > 20);
    CHECK(extended[static_cast<unsigned>(fault_kind::none)] > 20);
    CHECK(extended[static_cast<unsigned>(fault_kind::misconfiguration)] > 20);
}

TEST_CASE_TEMPLATE("static and run-time features agree", Format, shadow<shadow_features{.physical_bits = 40}>,
                   shadow<shadow_features{.levels = 5, .protection_keys = true, .encryption_bit = 47}>,
                   shadow<shadow_features{.levels = 3, .execute_disable = false}>, shadow<shadow_features{.levels = 2}>,
                   npt<npt_features{.physical_bits = 48, .guest_mode_execute_trap = true}>,
                   npt<npt_features{.levels = 2}>, ept<ept_features{}>,
                   ept<ept_features{.levels = 5,
                                    .physical_bits = 40,
                                    .accessed_dirty = false,
                                    .execute_only = false,
                                    .gigabyte_pages = false,
                                    .mode_based_execute = true}>)
{
    dice d(7);
    const auto at_run_time = format_for(Format::features());
    unsigned reached = 0;
    for (unsigned round = 0; round < 60; ++round) {
        arena memory(0x10'0000, 6);
        fill(memory, at_run_time, d);
        for (unsigned n = 0; n < 60; ++n) {
            const word root = memory.base() + d.below(memory.pages()) * page_bytes;
            const word address = random_address(at_run_time, d);
            const asked a = random_access(d);
            const cpu_controls cpu = random_controls(d);
            const std::vector<word> before = memory.words();
            const walk_result slow = walk(at_run_time, root, address, a, cpu, memory);
            const std::vector<word> after = memory.words();
            memory.words() = before;
            const walk_result quick = walk(Format{}, root, address, a, cpu, memory);
            CHECK(same_outcome(slow, quick));
            CHECK(same_path(slow, quick));
            CHECK(memory.words() == after);
            CHECK(fault_code(slow, a, cpu, at_run_time) == fault_code(quick, a, cpu, Format{}));
            reached += static_cast<bool>(quick);
        }
    }
    CHECK(reached > 20);
}

// ---- chains

namespace {

/// Tables one after another in memory, the top one first, that lead to one leaf.
template <class Format>
struct chain {
    unsigned leaf_level;
    word address;
    word place;                    ///< of the page
    word slots[max_levels + 1]{};  ///< by level
};

template <class Format>
chain<Format> build_chain(arena& memory, const Format& format, unsigned leaf_level, word address, word place,
                          permissions grant)
{
    chain<Format> c{leaf_level, address, place};
    const shape& t = format.tables();
    word table = memory.base();
    for (unsigned level = t.levels; level >= leaf_level; --level) {
        c.slots[level] =
            table + (address >> t.page_shift(level) & ones(t.index_bits_at(level) - 1, 0)) * (t.entry_bits / 8);
        const kind k = level == leaf_level ? kind::leaf : kind::table;
        table += page_bytes;
        // PAE's top entries hold no permissions.
        const permissions here = t.levels == 3 && level == 3 && t.entry_bits == 64 ? permissions{} : grant;
        const encoded e = encode(k, level, k == kind::leaf ? place : table, here, format);
        REQUIRE(e);
        put_entry(memory, c.slots[level], e.entry, t.entry_bits);
    }
    return c;
}

template <class Features>
void check_legal_chains(unsigned seed)
{
    dice d(seed);
    for (unsigned round = 0; round < 300; ++round) {
        const auto format = format_for(random_features(d, std::type_identity<Features>{}));
        const shape& t = format.tables();
        auto leaf_level = static_cast<unsigned>(1 + d.below(t.levels));
        while (!format.exists(leaf_level, kind::leaf)) --leaf_level;
        word address = random_address(format, d);
        if (t.address_bits() < 64 && !t.canonical) address &= ones(t.address_bits() - 1, 0);
        if (t.canonical && (address + (word{1} << (t.address_bits() - 1))) >> t.address_bits() != 0) address = 0x1234;
        const layout& page = format.layout_at(leaf_level, kind::leaf);
        const word place = page.address_in(d.bits() & page.mask(role::address));
        constexpr permissions all{};
        arena memory(0x4000, max_levels);
        const auto c = build_chain(memory, format, leaf_level, address, place, all);
        CAPTURE(t.levels);
        CAPTURE(leaf_level);
        for (const operation what : {operation::read, operation::write, operation::fetch, operation::read_write}) {
            for (const bool user : {false, true}) {
                const asked a{.what = what, .user = user};
                const walk_result r = walk(format, memory.base(), address, a, {}, memory);
                CHECK(r);
                CHECK(r.address == (place | (address & ones(t.page_shift(leaf_level) - 1, 0))));
                CHECK(r.page_shift == t.page_shift(leaf_level));
                CHECK(r.level == leaf_level);
                CHECK(r.steps == t.levels - leaf_level + 1);
                CHECK(r.allowed == all);
            }
        }
        const word leaf = entry_at(memory, c.slots[leaf_level], t.entry_bits);
        CHECK((leaf & format.dirty.mask()) == format.dirty.mask());
    }
}

}  // namespace

TEST_CASE("a present legal chain with all permissions never faults")
{
    check_legal_chains<shadow_features>(11);
    check_legal_chains<npt_features>(12);
    check_legal_chains<ept_features>(13);
}

// ---- single walks by the manuals

namespace {

using long_mode = shadow<shadow_features{}>;

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

constexpr asked supervisor_read{};
constexpr asked supervisor_write{.what = operation::write};
constexpr asked supervisor_fetch{.what = operation::fetch};
constexpr asked user_read{.user = true};
constexpr asked user_write{.what = operation::write, .user = true};
constexpr asked user_fetch{.what = operation::fetch, .user = true};

}  // namespace

TEST_CASE("addresses that are not canonical, or wider than the tables, are refused before any read")
{
    arena memory(0, 1);
    const auto refused = [&](const auto& format, word address) {
        memory.given.clear();
        const walk_result r = walk(format, 0, address, {}, {}, memory);
        CHECK(memory.given.empty());
        CHECK(r.level == 0);
        return r.fault;
    };
    const auto looked = [&](const auto& format, word address) {
        return walk(format, 0, address, {}, {}, memory).fault;
    };
    using five = shadow<shadow_features{.levels = 5}>;
    using two = shadow<shadow_features{.levels = 2}>;
    using pae = shadow<shadow_features{.levels = 3}>;

    CHECK(refused(long_mode{}, 0x0000'8000'0000'0000) == fault_kind::not_canonical);
    CHECK(refused(long_mode{}, 0xffff'7fff'ffff'ffff) == fault_kind::not_canonical);
    CHECK(looked(long_mode{}, 0x0000'7fff'ffff'ffff) == fault_kind::not_present);
    CHECK(looked(long_mode{}, 0xffff'8000'0000'0000) == fault_kind::not_present);
    CHECK(refused(five{}, 0x0100'0000'0000'0000) == fault_kind::not_canonical);
    CHECK(looked(five{}, 0xff00'0000'0000'0000) == fault_kind::not_present);
    CHECK(refused(two{}, 0x1'0000'0000) == fault_kind::address_too_wide);
    CHECK(looked(two{}, 0xffff'ffff) == fault_kind::not_present);
    CHECK(refused(pae{}, 0x1'0000'0000) == fault_kind::address_too_wide);
    CHECK(refused(ept<ept_features{}>{}, word{1} << 48) == fault_kind::address_too_wide);
    CHECK(looked(ept<ept_features{}>{}, 0xffff'ffff'ffff) == fault_kind::not_present);
    CHECK(refused(npt<npt_features{.levels = 5}>{}, word{1} << 57) == fault_kind::address_too_wide);
}

TEST_CASE("a format that is wrong translates nothing")
{
    arena memory(0, 2);
    for (word& w : memory.words()) w = ~word{0};
    for (const unsigned levels : {0U, 1U, 6U, 4000U}) {
        const walk_result r =
            walk(format_for(shadow_features{.levels = levels}), 0, 0, {}, {}, memory, update_flags::yes);
        CHECK(r.fault == fault_kind::not_present);
        CHECK(r.steps == 0);
    }
}

TEST_CASE("user and supervisor, WP, SMEP, SMAP")
{
    const auto code = [](one_page page, const asked& a, const cpu_controls& cpu) -> int {
        const walk_result r = page.walked(long_mode{}, a, cpu);
        return r ? -1 : static_cast<int>(page_fault_code(r, a, cpu, long_mode{}));
    };
    const one_page user_page;
    const one_page read_only(0x2067, 0x3067, 0x4065, 0x5067);
    const one_page supervisor_page(0x2067, 0x3063, 0x4067, 0x5067);
    const one_page no_execute(0x2067, 0x8000'0000'0000'3067, 0x4067, 0x5067);
    const one_page absent(0x2067, 0x3067, 0x4066, 0x5067);
    const one_page reserved(0x2067, 0x30e7, 0x4067, 0x5067);
    constexpr int allowed = -1;

    CHECK(code(user_page, user_read, {}) == allowed);
    CHECK(code(user_page, user_fetch, {}) == allowed);
    CHECK(code(supervisor_page, user_read, {}) == 0x5);
    CHECK(code(supervisor_page, user_write, {}) == 0x7);
    CHECK(code(supervisor_page, user_fetch, {}) == 0x15);
    CHECK(code(supervisor_page, supervisor_write, {}) == allowed);
    CHECK(code(no_execute, supervisor_fetch, {}) == 0x11);
    CHECK(code(no_execute, supervisor_write, {}) == allowed);
    CHECK(code(absent, supervisor_fetch, {}) == 0x10);
    CHECK(code(absent, user_write, {}) == 0x6);
    CHECK(code(reserved, supervisor_read, {}) == 0x9);

    CHECK(code(read_only, supervisor_write, {}) == 0x3);
    CHECK(code(read_only, supervisor_write, {.write_protect = false}) == allowed);
    CHECK(code(read_only, user_write, {.write_protect = false}) == 0x7);
    CHECK(code(read_only, {.what = operation::read_write}, {}) == 0x3);

    CHECK(code(user_page, supervisor_fetch, {.smep = true}) == 0x11);
    CHECK(code(user_page, user_fetch, {.smep = true}) == allowed);
    CHECK(code(supervisor_page, supervisor_fetch, {.smep = true}) == allowed);
    CHECK(code(user_page, supervisor_read, {.smep = true}) == allowed);

    CHECK(code(user_page, supervisor_read, {.smap = true}) == 0x1);
    CHECK(code(user_page, supervisor_write, {.smap = true}) == 0x3);
    CHECK(code(user_page, supervisor_fetch, {.smap = true}) == allowed);
    CHECK(code(user_page, user_read, {.smap = true}) == allowed);
    CHECK(code(supervisor_page, supervisor_read, {.smap = true}) == allowed);
    CHECK(code(user_page, supervisor_read, {.smap = true, .alignment_check = true}) == allowed);
    CHECK(code(user_page, {.implicit = true}, {.smap = true, .alignment_check = true}) == 0x1);

    // Without NXE bit 4 of the code tells a fetch only with SMEP.
    using no_nx = shadow<shadow_features{.execute_disable = false}>;
    one_page page(0x2067, 0x3067, 0x4067, 0);
    CHECK(page_fault_code(page.walked(no_nx{}, user_fetch), user_fetch, {}, no_nx{}) == 0x4);
    CHECK(page_fault_code(page.walked(no_nx{}, user_fetch), user_fetch, {.smep = true}, no_nx{}) == 0x14);
}

TEST_CASE("protection keys")
{
    using keyed = shadow<shadow_features{.protection_keys = true}>;
    constexpr word key_5 = word{5} << 59;
    constexpr std::uint32_t no_access = 1U << 10;
    constexpr std::uint32_t no_write = 2U << 10;
    const auto code = [](word e1, const asked& a, const cpu_controls& cpu) -> int {
        one_page page(0x2067, 0x3067, 0x4067, e1);
        const walk_result r = page.walked(keyed{}, a, cpu);
        return r ? -1 : static_cast<int>(page_fault_code(r, a, cpu, keyed{}));
    };
    constexpr word user_page = 0x5067 | key_5;
    constexpr word supervisor_page = 0x5063 | key_5;
    constexpr int allowed = -1;

    CHECK(code(user_page, user_read, {.user_keys = true, .pkru = no_access}) == 0x25);
    CHECK(code(user_page, user_write, {.user_keys = true, .pkru = no_access}) == 0x27);
    CHECK(code(user_page, supervisor_read, {.user_keys = true, .pkru = no_access}) == 0x21);
    CHECK(code(user_page, user_fetch, {.user_keys = true, .pkru = no_access}) == allowed);
    CHECK(code(user_page, user_read, {.user_keys = false, .pkru = no_access}) == allowed);
    CHECK(code(user_page, user_read, {.user_keys = true, .pkru = ~(3U << 10)}) == allowed);
    CHECK(code(user_page, user_read, {.user_keys = true, .pkru = no_write}) == allowed);
    CHECK(code(user_page, user_write, {.user_keys = true, .pkru = no_write}) == 0x27);
    CHECK(code(user_page, supervisor_write, {.user_keys = true, .pkru = no_write}) == 0x23);
    CHECK(code(user_page, supervisor_write, {.write_protect = false, .user_keys = true, .pkru = no_write}) == allowed);
    CHECK(code(user_page, user_write, {.write_protect = false, .user_keys = true, .pkru = no_write}) == 0x27);

    CHECK(code(supervisor_page, supervisor_read, {.supervisor_keys = true, .pkrs = no_access}) == 0x21);
    CHECK(code(supervisor_page, supervisor_write, {.supervisor_keys = true, .pkrs = no_write}) == 0x23);
    CHECK(code(supervisor_page, supervisor_read, {.user_keys = true, .pkru = no_access}) == allowed);
    CHECK(code(user_page, user_read, {.supervisor_keys = true, .pkrs = no_access}) == allowed);
    CHECK(code(supervisor_page, user_read, {.user_keys = true, .supervisor_keys = true}) == 0x5);
}

TEST_CASE("PAE: the top entries are checked when CR3 is loaded, and hold no permissions")
{
    using pae = shadow<shadow_features{.levels = 3, .physical_bits = 40}>;
    arena memory(0x1000, 4);
    memory.put<word>(0x1020, 0x2001);        // the table of four, 32 bytes aligned
    memory.put<word>(0x1028, 0x2000 | 0x6);  // not present: not looked at
    memory.put<word>(0x2000, 0x3067);
    memory.put<word>(0x3000, 0x5067);
    CHECK(!check_pdptes(pae{}, 0x1020, memory));
    const walk_result r = walk(pae{}, 0x1020, 0x123, user_write, {}, memory);
    CHECK(r);
    CHECK(r.address == 0x5123);
    CHECK(memory.get<word>(0x1020) == 0x2001);  // no A there
    CHECK(walk(pae{}, 0x1020, 0x4000'0000, {}, {}, memory).fault == fault_kind::not_present);

    for (const word reserved : {word{1} << 1, word{1} << 2, word{1} << 5, word{1} << 8, word{1} << 40, word{1} << 63}) {
        memory.put<word>(0x1038, 0x2001 | reserved);  // the fourth
        const finding f = check_pdptes(pae{}, 0x1020, memory);
        CHECK(f.broken == rule::reserved_bits);
        CHECK(f.bits == reserved);
        CHECK(walk(pae{}, 0x1020, 0xc000'0000, {}, {}, memory).fault == fault_kind::pdpte_reserved);
        CHECK(walk(pae{}, 0x1020, 0x123, {}, {}, memory));
    }
}

TEST_CASE("two levels: 4-Mbyte pages, PSE-36, and CR4.PSE off")
{
    using pse = shadow<shadow_features{.levels = 2, .physical_bits = 40}>;
    using narrow = shadow<shadow_features{.levels = 2, .physical_bits = 36}>;
    using off = shadow<shadow_features{.levels = 2, .large_pages = false}>;
    arena memory(0x1000, 3);
    memory.put<std::uint32_t>(0x1004, 0x0041'e0e7);  // 4 Mbytes at 0f'0040'0000, bits 16:13 of 20:13
    walk_result r = walk(pse{}, 0x1000, 0x0075'4321, user_write, {}, memory);
    CHECK(r);
    CHECK(r.address == 0xf'0075'4321);
    CHECK(r.page_shift == 22);
    CHECK(walk(narrow{}, 0x1000, 0x0075'4321, user_write, {}, memory).address == 0xf'0075'4321);

    memory.put<std::uint32_t>(0x1004, 0x0053'e0e7);  // also bit 20, address bit 39; and 16
    CHECK(walk(pse{}, 0x1000, 0x0040'0000, {}, {}, memory).address == 0x9f'0040'0000);
    r = walk(narrow{}, 0x1000, 0x0040'0000, {}, {}, memory);
    CHECK(r.fault == fault_kind::reserved_bits);
    CHECK(r.bits == 0x12'0000);
    memory.put<std::uint32_t>(0x1004, 0x0060'00e7);  // bit 21
    CHECK(walk(pse{}, 0x1000, 0x0040'0000, {}, {}, memory).fault == fault_kind::reserved_bits);

    memory.put<std::uint32_t>(0x1004, 0x0000'20e7);  // PSE off: PS is ignored, a table
    memory.put<std::uint32_t>(0x2008, 0x8000'0067);
    r = walk(off{}, 0x1000, 0x0040'2aaa, {}, {}, memory);
    CHECK(r.address == 0x8000'0aaa);
    CHECK(r.page_shift == 12);
}

TEST_CASE("EPT: violations and misconfigurations")
{
    using host = ept<ept_features{.physical_bits = 40, .execute_only = false}>;
    const auto end = [](word e1, const asked& a, word e2 = 0x4007) {
        one_page page(0x2007, 0x3007, e2, e1);
        return page.walked(host{}, a);
    };
    const auto qualification = [&](word e1, const asked& a, word e2 = 0x4007) {
        const walk_result r = end(e1, a, e2);
        CHECK((r.fault == fault_kind::protection || r.fault == fault_kind::not_present));
        return ept_qualification(r, a, host{});
    };
    CHECK(end(0x5037, user_write));
    CHECK(end(0x5037, user_write).memory_type == 0x30);
    CHECK(qualification(0x5031, user_write) == 0x18a);
    CHECK(qualification(0x5035, user_write) == 0x1aa);
    CHECK(qualification(0x5033, user_fetch) == 0x19c);
    CHECK(qualification(0x5037, user_write, 0x4005) == 0x1aa);
    CHECK(qualification(0x5000, user_read) == 0x181);
    CHECK(qualification(0x5037, user_read, 0xfff8) == 0x181);  // not present, whatever else
    CHECK(qualification(0x5031, {.what = operation::read_write}) == 0x18b);
    CHECK(qualification(0x5031, {.what = operation::write, .linear = false}) == 0xa);
    CHECK(qualification(0x5031, {.what = operation::read_write, .guest_table = true}) == 0x8b);

    CHECK(end(0x5032, user_read).broken == rule::write_without_read);
    CHECK(end(0x5034, user_read).broken == rule::execute_without_read);
    CHECK(end(0x5017, user_read).broken == rule::memory_type);
    CHECK(end(0x5037, user_read, 0x400f).broken == rule::reserved_bits);
    CHECK(end(0x5032, user_read).fault == fault_kind::misconfiguration);
    CHECK(end(0x5037, user_read, 0x400f).level == 2);
    using execute_only = ept<ept_features{}>;
    one_page page(0x2007, 0x3007, 0x4007, 0x5034);
    CHECK(page.walked(execute_only{}, user_fetch));
    CHECK(page.walked(execute_only{}, user_read).fault == fault_kind::protection);

    // Mode-based execute: X is the supervisor's, XU the user's; bit 6 of the qualification.
    using apart = ept<ept_features{.mode_based_execute = true}>;
    one_page user_only(0x2407, 0x3407, 0x4407, 0x5433);
    CHECK(user_only.walked(apart{}, user_fetch));
    const walk_result denied = user_only.walked(apart{}, supervisor_fetch);
    CHECK(denied.fault == fault_kind::protection);
    CHECK(ept_qualification(denied, supervisor_fetch, apart{}) == 0x1dc);
    one_page only_xu(0x2407, 0x3407, 0x4407, 0x5430);
    CHECK(only_xu.walked(apart{}, user_fetch));
}

TEST_CASE("the EPT pointer that VM entry takes")
{
    constexpr word all = word{1} << 6 | word{1} << 7 | word{1} << 8 | word{1} << 14 | word{1} << 21 | word{1} << 23;
    CHECK(check_eptp(0x1234'501e, all, 40) == eptp_error::none);
    CHECK(check_eptp(0x1234'5018, all, 40) == eptp_error::none);
    CHECK(check_eptp(0x1234'50e6, all, 40) == eptp_error::none);  // five levels, A/D, shadow stack
    CHECK(check_eptp(0x1234'501d, all, 40) == eptp_error::memory_type);
    CHECK(check_eptp(0x1234'501e, all & ~(word{1} << 14), 40) == eptp_error::memory_type);
    CHECK(check_eptp(0x1234'5018, all & ~(word{1} << 8), 40) == eptp_error::memory_type);
    CHECK(check_eptp(0x1234'5016, all, 40) == eptp_error::walk_length);
    CHECK(check_eptp(0x1234'501e, all & ~(word{1} << 6), 40) == eptp_error::walk_length);
    CHECK(check_eptp(0x1234'5026, all & ~(word{1} << 7), 40) == eptp_error::walk_length);
    CHECK(check_eptp(0x1234'505e, all & ~(word{1} << 21), 40) == eptp_error::accessed_dirty);
    CHECK(check_eptp(0x1234'509e, all & ~(word{1} << 23), 40) == eptp_error::shadow_stack);
    CHECK(check_eptp(0x1234'511e, all, 40) == eptp_error::reserved_bits);
    CHECK(check_eptp(0x1234'581e, all, 40) == eptp_error::reserved_bits);
    CHECK(check_eptp(word{1} << 40 | 0x1e, all, 40) == eptp_error::reserved_bits);
    CHECK(check_eptp(word{1} << 40 | 0x1e, all, 41) == eptp_error::none);
}

TEST_CASE("a table that maps itself is walked in bounds, and its A and D are set")
{
    arena memory(0x1000, 1);
    memory.put<word>(0x1ff8, 0x1007);  // the last entry refers to its own table
    const walk_result r = walk(long_mode{}, 0x1000, 0xffff'ffff'ffff'fff8, supervisor_write, {}, memory);
    CHECK(r);
    CHECK(r.address == 0x1ff8);
    CHECK(r.steps == 4);
    CHECK(memory.get<word>(0x1ff8) == 0x1067);

    arena loop(0x1000, 1);
    for (word& w : loop.words()) w = 0x1027;  // every entry, the leaf too
    loop.given.clear();
    CHECK(walk(long_mode{}, 0x1000, 0, supervisor_read, {}, loop).address == 0x1000);
    CHECK(loop.given.size() == 4);
}

// ---- entries that change meanwhile

namespace {

/// Another processor that acts once, between the look and a compare-exchange.
struct interfering_access : plain_access {
    arena* memory;
    word* victim;
    word put;
    unsigned* times;

    template <slot_word Word>
    bool compare_exchange(Word& slot, Word& expected, Word desired) const
    {
        if (*times != 0) {
            --*times;
            *victim = put;
        }
        return plain_access::compare_exchange(slot, expected, desired);
    }
};

}  // namespace

TEST_CASE("an entry that changed since it was judged is judged again")
{
    // A and D clear everywhere, so that every entry is exchanged.
    constexpr word e1 = 0x5007;
    const auto run = [](unsigned level, word put, const asked& a, unsigned times = 1) {
        one_page page(0x2007, 0x3007, 0x4007, e1);
        word* const victim = page.memory(word{5 - level} * 0x1000, std::type_identity<word>{});
        interfering_access other;
        other.memory = &page.memory;
        other.victim = victim;
        other.put = put;
        other.times = &times;
        const walk_result r = walk(long_mode{}, 0x1000, 0x123, a, {}, page.memory, update_flags::yes, other);
        CHECK(times == 0);
        return std::pair{r, *victim};
    };
    SUBCASE("the page is taken away: a fault, and nothing is set in the new entry")
    {
        const auto [r, now] = run(1, 0, user_write);
        CHECK(r.fault == fault_kind::not_present);
        CHECK(now == 0);
    }
    SUBCASE("it becomes read-only: a protection fault")
    {
        const auto [r, now] = run(1, 0x5005, user_write);
        CHECK(r.fault == fault_kind::protection);
        CHECK(now == 0x5005);
    }
    SUBCASE("it moves: the new place, and A and D are set there")
    {
        const auto [r, now] = run(1, 0x9007, user_write);
        CHECK(r.address == 0x9123);
        CHECK(now == 0x9067);
        CHECK(r.path[3].entry == 0x9007);
    }
    SUBCASE("another processor set A first")
    {
        const auto [r, now] = run(1, 0x5027, user_write);
        CHECK(r.address == 0x5123);
        CHECK(now == 0x5067);
    }
    SUBCASE("a table above changes to a large page")
    {
        const auto [r, now] = run(2, 0x20'0087, user_read);
        CHECK(r.address == 0x20'0123);
        CHECK(r.level == 2);
        CHECK(now == 0x20'00a7);
    }
    SUBCASE("the top entry vanishes")
    {
        const auto [r, now] = run(4, 0, user_read);
        CHECK(r.fault == fault_kind::not_present);
        CHECK(r.level == 4);
        CHECK(now == 0);
    }
}

TEST_CASE("walking threads and a harvesting one: no D is lost, nothing else changes")
{
    constexpr unsigned page_count = 16;
    constexpr unsigned walkers = 3;
    constexpr unsigned rounds = 4000;
    one_page one;
    for (unsigned i = 0; i < page_count; ++i) one.memory.put<word>(0x4000 + i * 8, 0x10'0007 + i * page_bytes);
    // The arena notes what it gives, which is not for several threads.
    const auto memory = [&words = one.memory.words()](word physical) { return &words[(physical - 0x1000) / 8]; };

    std::array<std::atomic<unsigned>, page_count> harvested{};
    std::array<std::atomic<unsigned>, page_count> written{};
    std::atomic<unsigned> bad = 0;
    std::atomic<unsigned> running = walkers;
    std::vector<std::thread> threads;
    for (unsigned w = 0; w < walkers; ++w) {
        threads.emplace_back([&, w] {
            for (unsigned n = 0; n < rounds; ++n) {
                const unsigned page = (n * (w + 1)) % page_count;
                const asked a = n % 2 == 0 ? user_write : user_read;
                const walk_result r = walk(long_mode{}, 0x1000, page * page_bytes, a, {}, memory);
                if (!r || r.address != 0x10'0000 + page * page_bytes) ++bad;
                if (a.writes()) ++written[page];
            }
            --running;
        });
    }
    threads.emplace_back([&] {
        while (running != 0) {
            for (unsigned i = 0; i < page_count; ++i) {
                word& slot = *memory(0x4000 + i * 8);
                if (harvest_dirty(slot, long_mode{})) ++harvested[i];
                age(slot, long_mode{});
            }
        }
    });
    for (std::thread& t : threads) t.join();

    CHECK(bad == 0);
    for (unsigned i = 0; i < page_count; ++i) {
        const word entry = *memory(0x4000 + i * 8);
        CHECK((entry & ~word{0x60}) == 0x10'0007 + i * page_bytes);
        if (written[i] != 0) CHECK(harvested[i] + ((entry & 0x40) != 0) >= 1);
        CHECK(harvested[i] <= written[i]);
    }
}

// ---- nested walks

namespace {

/// Maps the lowest 512 Gbytes to themselves, by 1-Gbyte leaves in the two pages at `root`.
template <class Host>
void map_identity(arena& memory, word root, const Host& host)
{
    put_entry(memory, root, encode(kind::table, 4, root + page_bytes, {}, host).entry, 64);
    for (word i = 0; i < 512; ++i) {
        const encoded leaf = encode(kind::leaf, 3, i << 30, {}, host);
        REQUIRE(leaf);
        put_entry(memory, root + page_bytes + i * 8, leaf.entry, 64);
    }
}

template <class Host>
void check_identity(const Host& host, unsigned seed)
{
    dice d(seed);
    unsigned reached = 0;
    for (unsigned round = 0; round < 60; ++round) {
        shadow_features f = random_features(d, std::type_identity<shadow_features>{});
        f.physical_bits = static_cast<unsigned>(32 + d.below(8));
        const auto guest = format_for(f);
        // The guest's tables, and behind them the host's.
        arena memory(0x10'0000, 8);
        fill(memory, guest, d);
        const word host_root = memory.base() + 6 * page_bytes;
        std::fill(memory.words().end() - 1024, memory.words().end(), 0);
        map_identity(memory, host_root, host);
        for (unsigned n = 0; n < 40; ++n) {
            const word root = memory.base() + d.below(6) * page_bytes;
            const word address = random_address(guest, d);
            asked a = random_access(d);
            a.guest_table = false;
            const cpu_controls cpu = random_controls(d);
            const std::vector<word> before = memory.words();
            const walk_result plain = walk(guest, root, address, a, cpu, memory);
            const std::vector<word> after = memory.words();
            memory.words() = before;
            const nested_result nested = nested_walk(guest, root, host, host_root, address, a, cpu, memory);
            // Tables that lead astray may use the host's; there nothing is said.
            bool astray = false;
            for (unsigned i = 0; i < plain.steps; ++i) astray = astray || plain.path[i].slot_address >= host_root;
            if (astray) {
                memory.words() = before;
                continue;
            }
            if (plain.fault == fault_kind::memory_absent) {
                CHECK(!nested);
            } else {
                CHECK(same_outcome(plain, nested.guest));
                CHECK(same_path(plain, nested.guest));
                CHECK(static_cast<bool>(plain) == static_cast<bool>(nested));
            }
            if (plain) {
                CHECK(nested.address() == plain.address);
                CHECK(nested.page_shift() == (plain.page_shift < 30 ? plain.page_shift : 30));
                CHECK(nested.guest_physical == plain.address);
                ++reached;
            } else if (plain.fault != fault_kind::memory_absent) {
                CHECK(nested.where == dimension::guest);
            }
            const auto guests = [](const std::vector<word>& all) {
                return std::vector<word>(all.begin(), all.end() - 1024);
            };
            CHECK(guests(memory.words()) == guests(after));

            // Without updates it ends the same and changes nothing.
            memory.words() = before;
            const nested_result looked =
                nested_walk(guest, root, host, host_root, address, a, cpu, memory, update_flags::no);
            CHECK(memory.words() == before);
            if (!uses_an_entry_twice(plain)) {
                CHECK(same_outcome(looked.guest, nested.guest));
                CHECK(same_outcome(looked.host, nested.host));
                CHECK(looked.where == nested.where);
            }
            memory.words() = before;
        }
    }
    CHECK(reached > 60);
}

/// A guest with one page over four-level host tables, everything by 4-Kbyte pages: guest-physical
/// pages 0 to f are at 10'0000 and on.
template <class Host>
struct nested_page {
    arena memory{0x1000, 0x110};
    Host host;

    nested_page()
    {
        word table = 0x1000;
        for (unsigned level = 4; level > 1; --level, table += page_bytes) {
            memory.put(table, encode(kind::table, level, table + page_bytes, {}, host).entry);
        }
        for (word page = 0; page < 16; ++page) memory.put(host_slot(page), leaf(page));
        guest(0x0, 0x1007);
        guest(0x1000, 0x2007);
        guest(0x2000, 0x3007);
        guest(0x3008, 0x7007);  // linear page 1 is guest-physical page 7
    }
    static word host_slot(word page) { return 0x4000 + page * 8; }
    [[nodiscard]] word leaf(word page, permissions p = {}) const
    {
        return encode(kind::leaf, 1, 0x10'0000 + page * page_bytes, p, host).entry;
    }
    void guest(word physical, word entry) { memory.put(0x10'0000 + physical, entry); }
    [[nodiscard]] word guest(word physical) const { return memory.get<word>(0x10'0000 + physical); }

    nested_result walked(const asked& a, update_flags update = update_flags::yes)
    {
        return nested_walk(long_mode{}, 0, host, 0x1000, 0x1abc, a, {}, memory, update);
    }
};

}  // namespace

TEST_CASE("the nested walk over an identity mapping is the plain walk")
{
    check_identity(ept<ept_features{}>{}, 21);
    check_identity(ept<ept_features{.accessed_dirty = false}>{}, 22);
    check_identity(npt<npt_features{}>{}, 23);
    check_identity(format_for(ept_features{}), 24);
}

TEST_CASE_TEMPLATE("a guest's walk sets A and D in both dimensions, through the host's tables", Host,
                   npt<npt_features{}>, ept<ept_features{}>)
{
    nested_page<Host> page;
    const nested_result r = page.walked(user_write);
    CHECK(r);
    CHECK(r.address() == 0x10'7abc);
    CHECK(r.guest_physical == 0x7abc);
    CHECK(page.guest(0) == 0x1027);
    CHECK(page.guest(0x2000) == 0x3027);
    CHECK(page.guest(0x3008) == 0x7067);
    const word a = Host::accessed.mask();
    const word d = Host::dirty.mask();
    for (const word used : {0U, 1U, 2U, 3U, 7U}) {
        CHECK((page.memory.template get<word>(page.host_slot(used)) & (a | d)) == (a | d));
    }
    for (const word unused : {4U, 5U, 6U, 8U}) CHECK((page.memory.template get<word>(page.host_slot(unused)) & a) == 0);
    const nested_result read = page.walked(user_read);
    CHECK(read);
}

TEST_CASE("NPT: guest tables are written, faults tell the dimension and the guest-physical address")
{
    using host = npt<npt_features{}>;
    nested_page<host> page;
    SUBCASE("a guest table is absent in the host's")
    {
        page.memory.put<word>(page.host_slot(2), 0);
        const nested_result r = page.walked(user_read);
        CHECK(!r);
        CHECK(r.where == dimension::host);
        CHECK(r.guest_physical == 0x2000);
        CHECK(r.host_access.guest_table);
        CHECK(npf_exit_info(r.host, r.host_access, host{}) == 0x2'0000'0006);
    }
    SUBCASE("a guest table is read-only in the host's: a fault, also on a read, also without updates")
    {
        for (const word entry : {0x1007U, 0x1027U}) {
            page.guest(0, entry);
            page.memory.put(page.host_slot(0), page.leaf(0, {.write = false}));
            for (const update_flags update : {update_flags::yes, update_flags::no}) {
                const nested_result r = page.walked(user_read, update);
                CHECK(r.where == dimension::host);
                CHECK(r.guest_physical == 0);
                CHECK(npf_exit_info(r.host, r.host_access, host{}) == 0x2'0000'0007);
            }
            CHECK(page.guest(0) == entry);
        }
    }
    SUBCASE("the page itself")
    {
        page.memory.put(page.host_slot(7), page.leaf(7, {.write = false}));
        CHECK(page.walked(supervisor_read));
        const nested_result r = page.walked(supervisor_write);
        CHECK(r.where == dimension::host);
        CHECK(r.guest_physical == 0x7abc);
        CHECK(!r.host_access.guest_table);
        CHECK(npf_exit_info(r.host, r.host_access, host{}) == 0x1'0000'0007);
        CHECK(r.guest);
        CHECK(page.guest(0x3008) == 0x7067);  // the guest's part was done
    }
    SUBCASE("the guest's own fault")
    {
        page.guest(0x3008, 0x7001);
        const nested_result r = page.walked(user_read);
        CHECK(r.where == dimension::guest);
        CHECK(r.guest.fault == fault_kind::protection);
        CHECK(page_fault_code(r.guest, user_read, {}, long_mode{}) == 0x5);
    }
    SUBCASE("no memory behind a guest table")
    {
        page.memory.put(page.host_slot(1), encode(kind::leaf, 1, 0x4000'0000, {}, host{}).entry);
        const nested_result r = page.walked(user_read);
        CHECK(r.where == dimension::guest);
        CHECK(r.guest.fault == fault_kind::memory_absent);
        CHECK(r.guest.level == 3);
    }
}

TEST_CASE("EPT: guest tables are read, and written where a flag must be set")
{
    using no_flags = ept<ept_features{.accessed_dirty = false}>;
    using flags = ept<ept_features{}>;
    constexpr permissions no_write{.write = false};

    SUBCASE("without A/D a read-only guest table serves while its A is set")
    {
        nested_page<no_flags> page;
        page.memory.put(page.host_slot(0), page.leaf(0, no_write));
        for (const update_flags update : {update_flags::yes, update_flags::no}) {
            const nested_result r = page.walked(user_read, update);
            CHECK(r.where == dimension::host);
            CHECK(r.guest_physical == 0);
            CHECK(ept_qualification(r.host, r.host_access, no_flags{}) == 0xaa);  // a write; R and X allowed
        }
        CHECK(page.guest(0) == 0x1007);
        page.guest(0, 0x1027);
        CHECK(page.walked(user_read));
        CHECK(page.walked(user_write));
    }
    SUBCASE("without A/D the leaf's table must be writable for D only")
    {
        nested_page<no_flags> page;
        for (const word table : {0x0U, 0x1000U, 0x2000U}) page.guest(table, page.guest(table) | 0x20);
        page.guest(0x3008, 0x7027);
        page.memory.put(page.host_slot(3), page.leaf(3, no_write));
        CHECK(page.walked(user_read));
        const nested_result r = page.walked(user_write);
        CHECK(r.where == dimension::host);
        CHECK(r.guest_physical == 0x3008);
        CHECK(page.guest(0x3008) == 0x7027);
    }
    SUBCASE("with A/D a guest table is always written")
    {
        nested_page<flags> page;
        page.guest(0, 0x1027);
        page.memory.put(page.host_slot(0), page.leaf(0, no_write));
        const nested_result r = page.walked(user_read);
        CHECK(r.where == dimension::host);
        CHECK(ept_qualification(r.host, r.host_access, flags{}) == 0xab);
    }
    SUBCASE("the final address")
    {
        nested_page<flags> page;
        page.memory.put<word>(page.host_slot(7), 0);
        const nested_result r = page.walked(user_write);
        CHECK(r.guest_physical == 0x7abc);
        CHECK(ept_qualification(r.host, r.host_access, flags{}) == 0x182);
    }
    SUBCASE("a misconfigured entry")
    {
        nested_page<flags> page;
        page.memory.put<word>(page.host_slot(7), 0x10'7032);
        CHECK(page.walked(user_write).host.fault == fault_kind::misconfiguration);
    }
}

TEST_CASE("EPT with mode-based execute asks by the linear address's mode")
{
    using host = ept<ept_features{.mode_based_execute = true}>;
    nested_page<host> page;
    page.memory.put(page.host_slot(7), page.leaf(7, {.execute = false}));  // XU alone
    CHECK(page.walked(supervisor_fetch));                                  // the linear page is a user page
    page.guest(0x3008, 0x7003);
    CHECK(page.walked(supervisor_fetch).where == dimension::host);
}

TEST_CASE("a two-level guest over EPT and NPT")
{
    const auto check = [](const auto& host) {
        using guest = shadow<shadow_features{.levels = 2}>;
        arena memory(0x10'0000, 8);
        const word host_root = memory.base() + 4 * page_bytes;
        map_identity(memory, host_root, host);
        memory.put<std::uint32_t>(0x10'0ffc, 0x0010'1007);  // the last of 1024
        memory.put<std::uint32_t>(0x10'1ffc, 0x4567'8007);
        const nested_result r = nested_walk(guest{}, 0x10'0000, host, host_root, 0xffff'fabc, user_write, {}, memory);
        CHECK(r);
        CHECK(r.address() == 0x4567'8abc);
        CHECK(r.page_shift() == 12);
        CHECK(memory.get<std::uint32_t>(0x10'0ffc) == 0x0010'1027);
        CHECK(memory.get<std::uint32_t>(0x10'1ffc) == 0x4567'8067);
        CHECK(memory.get<std::uint32_t>(0x10'0ff8) == 0);
    };
    check(ept<ept_features{}>{});
    check(ept<ept_features{.accessed_dirty = false}>{});
    check(npt<npt_features{}>{});
    check(format_for(npt_features{}));
}

TEST_CASE("an unpaged guest")
{
    using host = npt<npt_features{}>;
    nested_page<host> page;
    nested_result r = nested_walk(unpaged{}, 0, host{}, 0x1000, 0x7abc, supervisor_write, {}, page.memory);
    CHECK(r);
    CHECK(r.address() == 0x10'7abc);
    CHECK(r.page_shift() == 12);
    CHECK(r.guest.steps == 0);
    r = nested_walk(unpaged{}, 0, host{}, 0x1000, 0x1'0abc, supervisor_write, {}, page.memory);
    CHECK(r.where == dimension::host);
    CHECK(r.guest_physical == 0x1'0abc);
    CHECK(npf_exit_info(r.host, r.host_access, host{}) == 0x1'0000'0006);
}

namespace {

// Present by R or W. In entries that refer to a table R's bit is reserved.
struct odd_features {
    using description = struct odd_description;
    unsigned physical_bits = 40;
};
struct odd_fields {
    field read;
    field write;
};
struct odd_description {
    using features = odd_features;
    using fields = odd_fields;
    static constexpr row<features, fields> rows[] = {
        {"", bit(0), tables, role::reserved},
        {"R", bit(0), leaves, role::read, &fields::read},
        {"W", bit(1), every, role::write, &fields::write},
        {"", bits(11, 2), every, role::software},
        {"", bits(51, 12), every, role::address},
        {"", bits(63, 52), every, role::software},
    };
    static constexpr shape shape_of(const features&) { return {.levels = 2}; }
    static constexpr entries entries_of(const features&) { return leaf(1) | tables_up_to(2); }
};
using odd = static_format<odd_description, odd_features{}>;

}  // namespace

TEST_CASE("a level whose entries are present by another bit than a page's")
{
    for (word table = 0; table < 4; ++table) {
        for (word page = 0; page < 4; ++page) {
            const word ram[2] = {0x2000 | table, 0x5000 | page};
            const auto memory = [&](word physical) { return &ram[physical >> 12 == 2]; };
            const walk_result a = walk(odd{}, 0x1000, 0, {}, {}, memory, update_flags::no);
            const walk_result b = walk(format_for(odd_features{}), 0x1000, 0, {}, {}, memory, update_flags::no);
            CAPTURE(table);
            CAPTURE(page);
            CHECK(same_outcome(a, b));
            CHECK(same_path(a, b));
            CHECK((a.fault == fault_kind::reserved_bits) == ((table & 1) != 0));
            CHECK(static_cast<bool>(a) == (table == 2 && page != 0));
        }
    }
}

TEST_CASE("memory is asked once for each slot, also for one that it does not have")
{
    for (unsigned held = 0; held <= 4; ++held) {  // tables that are there, each referring to the next
        CAPTURE(held);
        const word entry[4] = {0x2007, 0x3007, 0x4007, 0x5007};
        unsigned asked_for = 0;
        const auto memory = [&](word physical) -> const word* {
            ++asked_for;
            return physical >> 12 <= held ? &entry[(physical >> 12) - 1] : nullptr;
        };
        const walk_result r = walk(shadow<shadow_features{}>{}, 0x1000, 0, {}, {}, memory, update_flags::no);
        CHECK(r.fault == (held == 4 ? fault_kind::none : fault_kind::memory_absent));
        CHECK(r.steps == held);
        CHECK(asked_for == (held == 4 ? 4 : held + 1));
        asked_for = 0;
        static_cast<void>(walk(format_for(shadow_features{}), 0x1000, 0, {}, {}, memory, update_flags::no));
        CHECK(asked_for == (held == 4 ? 4 : held + 1));
    }
}

TEST_CASE("memory that is only read, and memory that has slots of both widths")
{
    using linear = shadow<shadow_features{}>;
    using two_level = shadow<shadow_features{.levels = 2}>;
    // Level by level the same index, 1, in tables that follow each other.
    word ram[4 * 512] = {};
    for (word n = 0; n < 4; ++n) ram[n * 512 + 1] = (n + 2) << 12 | 0x7;
    const word address = word{1} << 39 | word{1} << 30 | word{1} << 21 | word{1} << 12 | 0x123;

    const auto read_only = [&](word physical) -> const word* { return ram + (physical - 0x1000) / 8; };
    const walk_result r = walk(linear{}, 0x1000, address, {}, {}, read_only, update_flags::no);
    CHECK(r);
    CHECK(r.address == 0x5123);
    CHECK(walk(format_for(shadow_features{}), 0x1000, address, {}, {}, read_only, update_flags::no).address == 0x5123);
    unsigned seen = 0;
    const auto count = [&](const auto&) { return ++seen, visit_next::into; };
    CHECK(visit(linear{}, 0x1000, {}, read_only, count).entered == 4);
    CHECK(seen == 4);

    arena both(0x1000, 4);
    both.words().assign(ram, ram + std::size_t{4} * 512);
    unsigned pages = 0;
    const auto report = [&](word, word) { ++pages; };
    CHECK(walk(linear{}, 0x1000, address, {.what = operation::write}, {}, both));
    CHECK(age_range(linear{}, 0x1000, {}, both, report).pages == 1);
    CHECK(harvest_range(linear{}, 0x1000, {}, both, report).pages == 1);
    both.words().assign(std::size_t{4} * 512, 0);
    both.put(0x1004, std::uint32_t{0x2007});
    both.put(0x2004, std::uint32_t{0x3067});
    CHECK(age_range(two_level{}, 0x1000, {}, both, report).pages == 1);
    CHECK(harvest_range(two_level{}, 0x1000, {}, both, report).pages == 1);
    CHECK(pages == 4);
}

TEST_CASE("walk_batch gives what walks one by one give, and sets the same flags")
{
    std::mt19937_64 random(3);
    using format = shadow<shadow_features{.physical_bits = 40}>;
    for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{16}, std::size_t{41}}) {
        std::vector<std::uint64_t> words(std::size_t{8} * 512);
        for (std::uint64_t& w : words) {
            const std::uint64_t page = random() % 9;  // the last is not there
            w = page << 12 | (random() % 8 == 0 ? random() & 0xff : 0x7);
        }
        std::vector<std::uint64_t> again = words;
        const auto memory_of = [](std::vector<std::uint64_t>& from) {
            return
                [&from](std::uint64_t physical) { return physical / 8 < from.size() ? &from[physical / 8] : nullptr; };
        };
        std::vector<std::uint64_t> addresses(count);
        for (std::uint64_t& address : addresses) {
            address = random() & 0x7fff'ffff'ffff;
            if (random() % 16 == 0) address |= std::uint64_t{1} << 63;  // not canonical
        }
        std::vector<walk_result> results(count + 1);
        walk_batch(format{}, 0, addresses.data(), count, {.what = operation::write, .user = true}, {}, memory_of(words),
                   results.data());
        for (std::size_t i = 0; i < count; ++i) {
            const walk_result one =
                walk(format{}, 0, addresses[i], {.what = operation::write, .user = true}, {}, memory_of(again));
            CHECK(results[i].fault == one.fault);
            CHECK(results[i].address == one.address);
            CHECK(results[i].level == one.level);
            CHECK(results[i].steps == one.steps);
            CHECK(results[i].allowed == one.allowed);
            CHECK(results[i].bits == one.bits);
        }
        CHECK(words == again);
    }
}
