// SPDX-License-Identifier: BSL-1.0
// What holds of every walk, over random memory and all formats. Walks by the rules of x86's
// manuals are in x86.cpp; recorded outcomes of other MMUs are replayed by replay.cpp.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <ptebits/ptebits.hpp>
#include <ptebits/x86.hpp>
#include <random>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "walking.hpp"

using namespace walking;

namespace {

/// What holds of one walk, whatever memory holds. Returns how it ended.
template <class Format>
fault_kind check_one(const Format& format, arena& memory, word root, word address, const asked& a,
                     const cpu_controls& cpu)
{
    const unsigned levels = format->shape().levels;
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
        CHECK(looked.path[i].entry == entry_at(memory, looked.path[i].slot_address, format->shape().entry_bits));
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
        const layout& l = format->layout_at(walked.level_of(i), last ? kind::leaf : kind::table);
        word flags = format->accessed_by() == accessed_setter::hardware ? l.mask(role::accessed) : 0;
        if (last && a.writes()) flags |= l.mask(role::dirty);
        const word at = walked.path[i].slot_address;
        put_entry(expected, at, entry_at(expected, at, format->shape().entry_bits) | flags, format->shape().entry_bits);
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
std::map<fault_kind, unsigned> check_random(unsigned seed)
{
    dice d(seed);
    std::map<fault_kind, unsigned> ends;
    for (unsigned round = 0; round < 60; ++round) {
        const auto format = format_for(random_features(d, std::type_identity<Features>{}));
        REQUIRE(format->wrong().what == defect::none);
        arena memory(0x10'0000, 6);
        fill(memory, format, d);
        for (unsigned n = 0; n < 40; ++n) {
            const word root = memory.base() + d.below(memory.pages()) * page_bytes;
            const fault_kind end = check_one(format, memory, d.one_in(40) ? d.bits() : root, random_address(format, d),
                                             random_access(d), random_controls(d));
            ++ends[end];
        }
    }
    return ends;
}

}  // namespace

TEST_CASE("over random memory a walk reads what it was given, changes A and D only, and repeats itself")
{
    auto ordinary = check_random<shadow_features>(1);
    auto nested = check_random<npt_features>(2);
    auto extended = check_random<ept_features>(3);
    // The memory is worth its randomness: each way to end was met.
    for (const fault_kind k : {fault_kind::none, fault_kind::not_present, fault_kind::protection,
                               fault_kind::reserved_bits, fault_kind::pdpte_reserved, fault_kind::not_canonical,
                               fault_kind::address_too_wide, fault_kind::memory_absent}) {
        CAPTURE(static_cast<unsigned>(k));
        CHECK(ordinary[k] > 2);
    }
    CHECK(nested[fault_kind::none] > 20);
    CHECK(nested[fault_kind::reserved_bits] > 20);
    CHECK(extended[fault_kind::none] > 20);
    CHECK(extended[fault_kind::misconfiguration] > 20);
}

// ---- the fast path

namespace {

/// How often the kind of an entry was asked for: the fast path compares with constants instead.
unsigned kinds_asked = 0;

/// A format that counts.
template <class Description>
struct watched_format : runtime_format<Description> {
    using runtime_format<Description>::runtime_format;

    [[nodiscard]] constexpr const watched_format* operator->() const noexcept { return this; }
    [[nodiscard]] constexpr kind kind_of(word entry, unsigned level) const noexcept
    {
        if (!std::is_constant_evaluated()) ++kinds_asked;
        return runtime_format<Description>::kind_of(entry, level);
    }
};

/// The same of constants. By its own type it is no constant_format, and walks as one.
template <class Constants>
struct watched {
    using description = typename Constants::description;

    static constexpr watched_format<description> value{Constants::value.features()};

    [[nodiscard]] constexpr const watched_format<description>* operator->() const noexcept { return &value; }
};

/// Whether the fast path should know this entry by its bits alone: all that it has to be, and
/// where permissions make entries present, the lowest of them.
template <class Format>
bool plain_entry(word entry, unsigned level, const Format& format)
{
    const word present = format->present_mask();
    if constexpr (requires { format->restart; }) {
        if ((entry & format->restart.mask()) != 0) return false;
    }
    return legal(entry, level, format) && (entry & present & (~present + 1)) != 0;
}

struct tally {
    unsigned reached = 0;
    unsigned fast = 0;
    unsigned slow = 0;
};

/// Walks once by constants and once by the same features known at run time, over the same
/// memory: nothing tells them apart. Memory is as the walk left it.
template <class Format>
void check_same(arena& memory, word root, word address, const asked& a, const cpu_controls& cpu, tally& seen)
{
    constexpr Format constants;
    static const auto at_run_time = format_for(Format::value.features());
    static constexpr watched<Format> counted;

    const std::vector<word> before = memory.words();
    memory.given.clear();
    const walk_result slow = walk(at_run_time, root, address, a, cpu, memory);
    const std::vector<word> after = memory.words();
    const std::vector<word> given = memory.given;

    memory.words() = before;
    memory.given.clear();
    const walk_result quick = walk(constants, root, address, a, cpu, memory);
    CHECK(same_outcome(slow, quick));
    CHECK(same_path(slow, quick));
    CHECK(memory.words() == after);
    CHECK(memory.given == given);
    CHECK(fault_code(slow, a, cpu, at_run_time) == fault_code(quick, a, cpu, constants));
    seen.reached += static_cast<bool>(quick);

    // Each entry was read once, and the fast path was left only where it had to be.
    memory.words() = before;
    std::vector<const void*> loaded, changed;
    counting_access counting;
    counting.loaded = &loaded;
    counting.changed = &changed;
    kinds_asked = 0;
    const walk_result looked = walk(counted, root, address, a, cpu, memory, update_flags::no, counting);
    CHECK(loaded.size() == looked.steps);
    if (!uses_an_entry_twice(quick)) {
        CHECK(same_outcome(looked, quick));
        CHECK(same_path(looked, quick));
    }
    bool easy = looked.fault != fault_kind::memory_absent || looked.page_shift != 0;  // else sub-page permissions
    for (unsigned i = 0; i < looked.steps; ++i) {
        const bool end = i + 1 == looked.steps && looked.fault == fault_kind::not_present;
        easy = easy && (end || plain_entry(looked.path[i].entry, looked.level_of(i), constants));
    }
    if (looked.steps != 0 && easy) {
        CHECK(kinds_asked == 0);
        ++seen.fast;
    } else if (looked.steps != 0) {
        CHECK(kinds_asked != 0);
        ++seen.slow;
    }
    memory.words() = after;
}

}  // namespace

#define FORMATS                                                                                                  \
    shadow_of<shadow_features{.physical_bits = 40}>,                                                             \
        shadow_of<shadow_features{.levels = 5, .user_keys = true, .shadow_stacks = true, .encryption_bit = 47}>, \
        shadow_of<shadow_features{.gigabyte_pages = false, .hlat = true, .reserved_bit_8 = true}>,               \
        shadow_of<shadow_features{.levels = 3, .execute_disable = false}>,                                       \
        shadow_of<shadow_features{.levels = 3, .physical_bits = 36}>,                                            \
        shadow_of<shadow_features{.levels = 2, .physical_bits = 36}>,                                            \
        shadow_of<shadow_features{.levels = 2, .large_pages = false}>,                                           \
        npt_of<npt_features{.physical_bits = 48, .guest_mode_execute_trap = true}>,                              \
        npt_of<npt_features{.levels = 5, .execute_disable = false}>,                                             \
        npt_of<npt_features{.levels = 3, .supervisor_shadow_stack = true}>, npt_of<npt_features{.levels = 2}>,   \
        ept_of<ept_features{}>,                                                                                  \
        ept_of<ept_features{.physical_bits = 44, .mode_based_execute = true, .suppress_ve = true}>,              \
        ept_of<ept_features{.execute_only = false, .large_pages = false, .memory_bits = 46}>,                    \
        ept_of<ept_features{.levels = 5,                                                                         \
                            .physical_bits = 40,                                                                 \
                            .accessed_dirty = false,                                                             \
                            .execute_only = false,                                                               \
                            .gigabyte_pages = false,                                                             \
                            .mode_based_execute = true,                                                          \
                            .paging_write = true,                                                                \
                            .supervisor_shadow_stack = true,                                                     \
                            .sub_page_write = true,                                                              \
                            .software_accessed = 11U}>

TEST_CASE_TEMPLATE("formats of constants and those known at run time walk alike over random memory", Format, FORMATS)
{
    dice d(7);
    constexpr Format format;
    tally seen;
    for (unsigned round = 0; round < 40; ++round) {
        arena memory(0x10'0000, 6);
        fill(memory, format, d);
        for (unsigned n = 0; n < 60; ++n) {
            const word root = memory.base() + d.below(memory.pages()) * page_bytes;
            check_same<Format>(memory, root, random_address(format, d), random_access(d), random_controls(d), seen);
        }
    }
    CHECK(seen.reached > 20);
    CHECK(seen.fast > 200);
    CHECK(seen.slow > 50);
}

TEST_CASE_TEMPLATE("they walk alike over a chain in which one entry is anything", Format, FORMATS)
{
    constexpr Format format;
    const shape& s = format->shape();
    const word address = s.extended(0x5a5a'5a5a'5a5a'5123 & ones(s.address_bits() - 1, 0));
    std::vector<asked> accesses;
    for (const operation what : {operation::read, operation::write, operation::fetch, operation::read_write}) {
        for (const bool user : {false, true}) accesses.push_back({.what = what, .user = user});
    }
    tally seen;
    for (unsigned leaf_level = 1; leaf_level <= s.levels; ++leaf_level) {
        if (!format->exists(leaf_level, kind::leaf)) continue;
        arena memory(0x4000, s.levels - leaf_level + 1);  // nothing is behind the last table
        const chain c = build_chain(memory, format, leaf_level, address, 0);
        const std::vector<word> good = memory.words();
        CAPTURE(leaf_level);
        for (unsigned level = leaf_level; level <= s.levels; ++level) {
            CAPTURE(level);
            const word was = entry_at(memory, c.slots[level], s.entry_bits);
            std::vector<word> puts{0, was, was | format->accessed.mask(), was | format->accessed | format->dirty};
            puts.push_back(ones(s.entry_bits - 1, 0) & ~format->present_mask());  // absent, all else is set
            puts.push_back(ones(s.entry_bits - 1, 0));
            for (unsigned index = 0; index < s.entry_bits; ++index) puts.push_back(was ^ word{1} << index);
            for (word low = 0; low < 256; ++low) puts.push_back((was & ~word{255}) | low);
            for (const word put : puts) {
                CAPTURE(put);
                for (const asked& a : accesses) {
                    memory.words() = good;
                    put_entry(memory, c.slots[level], put, s.entry_bits);
                    check_same<Format>(memory, memory.base(), address, a, {.smep = true}, seen);
                }
            }
        }
    }
    CHECK(seen.reached > 20);
    CHECK(seen.fast > 200);
    CHECK(seen.slow > 50);
}

TEST_CASE_TEMPLATE("a walk that ends at an absent entry has the whole path to it, and so has one that lacks memory",
                   Format, FORMATS)
{
    constexpr Format format;
    const shape& s = format->shape();
    const auto check = [&](const auto& by) {
        for (unsigned level = 1; level <= s.levels; ++level) {
            for (const bool memory_ends : {false, true}) {
                if (memory_ends && level == s.levels) continue;
                arena memory(0x4000, memory_ends ? s.levels - level : s.levels);
                arena whole(0x4000, s.levels);
                const word address = s.extended(0x7777'7777'7777'7777 & ones(s.address_bits() - 1, 0));
                const chain c = build_chain(whole, by, 1, address, 0);
                whole.words().resize(memory.words().size());
                memory.words() = whole.words();
                const word nothing = 0xf000 & ~format->present_mask();
                if (!memory_ends) put_entry(memory, c.slots[level], nothing, s.entry_bits);
                const walk_result r = walk(by, memory.base(), address, {.user = true}, {}, memory, update_flags::no);
                CAPTURE(level);
                CHECK(r.fault == (memory_ends ? fault_kind::memory_absent : fault_kind::not_present));
                CHECK(r.level == level);
                CHECK(r.top_level == s.levels);
                CHECK(r.steps == s.levels - level + !memory_ends);
                CHECK((r.allowed == no_permissions) == !memory_ends);
                CHECK(r.broken == rule::none);
                for (unsigned i = 0; i < max_levels; ++i) {
                    const bool used = i < r.steps;
                    const word at = used ? c.slots[s.levels - i] : 0;
                    CHECK(r.path[i].slot_address == at);
                    CHECK(r.path[i].entry == (used ? entry_at(memory, at, s.entry_bits) : 0));
                }
            }
        }
    };
    check(format);
    check(format_for(Format::value.features()));
}

#undef FORMATS

// ---- chains

namespace {

template <class Features>
void check_legal_chains(unsigned seed)
{
    dice d(seed);
    for (unsigned round = 0; round < 300; ++round) {
        const auto format = format_for(random_features(d, std::type_identity<Features>{}));
        const shape& s = format->shape();
        auto leaf_level = static_cast<unsigned>(1 + d.below(s.levels));
        while (!format->exists(leaf_level, kind::leaf)) --leaf_level;
        word address = random_address(format, d);
        if (!s.translates(address)) address = 0x1234;
        const layout& page = format->layout_at(leaf_level, kind::leaf);
        const word place = page.address_in(d.bits() & page.mask(role::address));
        constexpr permissions all{};
        arena memory(0x4000, max_levels);
        const chain c = build_chain(memory, format, leaf_level, address, place);
        CAPTURE(s.levels);
        CAPTURE(leaf_level);
        for (const operation what : {operation::read, operation::write, operation::fetch, operation::read_write}) {
            for (const bool user : {false, true}) {
                const asked a{.what = what, .user = user};
                const walk_result r = walk(format, memory.base(), address, a, {}, memory);
                CHECK(r);
                CHECK(r.address == (place | (address & ones(s.page_shift(leaf_level) - 1, 0))));
                CHECK(r.page_shift == s.page_shift(leaf_level));
                CHECK(r.level == leaf_level);
                CHECK(r.steps == s.levels - leaf_level + 1);
                CHECK(r.allowed == all);
            }
        }
        const word leaf = entry_at(memory, c.slots[leaf_level], s.entry_bits);
        CHECK((leaf & format->dirty.mask()) == format->dirty.mask());
    }
}

}  // namespace

TEST_CASE("a present legal chain with all permissions never faults")
{
    check_legal_chains<shadow_features>(11);
    check_legal_chains<npt_features>(12);
    check_legal_chains<ept_features>(13);
}

// ---- single walks

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
    constexpr auto five = shadow<shadow_features{.levels = 5}>;
    constexpr auto two = shadow<shadow_features{.levels = 2}>;
    constexpr auto pae = shadow<shadow_features{.levels = 3}>;

    CHECK(refused(long_mode, 0x0000'8000'0000'0000) == fault_kind::not_canonical);
    CHECK(refused(long_mode, 0xffff'7fff'ffff'ffff) == fault_kind::not_canonical);
    CHECK(looked(long_mode, 0x0000'7fff'ffff'ffff) == fault_kind::not_present);
    CHECK(looked(long_mode, 0xffff'8000'0000'0000) == fault_kind::not_present);
    CHECK(refused(five, 0x0100'0000'0000'0000) == fault_kind::not_canonical);
    CHECK(looked(five, 0xff00'0000'0000'0000) == fault_kind::not_present);
    CHECK(refused(two, 0x1'0000'0000) == fault_kind::address_too_wide);
    CHECK(looked(two, 0xffff'ffff) == fault_kind::not_present);
    CHECK(refused(pae, 0x1'0000'0000) == fault_kind::address_too_wide);
    CHECK(refused(ept<ept_features{}>, word{1} << 48) == fault_kind::address_too_wide);
    CHECK(looked(ept<ept_features{}>, 0xffff'ffff'ffff) == fault_kind::not_present);
    CHECK(refused(npt<npt_features{.levels = 5}>, word{1} << 57) == fault_kind::address_too_wide);
}

TEST_CASE("a format that is wrong translates nothing")
{
    arena memory(0, 2);
    for (word& w : memory.words()) w = ~word{0};
    for (const unsigned levels : {0U, 1U, 6U, 7U, 4000U}) {
        const walk_result r =
            walk(format_for(shadow_features{.levels = levels}), 0, 0, {}, {}, memory, update_flags::yes);
        CHECK(r.fault == fault_kind::not_present);
        CHECK(r.steps == 0);
    }
}

TEST_CASE("a table that maps itself is walked in bounds, and its A and D are set")
{
    arena memory(0x1000, 1);
    memory.put<word>(0x1ff8, 0x1007);  // the last entry refers to its own table
    const walk_result r = walk(long_mode, 0x1000, 0xffff'ffff'ffff'fff8, supervisor_write, {}, memory);
    CHECK(r);
    CHECK(r.address == 0x1ff8);
    CHECK(r.steps == 4);
    CHECK(memory.get<word>(0x1ff8) == 0x1067);

    arena loop(0x1000, 1);
    for (word& w : loop.words()) w = 0x1027;  // every entry, the leaf too
    loop.given.clear();
    CHECK(walk(long_mode, 0x1000, 0, supervisor_read, {}, loop).address == 0x1000);
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
        const walk_result r = walk(long_mode, 0x1000, 0x123, a, {}, page.memory, update_flags::yes, other);
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
                const walk_result r = walk(long_mode, 0x1000, page * page_bytes, a, {}, memory);
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
                if (harvest_dirty(slot, long_mode)) ++harvested[i];
                age(slot, long_mode);
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

namespace {

/// A user's own MMU: each page that an entry leads to may be used by anybody.
struct free_paging {
    struct access {
        bool write = false;
        [[nodiscard]] constexpr bool writes() const { return write; }
    };
    struct controls {};

    template <class F>
    [[nodiscard]] static constexpr fault_kind fault_of(rule, unsigned, const F&)
    {
        return fault_kind::reserved_bits;
    }
    template <class F>
    [[nodiscard]] static constexpr bool allows(walk_result&, word, const access&, const controls&, const F&)
    {
        return true;
    }
};

// Present by R or W. In entries that refer to a table R's bit is reserved.
struct odd_features {
    using description = struct odd_description;
    unsigned physical_bits = 40;
};
struct odd_fields {
    entry_field read;
    entry_field write;
};
struct odd_description {
    using features = odd_features;
    using fields = odd_fields;
    using regime = free_paging;
    static constexpr row<features, fields> rows[] = {
        {"", bit(0), tables, role::reserved},
        {"R", bit(0), leaves, role::read, &fields::read},
        {"W", bit(1), every, role::write, &fields::write},
        {"", bits(11, 2), every, role::software},
        {"", bits(51, 12), every, role::address},
        {"", bits(63, 52), every, role::software},
    };
    static constexpr dimensions shape_of(const features&) { return {.levels = 2}; }
    static constexpr entries entries_of(const features&) { return leaf_at(1) | tables_up_to(2); }
};
constexpr constant_format<odd_description, odd_features{}> odd;

}  // namespace

TEST_CASE("a level whose entries are present by another bit than a page's")
{
    for (word table = 0; table < 4; ++table) {
        for (word page = 0; page < 4; ++page) {
            const word ram[2] = {0x2000 | table, 0x5000 | page};
            const auto memory = [&](word physical) { return &ram[physical >> 12 == 2]; };
            const walk_result a = walk(odd, 0x1000, 0, {}, {}, memory, update_flags::no);
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

// ---- what x86 does not have

namespace {

/// A user's MMU that minds writes.
struct careful_paging : free_paging {
    template <class F>
    [[nodiscard]] static constexpr bool allows(walk_result& r, word, const access& a, const controls&, const F&)
    {
        return !a.write || r.allowed.write;
    }
};

// Tables tell the level of what they refer to; 16 pages may make a run; a set bit denies writes.
struct other_features {
    using description = struct other_description;
    unsigned physical_bits = 48;
    accessed_setter sets = accessed_setter::hardware;
    bool modifier = false;  // hardware grants writes where the modifier is set, and has no D
};
struct other_fields {
    entry_field next_level;
};
struct other_description {
    using features = other_features;
    using fields = other_fields;
    using regime = careful_paging;
    static constexpr condition<features> by_modifier{"modifier", &features::modifier};
    static constexpr condition<features> by_flag{"no modifier",
                                                 [](const features& f, unsigned) { return !f.modifier; }};
    static constexpr row<features, fields> rows[] = {
        {"V", bit(0), every, is(1)},
        {"N", bits(3, 1), tables, role::next_level, &fields::next_level},
        {"", bits(3, 1), leaves, role::software},
        {"L", bit(4), tables, is(0)},
        {"L", bit(4), leaves, is(1)},
        {"RO", bit(5), every, denies(role::write)},
        {"", bit(6), tables, role::software},
        {"A", bit(6), leaves, role::accessed},
        {"", bit(7), tables, role::software},
        {"D", bit(7), leaves, role::dirty, nullptr, by_flag, role::software},
        {"", bit(8), tables, role::software},
        {"R", bit(8), leaf_at(1), is(0)},
        {"R", bit(8), run_at(1), is(1)},
        {"", bit(8), leaf_at(2), role::software},
        {"", bit(9), tables, role::software},
        {"M", bit(9), leaves, role::dirty_modifier, nullptr, by_modifier, role::software},
        {"", bits(11, 10), every, role::software},
        {"", bits(51, 12), every, address_with(role::reserved, role::beyond)},
        {"", bits(63, 52), every, role::reserved},
    };
    static constexpr dimensions shape_of(const features&) { return {.levels = 4, .run_bits = {4}}; }
    static constexpr entries entries_of(const features&)
    {
        return leaf_at(1) | run_at(1) | leaf_at(2) | tables_up_to(4);
    }
    static constexpr accessed_setter accessed_by(const features& f) { return f.sets; }
};
template <other_features F>
constexpr constant_format<other_description, F> other{};

/// Walks by constants and at run time: they agree.
template <other_features F>
walk_result walked_by(arena& memory, word address, bool write, update_flags update = update_flags::yes)
{
    const std::vector<word> before = memory.words();
    const walk_result a = walk(format_for(F), 0x1000, address, {write}, {}, memory, update);
    const std::vector<word> after = memory.words();
    memory.words() = before;
    const walk_result b = walk(other<F>, 0x1000, address, {write}, {}, memory, update);
    CHECK(same_outcome(a, b));
    CHECK(same_path(a, b));
    CHECK(memory.words() == after);
    return b;
}

}  // namespace

TEST_CASE("levels that an entry skips must have zeros in the address")
{
    constexpr other_features f;
    REQUIRE(well_formed(other<f>));
    arena memory(0x1000, 4);
    memory.put<word>(0x1008, 0x2003);       // the second entry, level 4: a table of level 1
    memory.put<word>(0x2010, 0x5000'00d1);  // the third: a page, A and D set
    walk_result r = walked_by<f>(memory, 0x80'0000'2abc, true);
    CHECK(r);
    CHECK(r.address == 0x5000'0abc);
    CHECK(r.steps == 2);
    CHECK(r.top_level == 4);
    CHECK(r.level == 1);
    CHECK(r.page_shift == 12);
    CHECK(r.path[0].slot_address == 0x1008);
    CHECK(r.path[1].slot_address == 0x2010);
    for (unsigned index = 21; index < 39; ++index) {
        CAPTURE(index);
        r = walked_by<f>(memory, 0x80'0000'2abc | word{1} << index, false);
        CHECK(r.fault == fault_kind::address_too_wide);
        CHECK(r.level == 4);
        CHECK(r.steps == 1);
    }
    // One level down each, and what is no level below.
    memory.put<word>(0x1008, 0x2007);
    memory.put<word>(0x2000, 0x3005);
    memory.put<word>(0x3000, 0x4003);
    memory.put<word>(0x4010, 0x6000'00d1);
    CHECK(walked_by<f>(memory, 0x80'0000'2abc, true).address == 0x6000'0abc);
    for (const word next : {0U, 4U, 5U, 7U}) {
        memory.put<word>(0x1008, 0x2001 | next << 1);
        r = walked_by<f>(memory, 0x80'0000'2abc, false);
        CHECK(r.fault == fault_kind::reserved_bits);
        CHECK(r.broken == rule::next_level);
        CHECK(r.bits == 0xe);
    }
}

TEST_CASE("runs, and addresses beyond the width")
{
    constexpr other_features f;
    arena memory(0x1000, 2);
    memory.put<word>(0x1000, 0x2003);
    memory.put<word>(0x2028, 0x7000'51d1);  // the sixth of a run, with the address of its own page
    walk_result r = walked_by<f>(memory, 0x5abc, true);
    CHECK(r);
    CHECK(r.address == 0x7000'5abc);
    CHECK(r.page_shift == 16);
    memory.put<word>(0x2028, 0x1'0000'7000'00d1 | word{1} << 50);
    r = walked_by<f>(memory, 0x5abc, false);
    CHECK(r.broken == rule::beyond_the_width);
    CHECK(r.bits == (word{1} << 48 | word{1} << 50));
}

TEST_CASE("flags that software sets: a walk faults where one is clear, and changes nothing")
{
    constexpr other_features f{.sets = accessed_setter::fault};
    arena memory(0x1000, 2);
    memory.put<word>(0x1000, 0x2003);
    for (const word flags : {0x00U, 0x40U, 0x80U, 0xc0U}) {
        CAPTURE(flags);
        memory.put<word>(0x2000, 0x5011 | flags);
        const bool accessed = (flags & 0x40) != 0;
        const bool dirty = (flags & 0x80) != 0;
        CHECK(walked_by<f>(memory, 0xabc, false).fault == (accessed ? fault_kind::none : fault_kind::access_flag));
        CHECK(walked_by<f>(memory, 0xabc, true).fault ==
              (accessed && dirty ? fault_kind::none : fault_kind::access_flag));
        CHECK(memory.get<word>(0x2000) == (0x5011 | flags));
    }
    memory.put<word>(0x2000, 0x5071);  // read-only, and D is clear
    CHECK(walked_by<f>(memory, 0xabc, true).fault == fault_kind::protection);
}

TEST_CASE("the dirty modifier: a write is granted, and the entry then grants it")
{
    constexpr other_features f{.modifier = true};
    arena memory(0x1000, 2);
    memory.put<word>(0x1000, 0x2003);
    memory.put<word>(0x2000, 0x5031);  // read-only, without the modifier
    CHECK(walked_by<f>(memory, 0xabc, true).fault == fault_kind::protection);
    CHECK(memory.get<word>(0x2000) == 0x5031);
    memory.put<word>(0x2000, 0x5231);
    CHECK(walked_by<f>(memory, 0xabc, true, update_flags::no));
    CHECK(memory.get<word>(0x2000) == 0x5231);
    CHECK(walked_by<f>(memory, 0xabc, false));
    CHECK(memory.get<word>(0x2000) == 0x5271);
    const walk_result r = walked_by<f>(memory, 0xabc, true);
    CHECK(r);
    CHECK(r.allowed.write);
    CHECK(memory.get<word>(0x2000) == 0x5251);
    // The table above denies writes: nothing that the leaf has helps.
    memory.put<word>(0x1000, 0x2023);
    memory.put<word>(0x2000, 0x5231);
    CHECK(walked_by<f>(memory, 0xabc, true).fault == fault_kind::protection);
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
        const walk_result r = walk(shadow<shadow_features{}>, 0x1000, 0, {}, {}, memory, update_flags::no);
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
    constexpr auto linear = shadow<shadow_features{}>;
    constexpr auto two_level = shadow<shadow_features{.levels = 2}>;
    // Level by level the same index, 1, in tables that follow each other.
    word ram[4 * 512] = {};
    for (word n = 0; n < 4; ++n) ram[n * 512 + 1] = (n + 2) << 12 | 0x7;
    const word address = word{1} << 39 | word{1} << 30 | word{1} << 21 | word{1} << 12 | 0x123;

    const auto read_only = [&](word physical) -> const word* { return ram + (physical - 0x1000) / 8; };
    const walk_result r = walk(linear, 0x1000, address, {}, {}, read_only, update_flags::no);
    CHECK(r);
    CHECK(r.address == 0x5123);
    CHECK(walk(format_for(shadow_features{}), 0x1000, address, {}, {}, read_only, update_flags::no).address == 0x5123);
    unsigned seen = 0;
    const auto count = [&](const auto&) { return ++seen, visit_next::into; };
    CHECK(visit(linear, 0x1000, {}, read_only, count).entered == 4);
    CHECK(seen == 4);

    arena both(0x1000, 4);
    both.words().assign(ram, ram + std::size_t{4} * 512);
    unsigned pages = 0;
    const auto report = [&](word, word) { ++pages; };
    CHECK(walk(linear, 0x1000, address, {.what = operation::write}, {}, both));
    CHECK(age_range(linear, 0x1000, {}, both, report).pages == 1);
    CHECK(harvest_range(linear, 0x1000, {}, both, report).pages == 1);
    both.words().assign(std::size_t{4} * 512, 0);
    both.put(0x1004, std::uint32_t{0x2007});
    both.put(0x2004, std::uint32_t{0x3067});
    CHECK(age_range(two_level, 0x1000, {}, both, report).pages == 1);
    CHECK(harvest_range(two_level, 0x1000, {}, both, report).pages == 1);
    CHECK(pages == 4);
}

TEST_CASE("walk_batch gives what walks one by one give, and sets the same flags")
{
    std::mt19937_64 random(3);
    constexpr auto format = shadow<shadow_features{.physical_bits = 40}>;
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
        walk_batch(format, 0, addresses.data(), count, {.what = operation::write, .user = true}, {}, memory_of(words),
                   results.data());
        for (std::size_t i = 0; i < count; ++i) {
            const walk_result one =
                walk(format, 0, addresses[i], {.what = operation::write, .user = true}, {}, memory_of(again));
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
