// SPDX-License-Identifier: BSL-1.0
// Properties of shapes, held against sums done another way: an address is the sum of what its
// indices stand for and of the offset in the page.
#include <ptebits/shape.hpp>

#include "manual.hpp"

using namespace ptebits;

namespace {

constexpr std::uint64_t none = ~std::uint64_t{0};

constexpr shape narrow = dimensions{.levels = 2, .entry_bits = 32, .index_bits = {10, 10}};
constexpr shape pae = dimensions{.levels = 3, .index_bits = {9, 9, 2}};
constexpr shape canonical = dimensions{.above = extension::sign};
constexpr shape canonical_5 = dimensions{.levels = 5, .above = extension::sign};
constexpr shape upper_half = dimensions{.levels = 4, .above = extension::ones};
constexpr shape whole = dimensions{.levels = 6, .index_bits = {9, 9, 9, 9, 9, 7}};  // as an AMD IOMMU's six levels
constexpr shape whole_signed = dimensions{.levels = 6, .index_bits = {9, 9, 9, 9, 9, 7}, .above = extension::sign};
constexpr shape whole_ones = dimensions{.levels = 6, .index_bits = {9, 9, 9, 9, 9, 7}, .above = extension::ones};
constexpr shape by_16k = dimensions{.levels = 4, .granule = 14, .index_bits = {11, 11, 11, 1}};
constexpr shape by_64k =
    dimensions{.levels = 3, .granule = 16, .index_bits = {13, 13, 6}, .run_bits = {5, 5}, .above = extension::ones};
constexpr shape one_level = dimensions{.levels = 1};

constexpr shape all_shapes[] = {narrow,       pae,        canonical, canonical_5, upper_half, whole,
                                whole_signed, whole_ones, by_16k,    by_64k,      one_level,  shape{}};

// Bits that the tables translate, counted.
unsigned bits_of(const shape& s)
{
    unsigned bits = s.granule;
    for (unsigned level = 1; level <= s.levels; ++level) bits += s.index_bits[level - 1];
    return bits;
}

// The offset that the tables see of an address, or none: extension by the words of the manuals.
std::uint64_t offset_of(std::uint64_t address, const shape& s)
{
    const unsigned bits = bits_of(s);
    std::uint64_t offset = 0;
    for (unsigned n = 0; n < 64; ++n) {
        const bool set = (address >> n & 1) != 0;
        if (n < bits) {
            offset |= set ? std::uint64_t{1} << n : 0;
            continue;
        }
        const bool top = (address >> (bits - 1) & 1) != 0;
        const bool expected = s.above == extension::ones || (s.above == extension::sign && top);
        if (set != expected) return none;
    }
    return offset;
}

template <class Use>
void for_addresses(const Use& use)
{
    constexpr std::uint64_t patterns[] = {0, 0x0123'4567'89ab'cdef, 0xfedc'ba98'7654'3210, 0xaaaa'aaaa'aaaa'aaaa};
    for (unsigned n = 0; n <= 64; ++n) {
        const std::uint64_t power = n < 64 ? std::uint64_t{1} << n : 0;
        for (const std::uint64_t pattern : patterns) {
            const std::uint64_t low = pattern & (power - 1);
            for (const std::uint64_t a : {power, power - 1, ~power, ~(power - 1), power | low, ~low, low}) use(a);
        }
    }
}

}  // namespace

TEST_CASE("shape: page sizes, indices and translated bits")
{
    CHECK(narrow.page_shift(1) == 12);
    CHECK(narrow.page_shift(2) == 22);
    CHECK(narrow.page_shift(3) == 32);
    CHECK(narrow.address_bits() == 32);
    CHECK(narrow.entry_bytes() == 4);
    CHECK(narrow.table_shift(1) == 12);
    CHECK(pae.page_shift(3) == 30);
    CHECK(pae.page_shift(4) == 32);
    CHECK(pae.index_bits_at(2) == 9);
    CHECK(pae.index_bits_at(3) == 2);
    CHECK(pae.address_bits() == 32);
    CHECK(pae.table_shift(2) == 12);
    CHECK(pae.table_shift(3) == 5);
    CHECK(shape{}.address_bits() == 48);
    CHECK(shape{}.entry_bytes() == 8);
    CHECK(canonical_5.address_bits() == 57);
    CHECK(whole.address_bits() == 64);
    CHECK(whole.page_shift(6) == 57);
    CHECK(whole.page_shift(7) == 64);
    CHECK(whole.table_shift(6) == 10);
    CHECK(shape(dimensions{.levels = 6}).address_bits() == 64);  // 66 bits of indices and offset
}

// Arm ARM, "VMSAv8-64 translation using the 16KB and the 64KB granule".
TEST_CASE("shape: granules of 16 and 64 Kbytes")
{
    CHECK(by_16k.page_shift(1) == 14);
    CHECK(by_16k.page_shift(2) == 25);
    CHECK(by_16k.page_shift(3) == 36);
    CHECK(by_16k.page_shift(4) == 47);
    CHECK(by_16k.address_bits() == 48);
    CHECK(by_16k.table_shift(1) == 14);
    CHECK(by_16k.table_shift(4) == 4);
    CHECK(by_64k.page_shift(1) == 16);
    CHECK(by_64k.page_shift(2) == 29);
    CHECK(by_64k.page_shift(3) == 42);
    CHECK(by_64k.address_bits() == 48);
    CHECK(by_64k.table_shift(2) == 16);
}

TEST_CASE("shape: a run translates as much as its entries together")
{
    CHECK(by_64k.page_shift(1, kind::run) == 21);
    CHECK(by_64k.page_shift(2, kind::run) == 34);
    CHECK(by_64k.page_shift(3, kind::run) == 42);
    for (const shape& s : all_shapes) {
        for (unsigned level = 1; level <= s.levels; ++level) {
            CHECK(s.page_shift(level, kind::run) == s.page_shift(level) + s.run_bits[level - 1]);
            CHECK(s.page_shift(level, kind::table) == s.page_shift(level));
            CHECK(s.page_shift(level, kind::leaf) == s.page_shift(level));
        }
    }
}

TEST_CASE("indices and the offset in the page make up the address")
{
    for (const shape& s : all_shapes) {
        CAPTURE(s.levels);
        CAPTURE(s.granule);
        for_addresses([&](std::uint64_t address) {
            CAPTURE(address);
            std::uint64_t sum = address % (std::uint64_t{1} << s.granule);
            std::uint64_t weight = std::uint64_t{1} << s.granule;
            for (unsigned level = 1; level <= s.levels; ++level) {
                const std::uint64_t index = s.index(address, level);
                REQUIRE(index < std::uint64_t{1} << s.index_bits[level - 1]);
                sum += index * weight;
                weight <<= s.index_bits[level - 1];
                REQUIRE(s.slot_address(0x7'0000, address, level) == 0x7'0000 + index * (s.entry_bits / 8));
            }
            const unsigned bits = bits_of(s);
            REQUIRE(sum == (bits >= 64 ? address : address % (std::uint64_t{1} << bits)));
        });
    }
    CHECK(canonical.index(0xffff'8000'0000'0000, 4) == 256);
    CHECK(canonical.slot_address(0x1000, 0xffff'8000'0000'0000, 4) == 0x1800);
    CHECK(pae.index(0xffff'ffff, 3) == 3);
    CHECK(narrow.slot_address(0x1000, 0xffff'ffff, 2) == 0x1ffc);
    CHECK(whole.index(none, 6) == 127);
    CHECK(whole.slot_address(0x1000, none, 6) == 0x13f8);
}

TEST_CASE("translates: the bits above are as they must be; extended is the way back")
{
    for (const shape& s : all_shapes) {
        CAPTURE(s.levels);
        CAPTURE(static_cast<int>(s.above));
        REQUIRE(s.address_bits() == bits_of(s));
        unsigned refused = 0;
        for_addresses([&](std::uint64_t address) {
            CAPTURE(address);
            const std::uint64_t offset = offset_of(address, s);
            const bool expected = offset != none || bits_of(s) == 64;
            REQUIRE(s.translates(address) == expected);
            refused += expected ? 0 : 1;
            if (expected) REQUIRE(s.extended(offset) == address);
            const std::uint64_t part = bits_of(s) == 64 ? address : address % (std::uint64_t{1} << bits_of(s));
            REQUIRE(s.translates(s.extended(part)));
        });
        CHECK((refused == 0) == (bits_of(s) == 64));
    }
    CHECK(canonical.translates(0x0000'7fff'ffff'ffff));
    CHECK_FALSE(canonical.translates(0x0000'8000'0000'0000));
    CHECK_FALSE(canonical.translates(0xffff'7fff'ffff'ffff));
    CHECK(canonical.translates(0xffff'8000'0000'0000));
    CHECK(canonical.extended(0x8000'0000'0000) == 0xffff'8000'0000'0000);
    CHECK(upper_half.translates(0xffff'0000'0000'0000));
    CHECK_FALSE(upper_half.translates(0xfffe'ffff'ffff'ffff));
    CHECK_FALSE(upper_half.translates(0));
    CHECK(upper_half.extended(0) == 0xffff'0000'0000'0000);
    CHECK(pae.translates(0xffff'ffff));
    CHECK_FALSE(pae.translates(0x1'0000'0000));
    CHECK(whole.translates(none));
}

// The offsets of a range are those of its addresses that the tables translate: they lie side by side.
TEST_CASE("translated_part: the ends are translated addresses of the range, and none lies outside")
{
    constexpr std::uint64_t marks[] = {0,
                                       1,
                                       0xfff,
                                       0x1000,
                                       0x1f'ffff,
                                       0x20'0000,
                                       0x7fff'ffff,
                                       0xffff'ffff,
                                       0x1'0000'0000,
                                       0x7fff'ffff'ffff,
                                       0x8000'0000'0000,
                                       0xffff'ffff'ffff,
                                       0x0001'0000'0000'0000,
                                       0x00ff'ffff'ffff'ffff,
                                       0x0100'0000'0000'0000,
                                       0x01ff'ffff'ffff'ffff,
                                       0x0200'0000'0000'0000,
                                       0x7fff'ffff'ffff'ffff,
                                       0x8000'0000'0000'0000,
                                       0xfeff'ffff'ffff'ffff,
                                       0xff00'0000'0000'0000,
                                       0xfffe'ffff'ffff'ffff,
                                       0xffff'0000'0000'0000,
                                       0xffff'7fff'ffff'ffff,
                                       0xffff'8000'0000'0000,
                                       0xffff'ffff'0000'0000,
                                       none};
    for (const shape& s : all_shapes) {
        CAPTURE(s.levels);
        CAPTURE(static_cast<int>(s.above));
        for (const std::uint64_t first : marks) {
            for (const std::uint64_t last : marks) {
                CAPTURE(first);
                CAPTURE(last);
                const inclusive_range part = s.translated_part({first, last});
                // All ends of what is translated are among the marks, or next to one.
                bool any = false;
                inclusive_range expected{none, 0};
                for (const std::uint64_t mark : marks) {
                    for (const std::uint64_t a : {mark, mark - 1, mark + 1}) {
                        if (a < first || a > last || (bits_of(s) < 64 && offset_of(a, s) == none)) continue;
                        const std::uint64_t offset = bits_of(s) == 64 ? a : offset_of(a, s);
                        any = true;
                        if (offset < expected.first) expected.first = offset;
                        if (offset > expected.last) expected.last = offset;
                    }
                }
                REQUIRE(part.empty() == !any);
                if (!any) continue;
                REQUIRE(part.first == expected.first);
                REQUIRE(part.last == expected.last);
            }
        }
    }
    const inclusive_range all = canonical.translated_part({});
    CHECK(all.first == 0);
    CHECK(all.last == 0xffff'ffff'ffff);
    const inclusive_range across = canonical.translated_part({0x7fff'ffff'f000, 0xffff'8000'0000'0fff});
    CHECK(across.first == 0x7fff'ffff'f000);
    CHECK(across.last == 0x8000'0000'0fff);
    CHECK(canonical.translated_part({0x8000'0000'0000, 0xffff'7fff'ffff'ffff}).empty());
}

TEST_CASE("a range is empty if it ends before it begins")
{
    CHECK(inclusive_range{1, 0}.empty());
    CHECK_FALSE(inclusive_range{0, 0}.empty());
    CHECK_FALSE(inclusive_range{}.empty());
    CHECK(inclusive_range{}.last == none);
}

TEST_CASE("the slots of a table that a range meets")
{
    // The level-2 table that begins at 1 Gbyte, of slots of 2 Mbytes.
    constexpr std::uint64_t begin = 0x4000'0000;
    constexpr std::uint64_t slot = 0x20'0000;
    const auto run_of = [&](std::uint64_t first, std::uint64_t last) {
        return slot_run(canonical, 2, begin, {first, last});
    };
    for (const std::uint64_t a : {0U, 1U, 77U, 510U, 511U}) {
        for (const std::uint64_t b : {0U, 1U, 77U, 510U, 511U}) {
            if (a > b) continue;
            for (const std::uint64_t in_first : {std::uint64_t{0}, slot / 2, slot - 1}) {
                for (const std::uint64_t in_last : {slot - 1, slot / 2 + 1, std::uint64_t{0}}) {
                    if (a == b && in_first > in_last) continue;
                    const slot_run r = run_of(begin + a * slot + in_first, begin + b * slot + in_last);
                    CHECK(r.begin == begin);
                    CHECK(r.next == a);
                    CHECK(r.last == b);
                    CHECK_FALSE(r.empty());
                }
            }
        }
    }
    CHECK(run_of(0, begin).next == 0);
    CHECK(run_of(0, begin).last == 0);
    CHECK(run_of(0, 0xffff'ffff'ffff).last == 511);
    CHECK(run_of(begin + 5 * slot, 0xffff'ffff'ffff).next == 5);
    CHECK(slot_run(whole, 6, 0, {0, none}).last == 127);
    CHECK(slot_run(pae, 3, 0, {0, 0xffff'ffff}).last == 3);
    slot_run done = run_of(begin, begin);
    ++done.next;
    CHECK(done.empty());
}
