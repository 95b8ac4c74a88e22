// Visiting trees: every entry once, shared and looping tables, ranges, visitors that change the tree, merged
// mappings, holes.
#include <doctest/doctest.h>

#include <cstdint>
#include <ostream>
#include <ptebits/ptebits.hpp>
#include <random>
#include <string_view>
#include <vector>

#include "wider_formats.hpp"

using namespace ptebits;

namespace {

// A few pages of physical memory, as tables of 8-byte or of 4-byte entries.
template <class Word>
struct pages {
    static constexpr std::uint64_t count = 16;
    std::vector<Word> words = std::vector<Word>(count * 4096 / sizeof(Word));

    Word* operator()(std::uint64_t physical)
    {
        if (physical % sizeof(Word) != 0 || physical >= count * 4096) return nullptr;
        return &words[physical / sizeof(Word)];
    }
    Word& at(std::uint64_t page, unsigned index) { return words[page * 4096 / sizeof(Word) + index]; }
};

constexpr auto long_mode = shadow<shadow_features{}>;
constexpr auto two_level = shadow<shadow_features{.levels = 2}>;

struct seen {
    unsigned level;
    std::uint64_t address;
    std::uint64_t entry;
    bool operator==(const seen&) const = default;
};

template <class Format, class Memory>
std::vector<seen> entries_below(const Format& format, std::uint64_t root, Memory& memory, inclusive_range range = {},
                                table_set* once = nullptr)
{
    std::vector<seen> all;
    visit(
        format, root, range, memory,
        [&](const auto& e) {
            all.push_back({e.level, e.address, e.entry});
            CHECK(*e.slot == e.entry);
            CHECK(memory(e.slot_address) == e.slot);
            return visit_next::into;
        },
        once);
    return all;
}

}  // namespace

TEST_CASE("every entry of a tree, a table's entry before the table, high addresses sign-extended")
{
    pages<std::uint64_t> memory;
    memory.at(1, 0) = 0x2007;
    memory.at(1, 511) = 0x3007;
    memory.at(2, 5) = 0x4000'0087;  // 1 Gbyte
    memory.at(3, 511) = 0x4003;
    memory.at(4, 510) = 0x5003;
    memory.at(5, 1) = 0x7003;
    memory.at(5, 2) = 0x8000'0000'0000'0100;  // not present
    const std::vector<seen> expected = {
        {4, 0, 0x2007},
        {3, 0x1'4000'0000, 0x4000'0087},
        {4, 0xffff'ff80'0000'0000, 0x3007},
        {3, 0xffff'ffff'c000'0000, 0x4003},
        {2, 0xffff'ffff'ffc0'0000, 0x5003},
        {1, 0xffff'ffff'ffc0'1000, 0x7003},
        {1, 0xffff'ffff'ffc0'2000, 0x8000'0000'0000'0100},
    };
    CHECK(entries_below(long_mode, 0x1000, memory) == expected);
    CHECK(entries_below(format_for(shadow_features{}), 0x1000, memory) == expected);
}

TEST_CASE("a range shows the entries that translate part of it")
{
    pages<std::uint64_t> memory;
    memory.at(1, 0) = 0x2007;
    memory.at(2, 0) = 0x3007;
    memory.at(3, 0) = 0x4007;
    memory.at(3, 1) = 0x5007;
    for (unsigned i = 0; i < 512; ++i) memory.at(4, i) = memory.at(5, i) = 0x7007;
    const auto leaves_in = [&](inclusive_range range) {
        std::vector<std::uint64_t> addresses;
        for (const seen& s : entries_below(long_mode, 0x1000, memory, range)) {
            if (s.level == 1) addresses.push_back(s.address);
        }
        return addresses;
    };
    CHECK(leaves_in({0x1f'e123, 0x20'1000}) == std::vector<std::uint64_t>{0x1f'e000, 0x1f'f000, 0x20'0000, 0x20'1000});
    CHECK(leaves_in({0x3000, 0x3000}) == std::vector<std::uint64_t>{0x3000});
    CHECK(leaves_in({0x40'0000, 0x4000'0000}).empty());
    CHECK(leaves_in({}).size() == 1024);
    CHECK(leaves_in({0x0000'8000'0000'0000, 0xffff'7fff'ffff'ffff}).empty());  // no canonical address
    CHECK(leaves_in({0x3f'f000, 0xffff'9000'0000'0000}) == std::vector<std::uint64_t>{0x3f'f000});
}

TEST_CASE("tables that refer to themselves and to each other are visited once each")
{
    pages<std::uint64_t> memory;
    // Every entry of three tables refers to one of the three: 512^3 ways down.
    for (unsigned page = 1; page <= 3; ++page) {
        for (unsigned i = 0; i < 512; ++i) memory.at(page, i) = 0x1007 + (i % 3) * 0x1000;
    }
    std::uint64_t words[64];
    table_set once(words, 64);
    std::uint64_t entries = 0;
    const visit_summary summary = visit(
        long_mode, 0x1000, {}, memory,
        [&](const auto&) {
            ++entries;
            return visit_next::into;
        },
        &once);
    CHECK(summary.entered == 1 + 3 * 3);  // the root, and each table at each of the lower levels
    CHECK(entries == 10 * 512);
    CHECK(summary.again != 0);
    CHECK_FALSE(summary.set_is_full);

    std::uint64_t few[4];
    table_set small(few, 4);
    const visit_summary cut =
        visit(long_mode, 0x1000, {}, memory, [](const auto&) { return visit_next::into; }, &small);
    CHECK(cut.set_is_full);
    CHECK(cut.entered == 4);
}

TEST_CASE("a visitor may stop, leave tables out, and change slots; missing memory is counted")
{
    pages<std::uint64_t> memory;
    memory.at(1, 0) = 0x2007;
    memory.at(1, 1) = 0x7'0000'0007;  // no such memory
    memory.at(2, 0) = 0x3007;
    int met = 0;
    const auto count = [&](visit_next at_level_3) {
        met = 0;
        return visit(long_mode, 0x1000, {}, memory, [&](const auto& e) {
            ++met;
            return e.level == 3 ? at_level_3 : visit_next::into;
        });
    };
    CHECK(count(visit_next::into).missing == 512);
    CHECK(met == 3);
    CHECK(count(visit_next::over).entered == 3);
    CHECK(count(visit_next::stop).stopped);
    CHECK(met == 2);
    visit(long_mode, 0x1000, {}, memory, [](const auto& e) {
        set(*e.slot, bit(9));
        return visit_next::over;
    });
    CHECK(memory.at(1, 0) == 0x2207);
    CHECK(memory.at(2, 0) == 0x3007);
}

TEST_CASE("an empty slot is not shown, whatever it holds where violations may raise #VE")
{
    constexpr auto host = ept<ept_features{.accessed_dirty = false, .suppress_ve = true}>;
    constexpr std::uint64_t suppress = 0x8000'0000'0000'0000;
    pages<std::uint64_t> memory;
    for (unsigned page = 1; page <= 4; ++page) {
        for (unsigned i = 0; i < 512; ++i) memory.at(page, i) = suppress;
    }
    memory.at(1, 0) = 0x2007;
    memory.at(2, 0) = 0x3007;
    memory.at(3, 0) = 0x4007;
    memory.at(4, 1) = 0;  // never used
    memory.at(4, 2) = 0x7037;
    memory.at(4, 3) = suppress | 0x4a0;       // frozen
    memory.at(4, 4) = 0x8140'0000'0000'7030;  // tracked
    const std::vector<seen> expected = {{4, 0, 0x2007},
                                        {3, 0, 0x3007},
                                        {2, 0, 0x4007},
                                        {1, 0x2000, 0x7037},
                                        {1, 0x3000, suppress | 0x4a0},
                                        {1, 0x4000, 0x8140'0000'0000'7030}};
    CHECK(entries_below(host, 0x1000, memory) == expected);
    CHECK(entries_below(format_for(host->features()), 0x1000, memory) == expected);
}

TEST_CASE("an empty slot in which a CPU set A and D late is not shown")
{
    pages<std::uint64_t> memory;
    for (const std::uint64_t stray : {0x20U, 0x40U, 0x60U}) {
        memory.at(1, 0) = 0x2007;
        memory.at(2, 5) = stray;
        memory.at(2, 6) = stray | 0x400;  // frozen
        const std::vector<seen> expected = {{4, 0, 0x2007}, {3, std::uint64_t{6} << 30, stray | 0x400}};
        CHECK(entries_below(long_mode, 0x1000, memory) == expected);
    }
}

TEST_CASE("an entry that breaks a rule allows nothing, itself and below")
{
    constexpr auto format = ept<ept_features{.physical_bits = 46}>;
    pages<std::uint64_t> memory;
    memory.at(1, 0) = 0x2007;
    memory.at(2, 0) = 0x3006;  // W without R
    memory.at(2, 1) = 0x400f;  // a memory type in an entry for a table
    memory.at(2, 2) = 0x4007;
    memory.at(3, 0) = memory.at(4, 0) = 0x60'00b7;
    memory.at(4, 1) = 0x60'10b7;  // not aligned
    memory.at(4, 2) = 0x60'00b6;
    const auto check = [&](const auto& by) {
        int shown = 0;
        bool above = true;  // the entry of level 3
        const visit_summary summary = visit(by, 0x1000, {}, memory, [&](const auto& e) {
            ++shown;
            if (e.level == 3) above = legal(e.entry, 3, by);
            CHECK((e.allowed != no_permissions) == (above && legal(e.entry, e.level, by)));
            return visit_next::into;
        });
        CHECK(summary.entered == 5);
        CHECK(shown == 11);
    };
    check(format);
    check(format_for(format->features()));
}

TEST_CASE("two-level tables of 4-byte entries")
{
    pages<std::uint32_t> memory;
    memory.at(1, 1023) = 0x2007;
    memory.at(1, 2) = 0x80'0087;
    memory.at(2, 1023) = 0x5007;
    const std::vector<seen> expected = {{2, 0x80'0000, 0x80'0087}, {2, 0xffc0'0000, 0x2007}, {1, 0xffff'f000, 0x5007}};
    CHECK(entries_below(two_level, 0x1000, memory) == expected);
}

TEST_CASE("mappings that follow each other are one, and agree with a walk at every page")
{
    std::mt19937_64 random(7);
    for (int round = 0; round < 20; ++round) {
        pages<std::uint64_t> memory;
        memory.at(1, 0) = 0x2007;
        memory.at(2, 0) = 0x3007;
        memory.at(3, 0) = 0x4005;
        memory.at(3, 1) = 0x20'0087;
        memory.at(3, 2) = 0x5007;
        std::uint64_t frame = 0x10'0000;
        for (unsigned i = 0; i < 1024; ++i) {
            const auto what = static_cast<unsigned>(random() % 16);
            if (what == 0) frame += 0x1000;
            memory.at(4 + i / 512, i % 512) = what == 1 ? 0 : frame | (what == 2 ? 0x5U : 0x7U);
            frame += 0x1000;
        }
        std::vector<mapping> found;
        for_each_mapping(long_mode, 0x1000, {}, memory, [&](const mapping& m) { found.push_back(m); });
        std::uint64_t next = 0;
        std::uint64_t mapped = 0;
        for (std::size_t i = 0; i < found.size(); ++i) {
            CHECK(found[i].address >= next);
            next = found[i].address + found[i].bytes;
            mapped += found[i].bytes;
            if (i != 0) CHECK_FALSE(found[i - 1].continued_by(found[i]));
        }
        std::uint64_t walked = 0;
        std::size_t at = 0;
        for (std::uint64_t address = 0; address < 0x60'0000; address += 0x1000) {
            const walk_result r = walk(long_mode, 0x1000, address, {}, {}, memory, update_flags::no);
            while (at < found.size() && found[at].address + found[at].bytes <= address) ++at;
            const bool in = at < found.size() && found[at].address <= address;
            CHECK(static_cast<bool>(r) == in);
            if (!r || !in) continue;
            walked += 0x1000;
            CHECK(r.address == found[at].physical + (address - found[at].address));
            CHECK(r.allowed == found[at].allowed);
        }
        CHECK(walked == mapped);
    }
}

TEST_CASE("a table is visited again with rights that no visit had, and with no others")
{
    pages<std::uint64_t> memory;
    const auto ways = [&](std::initializer_list<std::uint64_t> top) {
        unsigned index = 0;
        for (unsigned i = 0; i < 16; ++i) memory.at(1, i) = 0;
        for (const std::uint64_t entry : top) memory.at(1, index++) = entry;
        std::uint64_t words[16];
        table_set once(words, 16);
        std::vector<permissions> shown;
        const visit_summary summary = visit(
            long_mode, 0x1000, {}, memory,
            [&](const auto& e) {
                if (e.level == 1) shown.push_back(e.allowed);
                return visit_next::into;
            },
            &once);
        CHECK_FALSE(summary.set_is_full);
        return shown;
    };
    memory.at(2, 0) = 0x3007;
    memory.at(3, 0) = 0x4007;
    memory.at(4, 5) = 0x7007;
    constexpr std::uint64_t no_execute = 0x8000'0000'0000'0000;
    constexpr permissions reads{.write = false, .execute = false, .user = false};
    constexpr permissions writes{.execute = false, .user = false};
    constexpr permissions executes{.write = false, .user = false};
    constexpr permissions both{.user = false};
    using shown = std::vector<permissions>;
    CHECK(ways({no_execute | 0x2001, no_execute | 0x2003, no_execute | 0x2001}) == shown{reads, writes});
    CHECK(ways({no_execute | 0x2003, no_execute | 0x2001, no_execute | 0x2003}) == shown{writes});
    // Neither includes the other; then one that includes both, and none is new after it.
    CHECK(ways({no_execute | 0x2003, 0x2001, 0x2003, no_execute | 0x2003, 0x2001, no_execute | 0x2001}) ==
          shown{writes, executes, both});
    CHECK(ways({0x2003, no_execute | 0x2003, 0x2001}) == shown{both});

    // Every order of ways shows a right in the end, with no more visits than there are rights to differ in.
    table_set::outcome known = table_set::outcome::known;
    std::uint64_t words[32];
    for (unsigned seed = 0; seed < 50; ++seed) {
        table_set set(words, 32);
        std::mt19937 random(seed);
        unsigned visits = 0;
        std::vector<unsigned> seen;
        for (unsigned n = 0; n < 200; ++n) {
            const unsigned r = random() % 32;
            const permissions p{(r & 1) != 0, (r & 2) != 0, (r & 4) != 0, (r & 8) != 0, (r & 16) != 0};
            bool included = false;
            for (const unsigned s : seen) included = included || (r & ~s) == 0;
            CHECK((set.add(0x5000, 2, p) == known) == included);
            visits += !included;
            seen.push_back(r);
        }
        CHECK(visits <= 32);
    }
}

TEST_CASE("a root that is none: nothing is read, and it counts as missing")
{
    constexpr auto format = shadow<shadow_features{}>;
    for (const std::uint64_t root : {std::uint64_t{0x1018}, std::uint64_t{0x1005}, std::uint64_t{1} << 52}) {
        unsigned asked = 0;
        const auto memory = [&](std::uint64_t) -> std::uint64_t* {
            ++asked;
            return nullptr;
        };
        const visit_summary s = visit(format, root, {}, memory, [](const auto&) { return visit_next::into; });
        CHECK(s.missing == 1);
        CHECK(s.entered == 0);
        CHECK(age_range(format, root, {}, memory, [](std::uint64_t, std::uint64_t) {}) == range_counts{.missing = 1});
        CHECK(harvest_range(format, root, {}, memory, [](std::uint64_t, std::uint64_t) {}) ==
              range_counts{.missing = 1});
        CHECK(asked == 0);
    }
}

TEST_CASE("private and shared neighbours are two mappings, and so are two keys")
{
    const auto count = [](const auto& format, std::uint64_t other) {
        std::uint64_t words[5 * 512] = {};
        for (unsigned level = 4; level > 1; --level) {
            words[(std::size_t{4} - level) * 512] =
                encode(kind::table, level, 0x1000 * (std::uint64_t{6} - level), {}, format).entry;
        }
        words[1536] = encode(kind::leaf, 1, 0x10'0000, {}, format).entry;
        words[1537] = encode(kind::leaf, 1, 0x10'1000, {}, format).entry | other;
        const auto memory = [&](std::uint64_t physical) { return &words[(physical - 0x1000) / 8]; };
        unsigned found = 0;
        static_cast<void>(for_each_mapping(format, 0x1000, {}, memory, [&](const mapping&) { ++found; }));
        return found;
    };
    CHECK(count(shadow<shadow_features{.encryption_bit = 47}>, 0) == 1);
    CHECK(count(shadow<shadow_features{.encryption_bit = 47}>, std::uint64_t{1} << 47) == 2);
    CHECK(count(ept<ept_features{.key_id_bits = {51, 48}}>, std::uint64_t{3} << 48) == 2);
}

TEST_CASE("HLAT paging ends at an entry with R: nothing is allowed there and below, and nothing is mapped")
{
    constexpr auto hlat = shadow<shadow_features{.hlat = true}>;
    std::uint64_t words[4 * 512] = {};
    words[0] = 0x2067;
    words[512] = 0x3067;
    words[1024] = 0x4067;
    words[1536] = 0x10'0067;
    words[1537] = 0x10'1067 | 0x800;
    const auto memory = [&](std::uint64_t physical) { return &words[(physical - 0x1000) / 8]; };
    const auto pages = [&](const auto& format) {
        unsigned mapped = 0;
        static_cast<void>(for_each_mapping(format, 0x1000, {}, memory,
                                           [&](const mapping& m) { mapped += static_cast<unsigned>(m.bytes >> 12); }));
        unsigned writable_pages = 0;
        static_cast<void>(visit(format, 0x1000, {}, memory, [&](const auto& e) {
            writable_pages += e.level == 1 && e.allowed.write;
            return visit_next::into;
        }));
        CHECK(mapped == writable_pages);
        return mapped;
    };
    CHECK(pages(hlat) == 1);
    CHECK(pages(shadow<shadow_features{}>) == 2);
    words[1024] |= 0x800;
    CHECK(pages(hlat) == 0);
    CHECK(pages(shadow<shadow_features{}>) == 2);
}

// ---- visitors that change what they are shown

namespace {

// Counts loads.
struct counting_access : plain_access {
    unsigned* loads;

    template <slot_word Word>
    [[nodiscard]] constexpr Word load(const Word& slot) const noexcept
    {
        ++*loads;
        return plain_access::load(slot);
    }
};

// A tree with 2 Mbytes of pages at 0, a large page behind them, and a table of 4 pages behind that.
void make_small_tree(pages<std::uint64_t>& memory)
{
    memory.at(1, 0) = 0x2067;
    memory.at(2, 0) = 0x3067;
    memory.at(3, 0) = 0x4067;
    memory.at(3, 1) = 0x20'00e7;
    memory.at(3, 2) = 0x5067;
    for (unsigned i = 0; i < 512; ++i) memory.at(4, i) = 0x10'0067 + 0x1000 * i;
    for (unsigned i = 0; i < 4; ++i) memory.at(5, i) = 0x40'0067 + 0x1000 * i;
}

}  // namespace

TEST_CASE("a page that the visitor splits is entered")
{
    const auto check = [](const auto& format) {
        pages<std::uint64_t> memory;
        memory.at(1, 0) = 0x2067;
        memory.at(2, 3) = 0x4000'00e5;  // 1 Gbyte, read only
        std::uint64_t free_page = 0x3000;
        std::uint64_t words[16];
        table_set once(words, 16);
        unsigned split_pages = 0;
        std::vector<seen> shown;
        const visit_summary s = visit(
            format, 0x1000, {}, memory,
            [&](const auto& e) {
                shown.push_back({e.level, e.address, e.entry});
                CHECK(e.allowed.write == (e.level == 4));
                // All of the first page, of the others the second one.
                if (e.is == kind::leaf && (e.level == 3 || (e.level == 2 && e.address % 0x4000'0000 == 0x20'0000))) {
                    CHECK(split_live(*e.slot, e.level, memory(free_page), free_page, format) == split_error::none);
                    free_page += 0x1000;
                    ++split_pages;
                }
                return visit_next::into;
            },
            &once);
        CHECK(split_pages == 2);
        CHECK(s.entered == 4);
        CHECK(s.missing == 0);
        REQUIRE(shown.size() == 2 + 512 + 512);
        CHECK(shown[1] == seen{3, 0xc000'0000, 0x4000'00e5});
        CHECK(shown[2] == seen{2, 0xc000'0000, 0x4000'00e5});
        CHECK(shown[3] == seen{2, 0xc020'0000, 0x4020'00e5});
        CHECK(shown[4] == seen{1, 0xc020'0000, 0x4020'0065});
        CHECK(shown[4 + 512] == seen{2, 0xc040'0000, 0x4040'00e5});
    };
    check(long_mode);
    check(format_for(shadow_features{}));
}

TEST_CASE("a page that the visitor splits is not entered if it wants what follows")
{
    pages<std::uint64_t> memory;
    make_small_tree(memory);
    unsigned below = 0;
    visit(long_mode, 0x1000, {0x20'0000, 0x3f'ffff}, memory, [&](const auto& e) {
        if (e.level == 1) ++below;
        if (e.level != 2) return visit_next::into;
        CHECK(split_live(*e.slot, e.level, memory(0x6000), 0x6000, long_mode) == split_error::none);
        return visit_next::over;
    });
    CHECK(below == 0);
    CHECK(memory.at(3, 1) == 0x6027);
}

TEST_CASE("a table that the visitor takes away or frees is not entered")
{
    for (const std::uint64_t instead : {std::uint64_t{0}, std::uint64_t{0x6000'0000'0000'0000},  // empty; a marker
                                        std::uint64_t{0x80'00e7}}) {                             // a large page
        pages<std::uint64_t> memory;
        make_small_tree(memory);
        std::vector<seen> shown;
        const visit_summary s = visit(long_mode, 0x1000, {}, memory, [&](const auto& e) {
            shown.push_back({e.level, e.address, e.entry});
            if (e.level == 2 && e.is == kind::table) {
                const std::uint64_t freed = address_of(e.entry, 2, long_mode);
                *e.slot = instead;
                // Somebody else's by now.
                for (unsigned i = 0; i < 512; ++i) memory.at(freed >> 12, i) = 0xdead'beef'0000'0001 + i;
            }
            return visit_next::into;
        });
        const std::vector<seen> expected = {
            {4, 0, 0x2067}, {3, 0, 0x3067}, {2, 0, 0x4067}, {2, 0x20'0000, 0x20'00e7}, {2, 0x40'0000, 0x5067}};
        CHECK(shown == expected);
        CHECK(s.entered == 3);
        CHECK(s.missing == 0);
    }
}

TEST_CASE("a table that the visitor puts in the place of another is entered, with the rights of its own entry")
{
    pages<std::uint64_t> memory;
    make_small_tree(memory);
    memory.at(6, 7) = 0x70'0067;
    std::uint64_t words[16];
    table_set once(words, 16);
    std::vector<seen> shown;
    const visit_summary s = visit(
        long_mode, 0x1000, {}, memory,
        [&](const auto& e) {
            if (e.level == 1) {
                shown.push_back({e.level, e.address, e.entry});
                CHECK_FALSE(e.allowed.write);
            }
            // Both slots get the same table.
            if (e.level == 2 && e.is == kind::table) *e.slot = 0x6065;
            return visit_next::into;
        },
        &once);
    CHECK(shown == std::vector<seen>{{1, 0x7000, 0x70'0067}});
    CHECK(s.entered == 4);
    CHECK(s.again == 1);
}

TEST_CASE("an entry that the visitor mends, breaks or widens counts as it is then for what is below")
{
    constexpr auto host = ept<ept_features{.physical_bits = 46}>;
    constexpr permissions reads_and_executes{.write = false};
    struct change {
        std::uint64_t before, after;
        permissions shown, below;
    };
    constexpr change changes[] = {
        {0x4006, 0x4005, no_permissions, reads_and_executes},  // W without R
        {0x4007, 0x4006, {}, no_permissions},
        {0x4005, 0x4007, reads_and_executes, {}},
        {0x4007, 0x4005, {}, reads_and_executes},
    };
    constexpr change below_broken{0x4005, 0x4007, no_permissions, no_permissions};
    pages<std::uint64_t> memory;
    memory.at(1, 0) = 0x2007;
    memory.at(2, 0) = 0x3007;
    memory.at(2, 1) = 0x5006;
    memory.at(4, 0) = 0x60'0037;
    memory.at(5, 0) = below_broken.before;
    for (unsigned i = 0; i < 4; ++i) memory.at(3, i) = changes[i].before;
    unsigned shown = 0;
    visit(host, 0x1000, {}, memory, [&](const auto& e) {
        const change& c = e.address < 0x4000'0000 ? changes[e.address >> 21] : below_broken;
        if (e.level == 2) {
            CHECK(e.allowed == c.shown);
            *e.slot = c.after;
        }
        if (e.level == 1) {
            ++shown;
            CHECK(e.allowed == c.below);
        }
        return visit_next::into;
    });
    CHECK(shown == 5);
}

TEST_CASE("a slot is read once, and once more if it may refer to a table that is wanted")
{
    pages<std::uint64_t> memory;
    make_small_tree(memory);
    const auto loads_of = [&](visit_next at_level_2) {
        unsigned loads = 0;
        visit(
            long_mode, 0x1000, {}, memory, [&](const auto& e) { return e.level == 2 ? at_level_2 : visit_next::into; },
            nullptr, counting_access{{}, &loads});
        return loads;
    };
    CHECK(loads_of(visit_next::over) == 3 * 512 + 2);
    CHECK(loads_of(visit_next::into) == 5 * 512 + 5);
}

namespace {

// Another thread exchanges one entry for another right after it was read.
struct racing_access : plain_access {
    std::uint64_t read;
    std::uint64_t then;
    std::uint64_t* there;

    template <slot_word Word>
    [[nodiscard]] constexpr Word load(const Word& slot) const noexcept
    {
        const Word value = slot;
        if (value == read) *there = then;
        return value;
    }
};

}  // namespace

TEST_CASE("a page that another thread splits right after it was read is one mapping, not two")
{
    pages<std::uint64_t> memory;
    make_small_tree(memory);
    for (unsigned i = 0; i < 512; ++i) memory.at(6, i) = 0x20'0065 + 0x1000 * i;
    std::uint64_t mapped = 0;
    for_each_mapping(
        long_mode, 0x1000, {}, memory, [&](const mapping& m) { mapped += m.bytes; },
        racing_access{{}, 0x20'00e7, 0x6067, &memory.at(3, 1)});
    CHECK(memory.at(3, 1) == 0x6067);
    CHECK(mapped == 0x40'4000);
}

TEST_CASE("a visitor that clears A and D on the way goes into all tables")
{
    pages<std::uint64_t> memory;
    make_small_tree(memory);
    unsigned shown = 0;
    const visit_summary s = visit(long_mode, 0x1000, {}, memory, [&](const auto& e) {
        ++shown;
        clear(*e.slot, long_mode->accessed.mask());
        return visit_next::into;
    });
    CHECK(s.entered == 5);
    CHECK(shown == 5 + 512 + 4);
    for (const seen& e : entries_below(long_mode, 0x1000, memory)) CHECK_FALSE(young(e.entry, long_mode));
}

// ---- holes

namespace {

// What for_each_mapping tells, in the order in which it does.
struct told {
    char what;  // m: a mapping, h: a hole, n: no page
    std::uint64_t first;
    std::uint64_t last;
    std::uint64_t detail;  // the physical address, the slots in use, the entry
    unsigned level = 0;    // of no page

    bool operator==(const told&) const = default;
};

std::ostream& operator<<(std::ostream& out, const told& t)
{
    return out << t.what << std::hex << " 0x" << t.first << "..0x" << t.last << " 0x" << t.detail << std::dec
               << " level " << t.level;
}

// A list that doctest prints.
struct list : std::vector<told> {
    using std::vector<told>::vector;

    friend std::ostream& operator<<(std::ostream& out, const list& l)
    {
        for (const told& t : l) out << '\n' << t;
        return out;
    }
};

struct teller {
    list& all;

    void operator()(const mapping& m) const { all.push_back({'m', m.address, m.address + (m.bytes - 1), m.physical}); }
    void operator()(const hole& h) const { all.push_back({'h', h.first, h.last, h.in_use}); }
    void operator()(const not_a_page& n) const { all.push_back({'n', n.first, n.last, n.entry, n.level}); }
};

template <class Format, class Memory>
list told_of(const Format& format, std::uint64_t root, Memory& memory, inclusive_range range = {})
{
    list all;
    const teller tell{all};
    for_each_mapping(format, root, range, memory, tell, tell);
    // Without the holes, and without what is no page, the rest is the same.
    const auto only = [&](const char* what) {
        list some;
        for (const told& t : all) {
            if (std::string_view(what).find(t.what) != std::string_view::npos) some.push_back(t);
        }
        return some;
    };
    list some;
    const teller again{some};
    for_each_mapping(format, root, range, memory, again);
    CHECK(some == only("m"));
    some.clear();
    for_each_mapping(format, root, range, memory, again, [&](const hole& h) { again(h); });
    CHECK(some == only("mh"));
    return all;
}

constexpr std::uint64_t lower_end = 0x0000'7fff'ffff'ffff;
constexpr std::uint64_t upper_begin = 0xffff'8000'0000'0000;

}  // namespace

TEST_CASE("holes are told between the mappings, up to the ends of the range")
{
    pages<std::uint64_t> memory;
    memory.at(1, 0) = 0x2067;
    memory.at(2, 0) = 0x3067;
    memory.at(3, 0) = 0x4067;
    memory.at(3, 2) = 0x40'00e7;
    memory.at(3, 4) = 0x5067;  // an empty table
    memory.at(4, 1) = 0x11'0067;
    memory.at(4, 2) = 0x11'1067;
    memory.at(4, 3) = 0x11'3067;
    memory.at(4, 511) = 0x11'0067;
    const auto in = [&](std::uint64_t first, std::uint64_t last) {
        const list all = told_of(long_mode, 0x1000, memory, {first, last});
        CHECK(all == told_of(format_for(shadow_features{}), 0x1000, memory, {first, last}));
        return all;
    };
    CHECK(in(0, 0xffff'ffff) == list{{'h', 0, 0xfff, 0},
                                     {'m', 0x1000, 0x2fff, 0x11'0000},
                                     {'m', 0x3000, 0x3fff, 0x11'3000},
                                     {'h', 0x4000, 0x1f'efff, 0},
                                     {'m', 0x1f'f000, 0x1f'ffff, 0x11'0000},
                                     {'h', 0x20'0000, 0x3f'ffff, 0},
                                     {'m', 0x40'0000, 0x5f'ffff, 0x40'0000},
                                     {'h', 0x60'0000, 0xffff'ffff, 0}});
    // Pages are shown whole, holes are not.
    CHECK(in(0x123, 0x1456) == list{{'h', 0x123, 0xfff, 0}, {'m', 0x1000, 0x1fff, 0x11'0000}});
    CHECK(in(0x3fff, 0x4000) == list{{'m', 0x3000, 0x3fff, 0x11'3000}, {'h', 0x4000, 0x4000, 0}});
    CHECK(in(0x4000, 0x4000) == list{{'h', 0x4000, 0x4000, 0}});
    CHECK(in(0x50'0000, 0x50'0000) == list{{'m', 0x40'0000, 0x5f'ffff, 0x40'0000}});
    CHECK(in(0x80'0001, 0x9f'fffe) == list{{'h', 0x80'0001, 0x9f'fffe, 0}});
    CHECK(in(1, 0).empty());
    CHECK(in(0, lower_end).back() == told{'h', 0x60'0000, lower_end, 0});
}

TEST_CASE("holes and mappings together are every address once, and holes are as large as they can be")
{
    std::mt19937_64 random(11);
    for (int round = 0; round < 40; ++round) {
        pages<std::uint64_t> memory;
        memory.at(1, 0) = 0x2067;
        memory.at(1, 256) = 0x2067;
        memory.at(2, 0) = 0x3067;
        memory.at(2, 511) = 0x3067;
        for (unsigned i = 0; i < 512; ++i) {
            constexpr std::uint64_t upper[] = {0, 0, 0x4067, 0x5067, 0x4065, 0x80'00e7, 0xa0'00e7, 0x80'2fe7};
            memory.at(3, i) = random() % 64 == 0 || round % 8 == 7 ? upper[random() % 8] : 0;
            const std::uint64_t page = ((random() % 8 + i) << 12);
            constexpr std::uint64_t flags[] = {0, 0x67, 0x67, 0x67, 0x65, 0x8000'0000'0000'0200, 0x20, 0x67};
            memory.at(4, i) = flags[random() % 8] | page * (random() % 8 != 0);
            memory.at(5, i) = random() % 64 == 0 ? 0x67 + 0x1000 * i : 0;
        }
        inclusive_range range;
        if (round % 4 != 0) range = {random() % 0x4000'0000, 0};
        if (round % 4 == 1) range.last = range.first + random() % 0x4000'0000;
        if (round % 4 == 2) range.last = upper_begin + random() % 0x4000'0000;
        if (round % 4 == 3) {
            range.first += upper_begin + 0x3f'c000'0000;
            range.last = ~std::uint64_t{0};
        }
        const list all = told_of(long_mode, 0x1000, memory, range);
        std::uint64_t next = range.first;
        std::uint64_t in_use = 0;
        char before = 'm';
        for (const told& t : all) {
            if (t.what == 'n') {
                CHECK_FALSE(translates(t.detail, long_mode, t.level));
                CHECK_FALSE(is_empty(t.detail, long_mode));
                ++in_use;
                continue;
            }
            if (next == lower_end + 1) next = upper_begin;
            const bool whole_page = t.first == next || (t.what == 'm' && next == range.first && t.first < next);
            CHECK(whole_page);
            if (t.what == 'h') {
                const bool apart = before == 'm' || t.first == upper_begin;
                CHECK(apart);
                CHECK(t.detail == in_use);
            } else {
                CHECK(in_use == 0);
            }
            in_use = 0;
            // Some addresses of each, by walking.
            for (unsigned i = 0; i < 4; ++i) {
                const std::uint64_t inside = i == 0 ? 0 : random() % (t.last - t.first + 1);
                const std::uint64_t address = i == 1 ? t.last : t.first + inside;
                const walk_result r = walk(long_mode, 0x1000, address, {}, {}, memory, update_flags::no);
                CHECK(static_cast<bool>(r) == (t.what == 'm'));
            }
            before = t.what;
            next = t.last + 1;
        }
        CHECK(in_use == 0);
        const bool whole_range = next == range.last + 1 || (before == 'm' && next > range.last);
        CHECK(whole_range);
    }
}

TEST_CASE("what a slot holds that is no page is told before the hole that has it")
{
    pages<std::uint64_t> memory;
    memory.at(1, 0) = 0x2067;
    memory.at(1, 1) = 0x8000'0000'0000'0087;  // page size at level 4
    memory.at(2, 0) = 0x3067;
    memory.at(3, 0) = 0x4067;
    memory.at(3, 1) = 0x20'20e7;  // not aligned
    memory.at(4, 1) = 0x11'0067;
    memory.at(4, 2) = 0x11'1067;
    memory.at(4, 3) = 0x600;  // absent, and holds something
    memory.at(4, 4) = 0x20;   // empty, A set late
    memory.at(4, 5) = 0x11'4067;
    memory.at(4, 6) = 0x100'0011'4067;  // too wide an address
    constexpr auto narrow = shadow<shadow_features{.physical_bits = 40}>;
    const list expected = {{'h', 0, 0xfff, 0},
                           {'m', 0x1000, 0x2fff, 0x11'0000},
                           {'n', 0x3000, 0x3fff, 0x600, 1},
                           {'h', 0x3000, 0x4fff, 1},
                           {'m', 0x5000, 0x5fff, 0x11'4000},
                           {'n', 0x6000, 0x6fff, 0x100'0011'4067, 1},
                           {'n', 0x20'0000, 0x3f'ffff, 0x20'20e7, 2},
                           {'n', 0x80'0000'0000, 0xff'ffff'ffff, 0x8000'0000'0000'0087, 4},
                           {'h', 0x6000, lower_end, 3},
                           {'h', upper_begin, ~std::uint64_t{0}, 0}};
    CHECK(told_of(narrow, 0x1000, memory) == expected);
    CHECK(told_of(format_for(narrow->features()), 0x1000, memory) == expected);
    // The slot's addresses are told whole, the hole ends with the range.
    CHECK(told_of(narrow, 0x1000, memory, {0x20'1000, 0x20'1fff}) ==
          list{{'n', 0x20'0000, 0x3f'ffff, 0x20'20e7, 2}, {'h', 0x20'1000, 0x20'1fff, 1}});
}

TEST_CASE("where HLAT paging ends is no page")
{
    constexpr auto hlat = shadow<shadow_features{.hlat = true}>;
    pages<std::uint64_t> memory;
    make_small_tree(memory);
    memory.at(3, 0) |= 0x800;
    memory.at(4, 0) |= 0x800;  // not reached
    memory.at(5, 1) |= 0x800;
    CHECK(told_of(hlat, 0x1000, memory, {0, 0x40'3fff}) == list{{'n', 0, 0x1f'ffff, 0x4867, 2},
                                                                {'h', 0, 0x1f'ffff, 1},
                                                                {'m', 0x20'0000, 0x3f'ffff, 0x20'0000},
                                                                {'m', 0x40'0000, 0x40'0fff, 0x40'0000},
                                                                {'n', 0x40'1000, 0x40'1fff, 0x40'1867, 1},
                                                                {'h', 0x40'1000, 0x40'1fff, 1},
                                                                {'m', 0x40'2000, 0x40'3fff, 0x40'2000}});
}

TEST_CASE("neither mappings nor holes reach over the addresses that are not canonical")
{
    pages<std::uint64_t> memory;
    CHECK(told_of(long_mode, 0x1000, memory) == list{{'h', 0, lower_end, 0}, {'h', upper_begin, ~std::uint64_t{0}, 0}});
    CHECK(told_of(long_mode, 0x1000, memory, {lower_end + 1, upper_begin - 1}).empty());
    CHECK(told_of(long_mode, 0x1000, memory, {lower_end, upper_begin}) ==
          list{{'h', lower_end, lower_end, 0}, {'h', upper_begin, upper_begin, 0}});
    CHECK(told_of(long_mode, 0x1000, memory, {lower_end + 1, upper_begin}) == list{{'h', upper_begin, upper_begin, 0}});
    CHECK(told_of(long_mode, 0x1000, memory, {lower_end, upper_begin - 1}) == list{{'h', lower_end, lower_end, 0}});

    // The last pages of the lower half and the first of the upper half, one after the other in memory.
    memory.at(1, 255) = 0x2067;
    memory.at(1, 256) = 0x5067;
    memory.at(2, 511) = 0x3067;
    memory.at(3, 511) = 0x4067;
    memory.at(5, 0) = 0x6067;
    memory.at(6, 0) = 0x7067;
    memory.at(4, 510) = 0x10'0067;
    memory.at(4, 511) = 0x10'1067;
    memory.at(7, 0) = 0x10'2067;
    memory.at(7, 1) = 0x10'3067;
    CHECK(told_of(long_mode, 0x1000, memory) == list{{'h', 0, lower_end - 0x2000, 0},
                                                     {'m', lower_end - 0x1fff, lower_end, 0x10'0000},
                                                     {'m', upper_begin, upper_begin + 0x1fff, 0x10'2000},
                                                     {'h', upper_begin + 0x2000, ~std::uint64_t{0}, 0}});
    CHECK(told_of(long_mode, 0x1000, memory, {lower_end, upper_begin}) ==
          list{{'m', lower_end - 0xfff, lower_end, 0x10'1000}, {'m', upper_begin, upper_begin + 0xfff, 0x10'2000}});
    // A page on one side only, and what is no page.
    memory.at(4, 511) = 0x600;
    memory.at(7, 0) = 0x600;
    CHECK(told_of(long_mode, 0x1000, memory, {lower_end - 0x1fff, upper_begin + 0x1fff}) ==
          list{{'m', lower_end - 0x1fff, lower_end - 0x1000, 0x10'0000},
               {'n', lower_end - 0xfff, lower_end, 0x600, 1},
               {'h', lower_end - 0xfff, lower_end, 1},
               {'n', upper_begin, upper_begin + 0xfff, 0x600, 1},
               {'h', upper_begin, upper_begin + 0xfff, 1},
               {'m', upper_begin + 0x1000, upper_begin + 0x1fff, 0x10'3000}});
    memory.at(1, 255) = 0;
    CHECK(told_of(long_mode, 0x1000, memory, {0, upper_begin + 0x1fff}) ==
          list{{'h', 0, lower_end, 0},
               {'n', upper_begin, upper_begin + 0xfff, 0x600, 1},
               {'h', upper_begin, upper_begin + 0xfff, 1},
               {'m', upper_begin + 0x1000, upper_begin + 0x1fff, 0x10'3000}});

    // Five levels.
    constexpr auto five = shadow<shadow_features{.levels = 5}>;
    pages<std::uint64_t> none;
    CHECK(told_of(five, 0x1000, none) ==
          list{{'h', 0, 0x00ff'ffff'ffff'ffff, 0}, {'h', 0xff00'0000'0000'0000, ~std::uint64_t{0}, 0}});
}

TEST_CASE("addresses of 64 bits: one hole of all of them, and no mapping from the last to the first")
{
    constexpr auto six = amdvi_host<amdvi_host_features{.levels = 6}>;
    pages<std::uint64_t> memory;
    CHECK(told_of(six, 0x1000, memory) == list{{'h', 0, ~std::uint64_t{0}, 0}});
    CHECK(told_of(six, 0x1000, memory, {~std::uint64_t{0}, ~std::uint64_t{0}}) ==
          list{{'h', ~std::uint64_t{0}, ~std::uint64_t{0}, 0}});
    // Two ways down: to the first page and to the last, which is before the first in memory.
    constexpr permissions all{};
    for (unsigned level = 6; level > 1; --level) {
        const std::uint64_t at = 7 - level;  // tables 1..6 for the first, 7..11 for the last
        const std::uint64_t last_index = ones(six->shape().index_bits_at(level) - 1U, 0);
        memory.at(at, 0) = encode(kind::table, level, (at + 1) << 12, all, six).entry;
        const std::uint64_t last_table = level == 6 ? 1 : 12 - level;
        memory.at(last_table, static_cast<unsigned>(last_index)) =
            encode(kind::table, level, (13 - level) << 12, all, six).entry;
    }
    memory.at(6, 0) = encode(kind::leaf, 1, 0x10'1000, all, six).entry;
    memory.at(11, 511) = encode(kind::leaf, 1, 0x10'0000, all, six).entry;
    constexpr std::uint64_t last_page = ~std::uint64_t{0xfff};
    CHECK(told_of(six, 0x1000, memory) == list{{'m', 0, 0xfff, 0x10'1000},
                                               {'h', 0x1000, last_page - 1, 0},
                                               {'m', last_page, ~std::uint64_t{0}, 0x10'0000}});
    CHECK(told_of(six, 0x1000, memory, {1, last_page - 1}) ==
          list{{'m', 0, 0xfff, 0x10'1000}, {'h', 0x1000, last_page - 1, 0}});
    CHECK(told_of(six, 0x1000, memory, {last_page + 5, ~std::uint64_t{0}}) ==
          list{{'m', last_page, ~std::uint64_t{0}, 0x10'0000}});
    memory.at(11, 511) = 0;
    CHECK(told_of(six, 0x1000, memory, {last_page + 5, ~std::uint64_t{0}}) ==
          list{{'h', last_page + 5, ~std::uint64_t{0}, 0}});
}

TEST_CASE("tables of the upper addresses alone, and tables of 32 bits of address")
{
    constexpr auto upper = aarch64_stage1<aarch64_stage1_features{.input_bits = 39, .upper_half = true}>;
    pages<std::uint64_t> memory;
    constexpr std::uint64_t begin = 0xffff'ff80'0000'0000;
    CHECK(told_of(upper, 0x1000, memory) == list{{'h', begin, ~std::uint64_t{0}, 0}});
    memory.at(1, 511) = encode(kind::table, 3, 0x2000, {}, upper).entry;
    memory.at(2, 511) = encode(kind::table, 2, 0x3000, {}, upper).entry;
    memory.at(3, 511) = encode(kind::leaf, 1, 0x7000, {.execute = false}, upper).entry;
    constexpr std::uint64_t last_page = ~std::uint64_t{0xfff};
    CHECK(told_of(upper, 0x1000, memory) ==
          list{{'h', begin, last_page - 1, 0}, {'m', last_page, ~std::uint64_t{0}, 0x7000}});
    CHECK(told_of(upper, 0x1000, memory, {0, begin - 1}).empty());

    pages<std::uint32_t> narrow;
    CHECK(told_of(two_level, 0x1000, narrow) == list{{'h', 0, 0xffff'ffff, 0}});
    narrow.at(1, 1023) = 0x2067;
    narrow.at(2, 1023) = 0x5067;
    CHECK(told_of(two_level, 0x1000, narrow) ==
          list{{'h', 0, 0xffff'efff, 0}, {'m', 0xffff'f000, 0xffff'ffff, 0x5000}});
}

TEST_CASE("what memory does not have is part of holes, and so is all without a root")
{
    pages<std::uint64_t> memory;
    make_small_tree(memory);
    memory.at(3, 0) = 0x7'0000'0067;  // no such memory
    list all;
    const teller tell{all};
    CHECK(for_each_mapping(long_mode, 0x1000, {0, 0x3f'ffff}, memory, tell, tell).missing == 512);
    CHECK(all == list{{'h', 0, 0x1f'ffff, 0}, {'m', 0x20'0000, 0x3f'ffff, 0x20'0000}});
    all.clear();
    CHECK(for_each_mapping(long_mode, 0x1001, {0, 0x3f'ffff}, memory, tell, tell).missing == 1);
    CHECK(all == list{{'h', 0, 0x3f'ffff, 0}});
    all.clear();
    const auto wrong = format_for(shadow_features{.levels = 7});
    CHECK(for_each_mapping(wrong, 0x1000, {0, 0x3f'ffff}, memory, tell, tell).entered == 0);
    CHECK(all.empty());
}

TEST_CASE("what is told may be unmapped, filled and split at once")
{
    pages<std::uint64_t> memory;
    make_small_tree(memory);
    memory.at(4, 7) = 0;
    memory.at(4, 8) = 0x600;
    memory.at(3, 3) = 0x6067;  // an empty table
    memory.at(3, 4) = 0x80'00e7;
    const inclusive_range range{0, 0x9f'ffff};
    list before;
    const teller tell{before};
    const auto level_2 = [&](std::uint64_t address) -> std::uint64_t& { return memory.at(3, unsigned(address >> 21)); };
    const auto level_1 = [&](std::uint64_t address) -> std::uint64_t& {
        return memory.at(level_2(address) >> 12, unsigned(address >> 12 & 511));
    };
    const auto put = [&](std::uint64_t address, std::uint64_t last, bool mapped) {
        while (address < last) {
            const bool whole = address % 0x20'0000 == 0 && last - address >= 0x1f'ffff;
            // Whole tables go, and large pages come in their place.
            if (whole) {
                if ((level_2(address) & 0x81) == 1) {
                    for (unsigned i = 0; i < 512; ++i) memory.at(level_2(address) >> 12, i) = 0xdead'0001;
                }
                level_2(address) = mapped ? address | 0xe7 : 0;
            } else {
                level_1(address) = mapped ? address | 0x67 : 0;
            }
            address += whole ? 0x20'0000 : 0x1000;
        }
    };
    for_each_mapping(
        long_mode, 0x1000, range, memory,
        [&](const mapping& m) {
            tell(m);
            put(m.address, m.address + (m.bytes - 1), false);
        },
        [&](const hole& h) {
            tell(h);
            put(h.first, h.last, true);
        });
    const list expected = {{'m', 0, 0x6fff, 0x10'0000},
                           {'h', 0x7000, 0x8fff, 1},
                           {'m', 0x9000, 0x1f'ffff, 0x10'9000},
                           {'m', 0x20'0000, 0x3f'ffff, 0x20'0000},
                           {'m', 0x40'0000, 0x40'3fff, 0x40'0000},
                           {'h', 0x40'4000, 0x7f'ffff, 0},
                           {'m', 0x80'0000, 0x9f'ffff, 0x80'0000}};
    CHECK(before == expected);
    const list opposite = {{'h', 0, 0x6fff, 0},
                           {'m', 0x7000, 0x8fff, 0x7000},
                           {'h', 0x9000, 0x40'3fff, 0},
                           {'m', 0x40'4000, 0x5f'ffff, 0x40'4000},
                           {'m', 0x60'0000, 0x7f'ffff, 0x60'0000},
                           {'h', 0x80'0000, 0x9f'ffff, 0}};
    CHECK(told_of(long_mode, 0x1000, memory, range) == opposite);
}

namespace {

// How much is mapped, and the largest hole in which no slot is in use.
struct usage {
    std::uint64_t mapped = 0;
    hole largest;

    void operator()(const mapping& m) { mapped += m.bytes; }
    void operator()(const hole& h)
    {
        if (h.in_use == 0 && h.last - h.first >= largest.last - largest.first) largest = h;
    }
};

}  // namespace

TEST_CASE("the mappings of a range and the largest hole in it")
{
    pages<std::uint64_t> memory;
    make_small_tree(memory);
    const std::uint64_t root = 0x1000;
    const inclusive_range range{0, lower_end};
    const auto& format = long_mode;
    usage of;
    for_each_mapping(format, root, range, memory, of, of);
    CHECK(of.mapped == 0x40'4000);
    CHECK(of.largest == hole{0x40'4000, lower_end});
    usage now;
    memory.at(1, 255) = 0x600;
    for_each_mapping(format, root, range, memory, now, now);
    CHECK(now.mapped == 0x40'4000);
    CHECK(now.largest == hole{});
}

// ---- visitors that change the tree by its operations

namespace {

// Tables from the pages that a tree does not have yet. A released one is filled with what must not be read.
struct spare_pages {
    pages<std::uint64_t>* memory;
    std::vector<std::uint64_t>* spare;

    [[nodiscard]] optional_address allocate(unsigned) const
    {
        if (spare->empty()) return {};
        const std::uint64_t page = spare->back();
        spare->pop_back();
        return page << 12;
    }
    void release(std::uint64_t table, unsigned) const
    {
        for (unsigned i = 0; i < 512; ++i) memory->at(table >> 12, i) = 0xdead'beef'0000'0067;
        spare->insert(spare->begin(), table >> 12);
    }
};
struct handle {
    pages<std::uint64_t>* memory;
    std::uint64_t* operator()(std::uint64_t physical) const { return (*memory)(physical); }
};

}  // namespace

TEST_CASE("a visitor unmaps what it is shown, and what is below is not shown")
{
    for (unsigned at = 1; at <= 4; ++at) {
        pages<std::uint64_t> memory;
        make_small_tree(memory);
        std::vector<std::uint64_t> spare;
        tree t{long_mode, 0x1000, handle{&memory}, spare_pages{&memory, &spare}};
        std::uint64_t shown[5] = {};
        const visit_summary s = visit(long_mode, 0x1000, {}, memory, [&](const auto& e) {
            ++shown[e.level];
            CHECK(e.entry < 0x1'0000'0000);
            if (e.level != at && e.is != kind::leaf) return visit_next::into;
            flush_list_of<> list;
            const tree_result gone = unmap(t, {e.address, e.address | ones(e.page_shift - 1, 0)}, list);
            CHECK(static_cast<bool>(gone));
            flushed(t, list);
            return visit_next::into;
        });
        CHECK(shown[4] == 1);
        CHECK(shown[3] == (at <= 3));
        CHECK(shown[2] == (at <= 2 ? 3 : 0));
        CHECK(shown[1] == (at == 1 ? 512 + 4 : 0));
        CHECK(s.entered == (at == 1 ? 5 : 5 - at));
        CHECK(spare.size() == (at == 1 ? 0 : at));
        CHECK(s.missing == 0);
        for (const seen& e : entries_below(long_mode, 0x1000, memory)) CHECK(e.level > at);
    }
}

TEST_CASE("mappings are unmapped, holes are filled and what is no page is removed while they are told")
{
    pages<std::uint64_t> memory;
    make_small_tree(memory);
    memory.at(4, 7) = 0;
    memory.at(4, 8) = 0x600;
    memory.at(3, 3) = 0x6067;  // an empty table
    memory.at(3, 4) = 0x80'00e7;
    std::vector<std::uint64_t> spare = {7, 8, 9};
    tree t{long_mode, 0x1000, handle{&memory}, spare_pages{&memory, &spare}};
    const inclusive_range range{0, 0xbf'ffff};
    struct changer {
        decltype(t)& of;
        list& all;

        void settle(const tree_result& r, flush_list& changes) const
        {
            CHECK(static_cast<bool>(r));
            flushed(of, changes);
        }
        void operator()(const mapping& m) const
        {
            teller{all}(m);
            flush_list_of<> changes;
            settle(unmap(of, {m.address, m.address + (m.bytes - 1)}, changes), changes);
        }
        void operator()(const hole& h) const
        {
            teller{all}(h);
            flush_list_of<> changes;
            settle(map(of, {h.first, h.last}, h.first, {}, changes), changes);
        }
        void operator()(const not_a_page& n) const
        {
            teller{all}(n);
            flush_list_of<> changes;
            settle(unmap(of, {n.first, n.last}, changes), changes);
        }
    };
    list before;
    const changer change{t, before};
    CHECK(for_each_mapping(long_mode, 0x1000, range, memory, change, change).missing == 0);
    CHECK(before == list{{'m', 0, 0x6fff, 0x10'0000},
                         {'n', 0x8000, 0x8fff, 0x600, 1},
                         {'h', 0x7000, 0x8fff, 1},
                         {'m', 0x9000, 0x1f'ffff, 0x10'9000},
                         {'m', 0x20'0000, 0x3f'ffff, 0x20'0000},
                         {'m', 0x40'0000, 0x40'3fff, 0x40'0000},
                         {'h', 0x40'4000, 0x7f'ffff, 0},
                         {'m', 0x80'0000, 0x9f'ffff, 0x80'0000},
                         {'h', 0xa0'0000, 0xbf'ffff, 0}});
    CHECK(told_of(long_mode, 0x1000, memory, range) == list{{'h', 0, 0x6fff, 0},
                                                            {'m', 0x7000, 0x8fff, 0x7000},
                                                            {'h', 0x9000, 0x40'3fff, 0},
                                                            {'m', 0x40'4000, 0x5f'ffff, 0x40'4000},
                                                            {'m', 0x60'0000, 0x7f'ffff, 0x60'0000},
                                                            {'h', 0x80'0000, 0x9f'ffff, 0},
                                                            {'m', 0xa0'0000, 0xbf'ffff, 0xa0'0000}});
}
