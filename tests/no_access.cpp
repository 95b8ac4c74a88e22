// Pages mapped without access: absent entries from which the leaf comes back as it was.
#include <doctest/doctest.h>

#include <cstdint>
#include <ptebits/ptebits.hpp>
#include <random>

#include "manual.hpp"

using namespace ptebits;

namespace {

template <unsigned Shift, class Format>
void check(const Format& format)
{
    REQUIRE(no_access_kept<Format, Shift>::free_in(format));
    const auto kept = keep_without_access<Shift>(format);
    std::mt19937_64 random(3);
    unsigned made = 0;
    for (unsigned level = 1; level <= format->shape().levels; ++level) {
        if (!format->exists(level, kind::leaf)) continue;
        const layout& l = format->layout_at(level, kind::leaf);
        for (unsigned n = 0; n < 500; ++n) {
            std::uint64_t leaf = random() & l.all & ~l.mask(role::reserved) & ~kept.kept_mask();
            leaf = (leaf & ~l.mask(role::fixed)) | (l.value & l.mask(role::fixed));
            if (!present(leaf, format) || !legal(leaf, level, format)) continue;
            CAPTURE(level);
            CAPTURE(leaf);
            CHECK_FALSE(is_no_access(leaf, kept));
            const no_access_entry e = take_access(leaf, level, kept);
            const bool outside = format->memory_bits() != 0 && l.address_in(leaf) >> format->memory_bits() != 0;
            if (!e) {
                REQUIRE(e.error == no_access_error::points_into_memory);
                REQUIRE(outside);
                continue;
            }
            ++made;
            REQUIRE_FALSE(present(e.entry, format));
            REQUIRE(check_absent(e.entry & ~(format->accessed | format->dirty), format) == absent_error::none);
            REQUIRE(e.entry != format->empty());
            REQUIRE(is_no_access(e.entry, kept));
            REQUIRE(give_access(e.entry, kept) == leaf);
            REQUIRE(take_access(e.entry, level, kept).error == no_access_error::not_a_leaf);
        }
    }
    CHECK(made > 100);
    CHECK_FALSE(is_no_access(format->empty(), kept));
    CHECK(give_access(format->empty(), kept) == format->empty());
}

}  // namespace

TEST_CASE("a leaf without access comes back as it was, in every format")
{
    check<9>(shadow<shadow_features{.levels = 2}>);
    check<11>(format_for(shadow_features{.levels = 2, .physical_bits = 32, .memory_bits = 31}));
    check<9>(shadow<shadow_features{.levels = 3}>);
    check<9>(shadow<shadow_features{.physical_bits = 46, .user_keys = true, .memory_bits = 45}>);
    check<52>(shadow<shadow_features{.levels = 5, .shadow_stacks = true, .encryption_bit = 47}>);
    check<10>(shadow<shadow_features{.shared_bit = 47}>);
    check<9>(npt<npt_features{.encryption_bit = 51}>);
    check<9>(npt<npt_features{.levels = 2, .guest_mode_execute_trap = true}>);
    check<52>(ept<ept_features{}>);
    check<52>(ept<ept_features{.physical_bits = 46, .memory_bits = 40}>);
    check<52>(format_for(ept_features{.physical_bits = 46,
                                      .mode_based_execute = true,
                                      .suppress_ve = true,
                                      .key_id_bits = {45, 43},
                                      .memory_bits = 42}));
    check<52>(ept<ept_features{.accessed_dirty = false, .execute_only = false, .suppress_ve = true}>);
    check<61>(ept<ept_features{}>);  // up to the highest bit
}

TEST_CASE("entries without access, worked out by hand")
{
    // P goes to bit 9; the highest of 46 address bits is inverted.
    constexpr auto guest = keep_without_access<9>(shadow<shadow_features{.physical_bits = 46, .memory_bits = 36}>);
    CHECK(take_access(0x1'2345'6067, 1, guest).entry == 0x2001'2345'6266);
    // R, W, X, XU and bit 63 go to bits 52 to 56; bit 63 stays set.
    constexpr auto host = keep_without_access<52>(ept<ept_features{.mode_based_execute = true, .suppress_ve = true}>);
    CHECK(take_access(0x1234'5737, 1, host).entry == 0x80f0'0000'1234'5330);
    CHECK(take_access(0x8000'0000'1234'5033, 1, host).entry == 0x8130'0000'1234'5030);
    CHECK(take_access(0x0010'0000'1234'5033, 1, host).error == no_access_error::kept_bits_in_use);
    CHECK(take_access(0x1234'5002, 1, host).error == no_access_error::not_a_leaf);  // a misconfiguration
    CHECK(take_access(0x1234'5007, 3, host).error == no_access_error::not_a_leaf);  // a table
    // Memory that ends far below: an address past it, with the highest bit, would point into it.
    CHECK(take_access(0x2000'0000'1067, 1, guest).error == no_access_error::points_into_memory);

    using wide = no_access_kept<std::remove_const_t<decltype(ept<ept_features{.mode_based_execute = true}>)>, 54>;
    CHECK(wide::free_in(ept<ept_features{.mode_based_execute = true}>));
    CHECK_FALSE(no_access_kept<runtime_format<ept_description>, 62>::free_in(format_for(ept_features{})));
    using two_level = no_access_kept<std::remove_const_t<decltype(shadow<shadow_features{.levels = 2}>)>, 12>;
    CHECK_FALSE(two_level::free_in(shadow<shadow_features{.levels = 2}>));
    CHECK_FALSE(
        no_access_kept<runtime_format<shadow_description>, 9>::free_in(format_for(shadow_features{.levels = 7})));
}
