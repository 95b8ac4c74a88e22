// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/npt.hpp>

#include "manual.hpp"

using namespace ptebits;
using manual::drawn;
using manual::setting;

namespace {

// AMD APM volume 2, "Page Translation and Protection", the figures of page-table entries, as section
// "Nested Paging" changes them: G is ignored, no protection keys. Drawn for 52 address bits, the host's
// NXE on, and bit 8 reserved at levels 4 and 5.
// clang-format off
constexpr drawn four_levels[] = {
    {"4",   kind::table, "X... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...0 0.AN TUWP"},
    {"23",  kind::table, "X... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... S.AN TUWP"},
    {"3",   kind::leaf,  "X... .... .... aaaa aaaa aaaa aaaa aaaa aa00 0000 0000 0000 000L .... SDAN TUWP"},
    {"2",   kind::leaf,  "X... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 000L .... SDAN TUWP"},
    {"1",   kind::leaf,  "X... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... MDAN TUWP"},
};
constexpr drawn pae[] = {
    {"3",   kind::table, "0000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...0 000N T00P"},
    {"2",   kind::table, "X000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... S.AN TUWP"},
    {"2",   kind::leaf,  "X000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 000L .... SDAN TUWP"},
    {"1",   kind::leaf,  "X000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... MDAN TUWP"},
};
constexpr drawn two_levels[] = {
    {"2",   kind::table, "aaaa aaaa aaaa aaaa aaaa .... S.AN TUWP"},
    {"2",   kind::leaf,  "aaaa aaaa aa0h hhhh hhhL .... SDAN TUWP"},
    {"1",   kind::leaf,  "aaaa aaaa aaaa aaaa aaaa .... MDAN TUWP"},
};

constexpr setting<npt_features, 5> long_mode[] = {
    {"defaults", {}, four_levels},
    {"GMET changes what U/S means, not where it is", {.guest_mode_execute_trap = true}, four_levels},
    {"PSE-36 is not looked at", {.pse36 = false}, four_levels},
    {"five levels", {.levels = 5}, four_levels, {
    {"45",  kind::table, "X... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...0 0.AN TUWP"}}},
    {"bit 8 ignored", {.reserved_bit_8 = false}, four_levels, {
    {"4",   kind::table, "X... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... 0.AN TUWP"}}},
    {"five levels, bit 8 ignored", {.levels = 5, .reserved_bit_8 = false}, four_levels, {
    {"45",  kind::table, "X... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... 0.AN TUWP"}}},
    {"the host's NXE off", {.execute_disable = false}, four_levels, {
    {"4",   kind::table, "0... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...0 0.AN TUWP"},
    {"23",  kind::table, "0... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... S.AN TUWP"},
    {"3",   kind::leaf,  "0... .... .... aaaa aaaa aaaa aaaa aaaa aa00 0000 0000 0000 000L .... SDAN TUWP"},
    {"2",   kind::leaf,  "0... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 000L .... SDAN TUWP"},
    {"1",   kind::leaf,  "0... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... MDAN TUWP"}}},
    {"no 1-Gbyte pages", {.gigabyte_pages = false}, four_levels, {
    {"3",   kind::table, "X... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... 0.AN TUWP"},
    {"3",   kind::leaf,  ""}}},
    {"48 address bits", {.physical_bits = 48}, four_levels, {
    {"4",   kind::table, "X... .... .... 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...0 0.AN TUWP"},
    {"23",  kind::table, "X... .... .... 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... S.AN TUWP"},
    {"3",   kind::leaf,  "X... .... .... 0000 aaaa aaaa aaaa aaaa aa00 0000 0000 0000 000L .... SDAN TUWP"},
    {"2",   kind::leaf,  "X... .... .... 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 000L .... SDAN TUWP"},
    {"1",   kind::leaf,  "X... .... .... 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... MDAN TUWP"}}},
    {"C-bit 47, 43 address bits left", {.physical_bits = 43, .encryption_bit = 47}, four_levels, {
    {"4",   kind::table, "X... .... .... 0000 C000 0aaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...0 0.AN TUWP"},
    {"23",  kind::table, "X... .... .... 0000 C000 0aaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... S.AN TUWP"},
    {"3",   kind::leaf,  "X... .... .... 0000 C000 0aaa aaaa aaaa aa00 0000 0000 0000 000L .... SDAN TUWP"},
    {"2",   kind::leaf,  "X... .... .... 0000 C000 0aaa aaaa aaaa aaaa aaaa aaa0 0000 000L .... SDAN TUWP"},
    {"1",   kind::leaf,  "X... .... .... 0000 C000 0aaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... MDAN TUWP"}}},
    {"all features, C-bit 51", {.levels = 5, .guest_mode_execute_trap = true, .encryption_bit = 51}, four_levels, {
    {"45",  kind::table, "X... .... .... Caaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...0 0.AN TUWP"},
    {"23",  kind::table, "X... .... .... Caaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... S.AN TUWP"},
    {"3",   kind::leaf,  "X... .... .... Caaa aaaa aaaa aaaa aaaa aa00 0000 0000 0000 000L .... SDAN TUWP"},
    {"2",   kind::leaf,  "X... .... .... Caaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 000L .... SDAN TUWP"},
    {"1",   kind::leaf,  "X... .... .... Caaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... MDAN TUWP"}}},
    {"no features", {.execute_disable = false, .gigabyte_pages = false, .pse36 = false,
                     .reserved_bit_8 = false}, four_levels, {
    {"4",   kind::table, "0... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... 0.AN TUWP"},
    {"3",   kind::table, "0... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... 0.AN TUWP"},
    {"2",   kind::table, "0... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... S.AN TUWP"},
    {"3",   kind::leaf,  ""},
    {"2",   kind::leaf,  "0... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 000L .... SDAN TUWP"},
    {"1",   kind::leaf,  "0... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... MDAN TUWP"}}},
};

constexpr setting<npt_features, 4> three_levels[] = {
    {"a PAE host", {.levels = 3}, pae},
    {"a PAE host, NXE off, 40 address bits", {.levels = 3, .physical_bits = 40, .execute_disable = false}, pae, {
    {"3",   kind::table, "0000 0000 0000 0000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...0 000N T00P"},
    {"2",   kind::table, "0000 0000 0000 0000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... S.AN TUWP"},
    {"2",   kind::leaf,  "0000 0000 0000 0000 0000 0000 aaaa aaaa aaaa aaaa aaa0 0000 000L .... SDAN TUWP"},
    {"1",   kind::leaf,  "0000 0000 0000 0000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... MDAN TUWP"}}},
};

constexpr setting<npt_features, 3> narrow[] = {
    {"a 32-bit host", {.levels = 2}, two_levels},
    {"a 32-bit host, CR4.PSE off", {.levels = 2, .large_pages = false}, two_levels, {
    {"2",   kind::table, "aaaa aaaa aaaa aaaa aaaa .... ..AN TUWP"},
    {"2",   kind::leaf,  ""}}},
    {"a 32-bit host, no PSE-36", {.levels = 2, .pse36 = false}, two_levels, {
    {"2",   kind::leaf,  "aaaa aaaa aa00 0000 000L .... SDAN TUWP"}}},
    {"a 32-bit host, 36 address bits", {.levels = 2, .physical_bits = 36}, two_levels, {
    {"2",   kind::leaf,  "aaaa aaaa aa00 000h hhhL .... SDAN TUWP"}}},
};
// clang-format on

static_assert(entry_format<std::remove_const_t<decltype(npt<npt_features{}>)>>);
static_assert(entry_format<runtime_format<npt_description>>);
static_assert(well_formed(npt<npt_features{.levels = 5, .encryption_bit = 51}>));

// The host's entries, of which the nested walk uses less.
shadow_features as_host(const npt_features& f)
{
    return {.levels = f.levels,
            .physical_bits = f.physical_bits,
            .execute_disable = f.execute_disable,
            .gigabyte_pages = f.gigabyte_pages,
            .large_pages = f.large_pages,
            .pse36 = f.pse36,
            .global_pages = false,
            .user_keys = false,
            .supervisor_keys = false,
            .shadow_stacks = false,
            .hlat = false,
            .reserved_bit_8 = f.reserved_bit_8,
            .encryption_bit = f.encryption_bit};
}

}  // namespace

TEST_CASE("nested entries of a host in long mode are as the manual draws them")
{
    manual::check_settings<long_mode>(manual::x86_letters);
}

TEST_CASE("nested entries of a PAE host are as the manual draws them")
{
    manual::check_settings<three_levels>(manual::x86_letters);
}

TEST_CASE("nested entries of a 32-bit host are as the manual draws them")
{
    manual::check_settings<narrow>(manual::x86_letters);
}

TEST_CASE("masks, level by level")
{
    constexpr auto npt48 = npt<npt_features{.physical_bits = 48}>;
    CHECK(npt48->address_mask(1, kind::leaf) == 0x0000'ffff'ffff'f000);
    CHECK(npt48->address_mask(2, kind::leaf) == 0x0000'ffff'ffe0'0000);
    CHECK(npt48->address_mask(3, kind::leaf) == 0x0000'ffff'c000'0000);
    CHECK(npt48->reserved_mask(1, kind::leaf) == 0x000f'0000'0000'0000);
    CHECK(npt48->reserved_mask(2, kind::leaf) == 0x000f'0000'001f'e000);
    CHECK(npt48->reserved_mask(3, kind::leaf) == 0x000f'0000'3fff'e000);
    CHECK(npt48->reserved_mask(2, kind::table) == 0x000f'0000'0000'0000);
    CHECK(npt48->reserved_mask(3, kind::table) == 0x000f'0000'0000'0000);
    CHECK(npt48->reserved_mask(4, kind::table) == 0x000f'0000'0000'0180);
    CHECK(npt48->software_mask(1, kind::leaf) == 0x7ff0'0000'0000'0f00);
    CHECK(npt48->software_mask(2, kind::leaf) == 0x7ff0'0000'0000'0f00);
    CHECK(npt48->software_mask(3, kind::leaf) == 0x7ff0'0000'0000'0f00);
    CHECK(npt48->software_mask(2, kind::table) == 0x7ff0'0000'0000'0f40);
    CHECK(npt48->software_mask(3, kind::table) == 0x7ff0'0000'0000'0f40);
    CHECK(npt48->software_mask(4, kind::table) == 0x7ff0'0000'0000'0e40);
    CHECK(npt48->accessed.mask() == 0x20);
    CHECK(npt48->dirty.mask() == 0x40);
    CHECK(npt48->execute_disable.mask() == 0x8000'0000'0000'0000);
    CHECK_FALSE(npt48->global.exists());
    CHECK_FALSE(npt48->protection_key.exists());
    CHECK_FALSE(npt48->restart.exists());
}

// AMD APM volume 2, "Nested Paging": every access is a user access, U/S = 0 forbids it. "Guest Mode Execute
// Trap": U/S is no permission, and where it is set in all entries the supervisor does not execute.
TEST_CASE("the user bit is required, or with GMET takes part in execute permission")
{
    for (const unsigned levels : {2U, 3U, 4U, 5U}) {
        const auto plain = format_for(npt_features{.levels = levels});
        const auto gmet = format_for(npt_features{.levels = levels, .guest_mode_execute_trap = true});
        CHECK_FALSE(plain->modes_apart());
        CHECK(gmet->modes_apart());
        CHECK(plain->accessed_by() == accessed_setter::hardware);
        for (unsigned n = 0; n < 32; ++n) {
            const permissions p = manual::permissions_number(n);
            CAPTURE(n);
            for (const kind k : present_kinds) {
                const permissions user{p.read, p.write, p.execute, true, p.execute};
                CHECK(plain->allowed(p, k) == (p.user ? user : no_permissions));
                const bool supervisor = p.execute && (k == kind::table || !p.user);
                CHECK(gmet->allowed(p, k) == permissions{p.read, p.write, supervisor, true, p.execute});
            }
        }
    }
}

TEST_CASE("all combinations of features")
{
    const manual::x86_manual manual;
    constexpr unsigned widths[] = {32, 36, 39, 40, 43, 46, 48, 52};
    for (unsigned levels = 2; levels <= 5; ++levels) {
        for (unsigned on = 0; on < 64; ++on) {
            for (unsigned c = 0; c <= 65; ++c) {  // 65: no encryption bit
                for (const unsigned width : widths) {
                    const npt_features f{.levels = levels,
                                         .physical_bits = width,
                                         .execute_disable = (on & 1) != 0,
                                         .gigabyte_pages = (on & 2) != 0,
                                         .large_pages = (on & 4) != 0,
                                         .pse36 = (on & 8) != 0,
                                         .reserved_bit_8 = (on & 16) != 0,
                                         .guest_mode_execute_trap = (on & 32) != 0,
                                         .encryption_bit = c < 65 ? optional_bits(c) : optional_bits()};
                    CAPTURE(levels);
                    CAPTURE(width);
                    CAPTURE(on);
                    CAPTURE(c);
                    REQUIRE(manual.compare(format_for(f), as_host(f)) == "");
                }
            }
        }
    }
}

TEST_CASE("levels and widths that no CPU has are named as the defect")
{
    const manual::x86_manual manual;
    for (const unsigned levels : {0U, 1U, 2U, 3U, 4U, 5U, 6U, 7U, ~0U}) {
        for (const unsigned physical_bits : {0U, 31U, 32U, 52U, 53U, 64U, ~0U}) {
            CAPTURE(levels);
            CAPTURE(physical_bits);
            const npt_features f{.levels = levels, .physical_bits = physical_bits};
            CHECK(manual.compare(format_for(f), as_host(f)) == "");
        }
    }
}
