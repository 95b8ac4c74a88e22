// Splitting and merging: what the parts mean together is what the whole meant.
#include <doctest/doctest.h>

#include <cstdint>
#include <ptebits/ptebits.hpp>
#include <random>
#include <vector>

using namespace ptebits;

namespace {

template <class Word, class Format>
std::vector<Word> parts_of(std::uint64_t leaf, unsigned level, const Format& format)
{
    std::vector<Word> parts;
    for (unsigned i = 0; i < 1U << format->shape().index_bits_at(level - 1); ++i) {
        const resized part = split(leaf, level, i, format);
        REQUIRE(part);
        parts.push_back(static_cast<Word>(part.entry));
    }
    return parts;
}

// A random legal large leaf: any bits, then the rules mended.
template <class Format>
std::uint64_t random_leaf(unsigned level, const Format& format, std::mt19937_64& random)
{
    const layout& l = format->layout_at(level, kind::leaf);
    for (;;) {
        std::uint64_t entry = random() & l.all & ~l.mask(role::reserved);
        entry = (entry & ~l.mask(role::fixed)) | (l.value & l.mask(role::fixed));
        // Bits that only one size has: another test.
        entry &= ~(l.mask(role::software) & ~format->layout_at(level - 1, kind::leaf).mask(role::software));
        if (present(entry, format) && legal(entry, level, format)) return entry;
    }
}

template <class Word, class Format>
void check(const Format& format)
{
    std::mt19937_64 random(1);
    for (unsigned level = 2; level <= format->shape().levels; ++level) {
        if (!format->exists(level, kind::leaf)) continue;
        const layout& large = format->layout_at(level, kind::leaf);
        const layout& small = format->layout_at(level - 1, kind::leaf);
        for (int n = 0; n < 200; ++n) {
            const std::uint64_t leaf = random_leaf(level, format, random);
            CAPTURE(level);
            CAPTURE(leaf);
            std::vector<Word> parts = parts_of<Word>(leaf, level, format);
            int wrong = 0;
            for (std::size_t i = 0; i < parts.size(); ++i) {
                const std::uint64_t part = parts[i];
                wrong += !present(part, format) || !legal(part, level - 1, format);
                wrong += kind_of(part, level - 1, format) != kind::leaf;
                wrong += address_of(part, level - 1, format) !=
                         address_of(leaf, level, format) + (i << format->shape().page_shift(level - 1));
                wrong += permissions_of(part, level - 1, format) != permissions_of(leaf, level, format);
                wrong += (part & small.mask(role::accessed)) != (leaf & large.mask(role::accessed));
                wrong += (part & small.mask(role::dirty)) != (leaf & large.mask(role::dirty));
                wrong += (part & small.mask(role::software) & large.mask(role::software)) !=
                         (leaf & small.mask(role::software) & large.mask(role::software));
            }
            CHECK(wrong == 0);

            const std::uint64_t upper = encode(kind::table, level, 0, {}, format).entry;
            const resized back = merge(parts.data(), upper, level, format);
            REQUIRE(back);
            CHECK(back.entry == leaf);

            // One dirty part makes the whole dirty, and no other difference is tolerated.
            const std::size_t one = random() % parts.size();
            if (small.mask(role::dirty) != 0) {
                const Word kept = parts[one];
                parts[one] |= static_cast<Word>(small.mask(role::dirty) | small.mask(role::accessed));
                CHECK(merge(parts.data(), upper, level, format).entry ==
                      (leaf | large.mask(role::dirty) | large.mask(role::accessed)));
                parts[one] = kept;
            }
            parts[one] ^= static_cast<Word>(std::uint64_t{1} << format->shape().page_shift(level - 1));
            CHECK(merge(parts.data(), upper, level, format).error == split_error::not_contiguous);
        }
    }
}

}  // namespace

TEST_CASE("split and merge give back the leaf: 64-bit formats")
{
    check<std::uint64_t>(shadow<shadow_features{}>);
    check<std::uint64_t>(shadow<shadow_features{.levels = 3}>);
    check<std::uint64_t>(shadow<shadow_features{.physical_bits = 46, .protection_keys = true, .encryption_bit = 45}>);
    check<std::uint64_t>(npt<npt_features{.levels = 5}>);
    check<std::uint64_t>(ept<ept_features{}>);
    check<std::uint64_t>(ept<ept_features{.accessed_dirty = false, .suppress_ve = true, .software_accessed = 62}>);
    check<std::uint64_t>(format_for(ept_features{.mode_based_execute = true}));
}

TEST_CASE("two-level paging: a 4-Mbyte page splits where its address fits a 4-Kbyte entry")
{
    check<std::uint32_t>(shadow<shadow_features{.levels = 2, .physical_bits = 32}>);
    constexpr auto pse36 = shadow<shadow_features{.levels = 2, .physical_bits = 40}>;
    const std::uint64_t high = pse36->address(2, std::uint64_t{1} << 32) | 0x83;
    CHECK(split(high, 2, 0, pse36).error == split_error::bits_would_be_lost);
}

TEST_CASE("PAT is bit 12 of a large page and bit 7 of a small one")
{
    constexpr auto format = shadow<shadow_features{}>;
    CHECK(split(0x20'1083, 2, 0, format).entry == 0x20'0083);
    CHECK(split(0x20'0083, 2, 3, format).entry == 0x20'3003);
    CHECK(split(0x4000'1083, 3, 1, format).entry == 0x4020'1083);  // 1 Gbyte to 2 Mbytes: bit 12 stays
    std::vector<std::uint64_t> parts;
    for (std::uint64_t i = 0; i < 512; ++i) parts.push_back(0x20'0083 + (i << 12));
    CHECK(merge(parts.data(), 0x7, 2, format).entry == 0x20'1083);
}

TEST_CASE("what cannot be split or merged is told apart")
{
    constexpr auto format = ept<ept_features{}>;
    CHECK(split(0x20'0030, 2, 0, format).error == split_error::not_a_leaf);  // not present
    CHECK(split(0x20'0007, 2, 0, format).error == split_error::not_a_leaf);  // refers to a table
    CHECK(split(0x20'10b7, 2, 0, format).error == split_error::not_a_leaf);  // reserved bit 12
    CHECK(split(0x1037, 1, 0, format).error == split_error::no_such_entry);  // nothing below 4 Kbytes
    constexpr auto no_1g = ept<ept_features{.gigabyte_pages = false}>;
    std::vector<std::uint64_t> parts;
    for (std::uint64_t i = 0; i < 512; ++i) parts.push_back(0xb7 + (i << 21));
    CHECK(merge(parts.data(), 0x7, 3, no_1g).error == split_error::no_such_entry);
    CHECK(merge(parts.data(), 0x7, 3, format).entry == 0xb7);
    parts[511] |= 0x0200'0000'0000'0000;  // a software bit
    CHECK(merge(parts.data(), 0x7, 3, format).error == split_error::entries_differ);

    // Bit 7 of a 4-Kbyte EPT leaf is software's; in a larger one it is PS.
    parts.clear();
    for (std::uint64_t i = 0; i < 512; ++i) parts.push_back(0xb7 + (i << 12));
    CHECK(merge(parts.data(), 0x7, 2, format).error == split_error::bits_would_be_lost);
    // The pages start in the middle of a large one.
    parts.clear();
    for (std::uint64_t i = 0; i < 512; ++i) parts.push_back(0x1037 + (i << 12));
    CHECK(merge(parts.data(), 0x7, 2, format).error == split_error::not_contiguous);
}

TEST_CASE("merge does not lose what the entry above takes away")
{
    constexpr auto format = shadow<shadow_features{}>;
    std::vector<std::uint64_t> parts;
    for (std::uint64_t i = 0; i < 512; ++i) parts.push_back(0x20'0007 + (i << 12));
    CHECK(merge(parts.data(), 0x5007, 2, format).entry == 0x20'0087);
    for (const std::uint64_t above : {0x5005ULL, 0x5003ULL, 0x8000'0000'0000'5007ULL, 0x5006ULL}) {
        CHECK(merge(parts.data(), above, 2, format).error == split_error::rights_above);
    }
}

TEST_CASE("split_live sets the encryption bit of the new table's entry where it is asked to")
{
    constexpr auto format = npt<npt_features{.encryption_bit = 47}>;
    std::uint64_t slot = 0x20'0087 | format->encryption;
    std::uint64_t table[512];
    CHECK(split_live(slot, 2, table, 0x7000, format, format->encryption.mask()) == split_error::none);
    CHECK(slot == (0x7007 | format->encryption));
    CHECK(table[1] == (0x20'1007 | format->encryption));
    slot = 0x20'0087;
    CHECK(split_live(slot, 2, table, 0x7000, format, 0x80) == split_error::no_such_entry);  // PS
    CHECK(slot == 0x20'0087);
}

TEST_CASE("split_live keeps what hardware sets in the leaf meanwhile")
{
    // Sets D once, between the look and the exchange.
    struct interfering : atomic_access<> {
        int* times;
        bool compare_exchange(std::uint64_t& slot, std::uint64_t& expected, std::uint64_t desired) const
        {
            if ((*times)++ == 0) set(slot, bit(9) | bit(8));
            return atomic_access<>::compare_exchange(slot, expected, desired);
        }
    };
    constexpr auto format = ept<ept_features{}>;
    std::uint64_t slot = 0x20'00b7;
    std::uint64_t table[512];
    int times = 0;
    CHECK(split_live(slot, 2, table, 0x9000, format, 0, interfering{{}, &times}) == split_error::none);
    CHECK(times == 2);
    CHECK(slot == 0x9107);
    for (std::uint64_t i = 0; i < 512; ++i) CHECK(table[i] == 0x20'0337 + (i << 12));

    CHECK(split_live(slot, 2, table, 0x9000, format) == split_error::not_a_leaf);
    CHECK(slot == 0x9107);
}
