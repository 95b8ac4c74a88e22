// SPDX-License-Identifier: BSL-1.0
#include <ptebits/field.hpp>

#include <utility>

#include "manual.hpp"

using namespace ptebits;
using manual::constant_expression;

static_assert(ones(63, 0) == ~std::uint64_t{0} && ones(3, 4) == 0 && ones(64, 63) == std::uint64_t{1} << 63);
static_assert(bits(5, 3).mask() == 0x38 && bits(5, 3).shift() == 3 && bits(5, 3).width() == 3);
static_assert(!bit(64) && !field{}.exists());

namespace {

// Bit by bit, to hold the library's arithmetic against.
std::uint64_t run(unsigned high, unsigned low)
{
    std::uint64_t mask = 0;
    for (unsigned n = low; n <= high && n < 64; ++n) mask |= std::uint64_t{1} << n;
    return mask;
}

bool is_one_run(std::uint64_t mask)
{
    for (unsigned low = 0; low < 64; ++low) {
        for (unsigned high = low; high < 64; ++high) {
            if (mask == run(high, low)) return true;
        }
    }
    return mask == 0;
}

constexpr std::uint64_t patterns[] = {0,
                                      ~std::uint64_t{0},
                                      0x0123'4567'89ab'cdef,
                                      0xfedc'ba98'7654'3210,
                                      0xaaaa'aaaa'aaaa'aaaa,
                                      0x5555'5555'5555'5555,
                                      0x8000'0000'0000'0001};

}  // namespace

TEST_CASE("ones: every high and low bit, also above 63")
{
    for (unsigned high = 0; high <= 70; ++high) {
        for (unsigned low = 0; low <= 70; ++low) {
            CAPTURE(high);
            CAPTURE(low);
            CHECK(ones(high, low) == run(high, low));
        }
    }
    CHECK(ones(~0U, 0) == ~std::uint64_t{0});
    CHECK(ones(~0U, ~0U) == 0);
    CHECK(ones(0, ~0U) == 0);
}

TEST_CASE("bit: one bit, also above 31; none above 63")
{
    for (unsigned n = 0; n < 64; ++n) {
        CAPTURE(n);
        CHECK(bit(n).mask() == std::uint64_t{1} << n);
        CHECK(bit(n).shift() == n);
        CHECK(bit(n).width() == 1);
        CHECK(bit(n).exists());
        CHECK(bit(n) == field{std::uint64_t{1} << n});
    }
    for (const unsigned n : {64U, 65U, 128U, ~0U}) {
        CHECK(bit(n) == field{});
        CHECK_FALSE(bit(n));
    }
}

TEST_CASE("fields: mask, shift, width, get and put at every place and width")
{
    for (unsigned low = 0; low < 64; ++low) {
        for (unsigned high = low; high < 64; ++high) {
            CAPTURE(high);
            CAPTURE(low);
            const field f = bits(high, low);
            REQUIRE(f.mask() == run(high, low));
            REQUIRE(f.shift() == low);
            REQUIRE(f.width() == high - low + 1);
            REQUIRE(f == field{run(high, low)});

            const std::uint64_t largest = run(high - low, 0);
            for (const std::uint64_t entry : patterns) {
                REQUIRE(f.get(entry) == (entry >> low & largest));
                for (const std::uint64_t pattern : patterns) {
                    const std::uint64_t value = pattern & largest;
                    REQUIRE(f(value) == value << low);
                    REQUIRE(f.get(f(value)) == value);
                    REQUIRE(f.get(f.put(entry, value)) == value);
                    REQUIRE((f.put(entry, value) & ~f.mask()) == (entry & ~f.mask()));
                }
                REQUIRE(f.put(entry, f.get(entry)) == entry);
                REQUIRE((entry | f) == (entry | f.mask()));
                REQUIRE((f | entry) == (entry | f.mask()));
            }
        }
    }
    CHECK((bit(63) | bit(0)) == 0x8000'0000'0000'0001);
    CHECK((bit(0) | bits(5, 3) | bit(63)) == 0x8000'0000'0000'0039);
}

TEST_CASE("the empty field reads as 0 and sets nothing")
{
    constexpr field none;
    CHECK(none.mask() == 0);
    CHECK(none.width() == 0);
    CHECK_FALSE(none.exists());
    CHECK_FALSE(static_cast<bool>(none));
    CHECK(none(0) == 0);
    CHECK(none == field_of(0));
    CHECK(none == bits(3, 4));
    for (const std::uint64_t entry : patterns) {
        CHECK(none.get(entry) == 0);
        CHECK(none.put(entry, 0) == entry);
        CHECK((entry | none) == entry);
    }
}

TEST_CASE("field_of: a hand-written mask")
{
    CHECK(field_of(0x38) == bits(5, 3));
    CHECK(field_of(0x8000'0000'0000'0000) == bit(63));
    CHECK(field_of(~std::uint64_t{0}) == bits(63, 0));
    CHECK(field_of(1) != bit(1));
    CHECK(field_of(0x30) != bits(5, 3));
}

TEST_CASE("a mask with a hole is no field, a run of bits is")
{
    CHECK(constant_expression<[] { return field{0}; }>);
    CHECK(constant_expression<[] { return field{0xff0}; }>);
    CHECK(constant_expression<[] { return field{~std::uint64_t{0}}; }>);
    CHECK_FALSE(constant_expression<[] { return field{0x5}; }>);
    CHECK_FALSE(constant_expression<[] { return field{0x8000'0000'0000'0001}; }>);
    CHECK_FALSE(constant_expression<[] { return field{0x1'8000'8000}; }>);

    // All masks of 8 bits, at the low and at the high end.
    const auto tried = [](auto index) {
        constexpr std::uint64_t low = index;
        constexpr std::uint64_t high = low << 56;
        bool right = constant_expression<[] { return field{low}; }> == is_one_run(low);
        right = right && constant_expression<[] { return field{high}; }> == is_one_run(high);
        return right;
    };
    const auto all_tried = [&]<std::size_t... Index>(std::index_sequence<Index...>) {
        return (tried(std::integral_constant<std::uint64_t, Index>{}) && ...);
    };
    CHECK(all_tried(std::make_index_sequence<256>{}));
}

TEST_CASE("broken preconditions are no constant expressions")
{
    CHECK(constant_expression<[] { return bits(5, 3)(7); }>);
    CHECK_FALSE(constant_expression<[] { return bits(5, 3)(8); }>);
    CHECK_FALSE(constant_expression<[] { return bits(63, 62)(4); }>);
    CHECK_FALSE(constant_expression<[] { return bits(63, 62)(~std::uint64_t{0}); }>);
    CHECK(constant_expression<[] { return bits(63, 0)(~std::uint64_t{0}); }>);
    CHECK_FALSE(constant_expression<[] { return bits(5, 3).put(0, 8); }>);
    CHECK_FALSE(constant_expression<[] { return field{}(1); }>);
    CHECK(constant_expression<[] { return field{}(0); }>);
    CHECK_FALSE(constant_expression<[] { return field{}.shift(); }>);
    CHECK_FALSE(constant_expression<[] { return bit(64).shift(); }>);
    CHECK(constant_expression<[] { return bit(63).shift(); }>);
}

TEST_CASE("disjoint: every pair of bits, and three masks of which two meet")
{
    for (unsigned a = 0; a < 64; ++a) {
        for (unsigned b = 0; b < 64; ++b) {
            const std::uint64_t x = std::uint64_t{1} << a;
            const std::uint64_t y = std::uint64_t{1} << b;
            CHECK(disjoint(x, y) == (a != b));
            CHECK(disjoint(x | y, ~(x | y)));
        }
    }
    CHECK(disjoint());
    CHECK(disjoint(std::uint64_t{1}));
    CHECK(disjoint(0, 0, 0));
    CHECK(disjoint(1, 2, 4));
    CHECK_FALSE(disjoint(1, 2, 1));
    CHECK_FALSE(disjoint(3, 2, 4));
    CHECK_FALSE(disjoint(1, 6, 4));
    static_assert(!disjoint(std::uint64_t{1} << 63, std::uint64_t{3} << 62));
}

TEST_CASE("several_bits: none and one are not several, any two are")
{
    CHECK_FALSE(several_bits(0));
    CHECK(several_bits(~std::uint64_t{0}));
    for (unsigned a = 0; a < 64; ++a) {
        for (unsigned b = 0; b < 64; ++b) {
            CHECK(several_bits(std::uint64_t{1} << a | std::uint64_t{1} << b) == (a != b));
        }
    }
}

TEST_CASE("one_bit: neither none nor two; only_shift asks for it")
{
    CHECK_FALSE(one_bit(0));
    CHECK_FALSE(one_bit(~std::uint64_t{0}));
    for (unsigned a = 0; a < 64; ++a) {
        for (unsigned b = 0; b < 64; ++b) {
            CHECK(one_bit(std::uint64_t{1} << a | std::uint64_t{1} << b) == (a == b));
        }
        CHECK(bit(a).only_shift() == a);
    }
    CHECK(constant_expression<[] { return bit(63).only_shift(); }>);
    CHECK_FALSE(constant_expression<[] { return field{}.only_shift(); }>);
    CHECK_FALSE(constant_expression<[] { return bits(1, 0).only_shift(); }>);
}
