// Visiting trees: every entry once, shared and looping tables, ranges, merged mappings.
#include <doctest/doctest.h>

#include <cstdint>
#include <ptebits/ptebits.hpp>
#include <random>
#include <vector>

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
