// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/shadow.hpp>

#include "manual.hpp"

using namespace ptebits;
using manual::drawn;
using manual::setting;
using manual::x86_32;
using manual::x86_pae;

namespace {

// Intel SDM volume 3, "Paging": "Formats of CR3 and Paging-Structure Entries with 4-Level Paging and
// 5-Level Paging", the tables of the same for PAE and 32-bit paging; AMD APM volume 2, "Page Translation
// and Protection". Drawn for 52 address bits, no feature beyond large pages, NXE and PGE.
// clang-format off
constexpr drawn four_levels[] = {
    {"4",   kind::table, "X... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... 0.AN TUWP"},
    {"23",  kind::table, "X... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... S.AN TUWP"},
    {"3",   kind::leaf,  "X... .... .... aaaa aaaa aaaa aaaa aaaa aa00 0000 0000 0000 000L ...G SDAN TUWP"},
    {"2",   kind::leaf,  "X... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 000L ...G SDAN TUWP"},
    {"1",   kind::leaf,  "X... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...G MDAN TUWP"},
};

constexpr setting<shadow_features, 5> long_mode[] = {
    {"defaults", {}, four_levels},
    {"five levels", {.levels = 5}, four_levels, {
    {"45",  kind::table, "X... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... 0.AN TUWP"}}},
    {"EFER.NXE off", {.execute_disable = false}, four_levels, {
    {"4",   kind::table, "0... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... 0.AN TUWP"},
    {"23",  kind::table, "0... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... S.AN TUWP"},
    {"3",   kind::leaf,  "0... .... .... aaaa aaaa aaaa aaaa aaaa aa00 0000 0000 0000 000L ...G SDAN TUWP"},
    {"2",   kind::leaf,  "0... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 000L ...G SDAN TUWP"},
    {"1",   kind::leaf,  "0... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...G MDAN TUWP"}}},
    {"no 1-Gbyte pages: PS reserved at level 3", {.gigabyte_pages = false}, four_levels, {
    {"3",   kind::table, "X... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... 0.AN TUWP"},
    {"3",   kind::leaf,  ""}}},
    {"PSE-36 is not looked at", {.pse36 = false}, four_levels},
    {"CR4.PGE off", {.global_pages = false}, four_levels, {
    {"3",   kind::leaf,  "X... .... .... aaaa aaaa aaaa aaaa aaaa aa00 0000 0000 0000 000L .... SDAN TUWP"},
    {"2",   kind::leaf,  "X... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 000L .... SDAN TUWP"},
    {"1",   kind::leaf,  "X... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... MDAN TUWP"}}},
    {"protection keys", {.user_keys = true}, four_levels, {
    {"3",   kind::leaf,  "XKKK K... .... aaaa aaaa aaaa aaaa aaaa aa00 0000 0000 0000 000L ...G SDAN TUWP"},
    {"2",   kind::leaf,  "XKKK K... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 000L ...G SDAN TUWP"},
    {"1",   kind::leaf,  "XKKK K... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...G MDAN TUWP"}}},
    {"HLAT", {.hlat = true}, four_levels, {
    {"4",   kind::table, "X... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa R... 0.AN TUWP"},
    {"23",  kind::table, "X... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa R... S.AN TUWP"},
    {"3",   kind::leaf,  "X... .... .... aaaa aaaa aaaa aaaa aaaa aa00 0000 0000 0000 000L R..G SDAN TUWP"},
    {"2",   kind::leaf,  "X... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 000L R..G SDAN TUWP"},
    {"1",   kind::leaf,  "X... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa R..G MDAN TUWP"}}},
    {"AMD's bit 8", {.reserved_bit_8 = true}, four_levels, {
    {"4",   kind::table, "X... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...0 0.AN TUWP"}}},
    {"AMD's bit 8, five levels", {.levels = 5, .reserved_bit_8 = true}, four_levels, {
    {"45",  kind::table, "X... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...0 0.AN TUWP"}}},
    {"C-bit 51", {.encryption_bit = 51}, four_levels, {
    {"4",   kind::table, "X... .... .... Caaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... 0.AN TUWP"},
    {"23",  kind::table, "X... .... .... Caaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... S.AN TUWP"},
    {"3",   kind::leaf,  "X... .... .... Caaa aaaa aaaa aaaa aaaa aa00 0000 0000 0000 000L ...G SDAN TUWP"},
    {"2",   kind::leaf,  "X... .... .... Caaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 000L ...G SDAN TUWP"},
    {"1",   kind::leaf,  "X... .... .... Caaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...G MDAN TUWP"}}},
    {"C-bit 47, 48 address bits", {.physical_bits = 48, .encryption_bit = 47}, four_levels, {
    {"4",   kind::table, "X... .... .... 0000 Caaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... 0.AN TUWP"},
    {"23",  kind::table, "X... .... .... 0000 Caaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... S.AN TUWP"},
    {"3",   kind::leaf,  "X... .... .... 0000 Caaa aaaa aaaa aaaa aa00 0000 0000 0000 000L ...G SDAN TUWP"},
    {"2",   kind::leaf,  "X... .... .... 0000 Caaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 000L ...G SDAN TUWP"},
    {"1",   kind::leaf,  "X... .... .... 0000 Caaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...G MDAN TUWP"}}},
    {"C-bit 47 above 43 address bits", {.physical_bits = 43, .encryption_bit = 47}, four_levels, {
    {"4",   kind::table, "X... .... .... 0000 C000 0aaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... 0.AN TUWP"},
    {"23",  kind::table, "X... .... .... 0000 C000 0aaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... S.AN TUWP"},
    {"3",   kind::leaf,  "X... .... .... 0000 C000 0aaa aaaa aaaa aa00 0000 0000 0000 000L ...G SDAN TUWP"},
    {"2",   kind::leaf,  "X... .... .... 0000 C000 0aaa aaaa aaaa aaaa aaaa aaa0 0000 000L ...G SDAN TUWP"},
    {"1",   kind::leaf,  "X... .... .... 0000 C000 0aaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...G MDAN TUWP"}}},
    {"C-bit 32", {.encryption_bit = 32}, four_levels, {
    {"4",   kind::table, "X... .... .... 0000 0000 0000 0000 000C aaaa aaaa aaaa aaaa aaaa .... 0.AN TUWP"},
    {"23",  kind::table, "X... .... .... 0000 0000 0000 0000 000C aaaa aaaa aaaa aaaa aaaa .... S.AN TUWP"},
    {"3",   kind::leaf,  "X... .... .... 0000 0000 0000 0000 000C aa00 0000 0000 0000 000L ...G SDAN TUWP"},
    {"2",   kind::leaf,  "X... .... .... 0000 0000 0000 0000 000C aaaa aaaa aaa0 0000 000L ...G SDAN TUWP"},
    {"1",   kind::leaf,  "X... .... .... 0000 0000 0000 0000 000C aaaa aaaa aaaa aaaa aaaa ...G MDAN TUWP"}}},
    {"key identifier in bits 51:46", {.key_id_bits = {51, 46}}, four_levels, {
    {"4",   kind::table, "X... .... .... kkkk kkaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... 0.AN TUWP"},
    {"23",  kind::table, "X... .... .... kkkk kkaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... S.AN TUWP"},
    {"3",   kind::leaf,  "X... .... .... kkkk kkaa aaaa aaaa aaaa aa00 0000 0000 0000 000L ...G SDAN TUWP"},
    {"2",   kind::leaf,  "X... .... .... kkkk kkaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 000L ...G SDAN TUWP"},
    {"1",   kind::leaf,  "X... .... .... kkkk kkaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...G MDAN TUWP"}}},
    {"TDX guest, shared bit 47", {.shared_bit = 47}, four_levels, {
    {"4",   kind::table, "X... .... .... 0000 saaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... 0.AN TUWP"},
    {"23",  kind::table, "X... .... .... 0000 saaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... S.AN TUWP"},
    {"3",   kind::leaf,  "X... .... .... 0000 saaa aaaa aaaa aaaa aa00 0000 0000 0000 000L ...G SDAN TUWP"},
    {"2",   kind::leaf,  "X... .... .... 0000 saaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 000L ...G SDAN TUWP"},
    {"1",   kind::leaf,  "X... .... .... 0000 saaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...G MDAN TUWP"}}},
    {"L1TF: absent entries have an address", {.memory_bits = 36}, four_levels, {
    {"",    kind::none,  ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... .... ...-"}}},
    {"40 address bits", {.physical_bits = 40}, four_levels, {
    {"4",   kind::table, "X... .... .... 0000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... 0.AN TUWP"},
    {"23",  kind::table, "X... .... .... 0000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... S.AN TUWP"},
    {"3",   kind::leaf,  "X... .... .... 0000 0000 0000 aaaa aaaa aa00 0000 0000 0000 000L ...G SDAN TUWP"},
    {"2",   kind::leaf,  "X... .... .... 0000 0000 0000 aaaa aaaa aaaa aaaa aaa0 0000 000L ...G SDAN TUWP"},
    {"1",   kind::leaf,  "X... .... .... 0000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...G MDAN TUWP"}}},
    {"all features, C-bit 47", {.levels = 5, .user_keys = true, .hlat = true, .reserved_bit_8 = true,
                                .encryption_bit = 47}, four_levels, {
    {"45",  kind::table, "X... .... .... 0000 Caaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa R..0 0.AN TUWP"},
    {"23",  kind::table, "X... .... .... 0000 Caaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa R... S.AN TUWP"},
    {"3",   kind::leaf,  "XKKK K... .... 0000 Caaa aaaa aaaa aaaa aa00 0000 0000 0000 000L R..G SDAN TUWP"},
    {"2",   kind::leaf,  "XKKK K... .... 0000 Caaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 000L R..G SDAN TUWP"},
    {"1",   kind::leaf,  "XKKK K... .... 0000 Caaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa R..G MDAN TUWP"}}},
    {"no features", {.execute_disable = false, .gigabyte_pages = false, .pse36 = false,
                     .global_pages = false}, four_levels, {
    {"4",   kind::table, "0... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... 0.AN TUWP"},
    {"3",   kind::table, "0... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... 0.AN TUWP"},
    {"2",   kind::table, "0... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... S.AN TUWP"},
    {"3",   kind::leaf,  ""},
    {"2",   kind::leaf,  "0... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 000L .... SDAN TUWP"},
    {"1",   kind::leaf,  "0... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... MDAN TUWP"}}},
};

constexpr setting<shadow_features, 4> three_levels[] = {
    {"PAE", {.levels = 3}, x86_pae},
    {"PAE, EFER.NXE off", {.levels = 3, .execute_disable = false}, x86_pae, {
    {"2",   kind::table, "0000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... S.AN TUWP"},
    {"2",   kind::leaf,  "0000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 000L ...G SDAN TUWP"},
    {"1",   kind::leaf,  "0000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...G MDAN TUWP"}}},
    {"PAE, 1-Gbyte pages are for long mode", {.levels = 3, .gigabyte_pages = false}, x86_pae},
    {"PAE, PSE-36 is not looked at", {.levels = 3, .pse36 = false}, x86_pae},
    {"PAE, AMD's bit 8 is in levels 4 and 5", {.levels = 3, .reserved_bit_8 = true}, x86_pae},
    {"PAE, CR4.PGE off", {.levels = 3, .global_pages = false}, x86_pae, {
    {"2",   kind::leaf,  "X000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 000L .... SDAN TUWP"},
    {"1",   kind::leaf,  "X000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... MDAN TUWP"}}},
    {"PAE, 36 address bits", {.levels = 3, .physical_bits = 36}, x86_pae, {
    {"3",   kind::table, "0000 0000 0000 0000 0000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa ...0 000N T00P"},
    {"2",   kind::table, "X000 0000 0000 0000 0000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa .... S.AN TUWP"},
    {"2",   kind::leaf,  "X000 0000 0000 0000 0000 0000 0000 aaaa aaaa aaaa aaa0 0000 000L ...G SDAN TUWP"},
    {"1",   kind::leaf,  "X000 0000 0000 0000 0000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa ...G MDAN TUWP"}}},
    {"PAE, L1TF, 40 address bits", {.levels = 3, .physical_bits = 40, .memory_bits = 39}, x86_pae, {
    {"3",   kind::table, "0000 0000 0000 0000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...0 000N T00P"},
    {"2",   kind::table, "X000 0000 0000 0000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... S.AN TUWP"},
    {"2",   kind::leaf,  "X000 0000 0000 0000 0000 0000 aaaa aaaa aaaa aaaa aaa0 0000 000L ...G SDAN TUWP"},
    {"1",   kind::leaf,  "X000 0000 0000 0000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...G MDAN TUWP"},
    {"",    kind::none,  ".... .... .... .... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... .... ...-"}}},
    {"PAE, C-bit 47", {.levels = 3, .encryption_bit = 47}, x86_pae, {
    {"3",   kind::table, "0000 0000 0000 0000 Caaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...0 000N T00P"},
    {"2",   kind::table, "X000 0000 0000 0000 Caaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... S.AN TUWP"},
    {"2",   kind::leaf,  "X000 0000 0000 0000 Caaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 000L ...G SDAN TUWP"},
    {"1",   kind::leaf,  "X000 0000 0000 0000 Caaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...G MDAN TUWP"}}},
};

constexpr setting<shadow_features, 3> narrow[] = {
    {"32-bit", {.levels = 2}, x86_32},
    {"32-bit, EFER.NXE and 1-Gbyte pages are not looked at",
        {.levels = 2, .execute_disable = false, .gigabyte_pages = false, .reserved_bit_8 = true}, x86_32},
    {"32-bit, CR4.PSE off: PS ignored", {.levels = 2, .large_pages = false}, x86_32, {
    {"2",   kind::table, "aaaa aaaa aaaa aaaa aaaa .... ..AN TUWP"},
    {"2",   kind::leaf,  ""}}},
    {"32-bit, CR4.PSE and PSE-36 off", {.levels = 2, .large_pages = false, .pse36 = false}, x86_32, {
    {"2",   kind::table, "aaaa aaaa aaaa aaaa aaaa .... ..AN TUWP"},
    {"2",   kind::leaf,  ""}}},
    {"32-bit, no PSE-36", {.levels = 2, .pse36 = false}, x86_32, {
    {"2",   kind::leaf,  "aaaa aaaa aa00 0000 000L ...G SDAN TUWP"}}},
    {"32-bit, CR4.PGE off", {.levels = 2, .global_pages = false}, x86_32, {
    {"2",   kind::leaf,  "aaaa aaaa aa0h hhhh hhhL .... SDAN TUWP"},
    {"1",   kind::leaf,  "aaaa aaaa aaaa aaaa aaaa .... MDAN TUWP"}}},
    {"32-bit, L1TF", {.levels = 2, .memory_bits = 30}, x86_32, {
    {"",    kind::none,  "aaaa aaaa aaaa aaaa aaaa .... .... ...-"}}},
    {"32-bit, 48 address bits", {.levels = 2, .physical_bits = 48}, x86_32},
    {"32-bit, 40 address bits", {.levels = 2, .physical_bits = 40}, x86_32},
    {"32-bit, 39 address bits", {.levels = 2, .physical_bits = 39}, x86_32, {
    {"2",   kind::leaf,  "aaaa aaaa aa00 hhhh hhhL ...G SDAN TUWP"}}},
    {"32-bit, 36 address bits", {.levels = 2, .physical_bits = 36}, x86_32, {
    {"2",   kind::leaf,  "aaaa aaaa aa00 000h hhhL ...G SDAN TUWP"}}},
    {"32-bit, 32 address bits", {.levels = 2, .physical_bits = 32}, x86_32, {
    {"2",   kind::leaf,  "aaaa aaaa aa00 0000 000L ...G SDAN TUWP"}}},
};
// clang-format on

static_assert(entry_format<std::remove_const_t<decltype(shadow<shadow_features{}>)>>);
static_assert(entry_format<runtime_format<shadow_description>>);
static_assert(well_formed(shadow<shadow_features{.levels = 5, .user_keys = true, .encryption_bit = 47}>));
static_assert(well_formed(shadow<shadow_features{.levels = 3}>) && well_formed(shadow<shadow_features{.levels = 2}>));

}  // namespace

TEST_CASE("entries of 4-level and 5-level paging are as the manuals draw them")
{
    manual::check_settings<long_mode>(manual::x86_letters);
}

TEST_CASE("entries of PAE paging are as the manuals draw them")
{
    manual::check_settings<three_levels>(manual::x86_letters);
}

TEST_CASE("entries of 32-bit paging are as the manuals draw them")
{
    manual::check_settings<narrow>(manual::x86_letters);
}

// Intel SDM volume 3, "Paging": bits 51:M of 4-level entries are reserved, for M = MAXPHYADDR. NXE is on.
TEST_CASE("address and reserved masks for the widths of real CPUs")
{
    struct masks_at {
        unsigned physical_bits;
        std::uint64_t page, large, huge;                           // address masks of leaves, level 1, 2, 3
        std::uint64_t page_rest, large_rest, huge_rest, top_rest;  // reserved masks, and that of a level 4 table
    };
    // clang-format off
    constexpr masks_at all[] = {
        {32, 0x0000'0000'ffff'f000, 0x0000'0000'ffe0'0000, 0x0000'0000'c000'0000,
             0x000f'ffff'0000'0000, 0x000f'ffff'001f'e000, 0x000f'ffff'3fff'e000, 0x000f'ffff'0000'0080},
        {36, 0x0000'000f'ffff'f000, 0x0000'000f'ffe0'0000, 0x0000'000f'c000'0000,
             0x000f'fff0'0000'0000, 0x000f'fff0'001f'e000, 0x000f'fff0'3fff'e000, 0x000f'fff0'0000'0080},
        {39, 0x0000'007f'ffff'f000, 0x0000'007f'ffe0'0000, 0x0000'007f'c000'0000,
             0x000f'ff80'0000'0000, 0x000f'ff80'001f'e000, 0x000f'ff80'3fff'e000, 0x000f'ff80'0000'0080},
        {40, 0x0000'00ff'ffff'f000, 0x0000'00ff'ffe0'0000, 0x0000'00ff'c000'0000,
             0x000f'ff00'0000'0000, 0x000f'ff00'001f'e000, 0x000f'ff00'3fff'e000, 0x000f'ff00'0000'0080},
        {46, 0x0000'3fff'ffff'f000, 0x0000'3fff'ffe0'0000, 0x0000'3fff'c000'0000,
             0x000f'c000'0000'0000, 0x000f'c000'001f'e000, 0x000f'c000'3fff'e000, 0x000f'c000'0000'0080},
        {48, 0x0000'ffff'ffff'f000, 0x0000'ffff'ffe0'0000, 0x0000'ffff'c000'0000,
             0x000f'0000'0000'0000, 0x000f'0000'001f'e000, 0x000f'0000'3fff'e000, 0x000f'0000'0000'0080},
        {52, 0x000f'ffff'ffff'f000, 0x000f'ffff'ffe0'0000, 0x000f'ffff'c000'0000,
             0x0000'0000'0000'0000, 0x0000'0000'001f'e000, 0x0000'0000'3fff'e000, 0x0000'0000'0000'0080},
    };
    // clang-format on
    for (const masks_at& m : all) {
        CAPTURE(m.physical_bits);
        const auto f = format_for(shadow_features{.physical_bits = m.physical_bits});
        CHECK(f->address_mask(1, kind::leaf) == m.page);
        CHECK(f->address_mask(2, kind::leaf) == m.large);
        CHECK(f->address_mask(3, kind::leaf) == m.huge);
        CHECK(f->reserved_mask(1, kind::leaf) == m.page_rest);
        CHECK(f->reserved_mask(2, kind::leaf) == m.large_rest);
        CHECK(f->reserved_mask(3, kind::leaf) == m.huge_rest);
        CHECK(f->reserved_mask(4, kind::table) == m.top_rest);
        for (unsigned level = 2; level <= 4; ++level) CHECK(f->address_mask(level, kind::table) == m.page);
    }
}

TEST_CASE("masks of the named fields")
{
    constexpr auto all = shadow<shadow_features{.user_keys = true, .hlat = true, .encryption_bit = 47}>;
    CHECK(all->present.mask() == 0x0000'0000'0000'0001);
    CHECK(all->write.mask() == 0x0000'0000'0000'0002);
    CHECK(all->user.mask() == 0x0000'0000'0000'0004);
    CHECK(all->write_through.mask() == 0x0000'0000'0000'0008);
    CHECK(all->cache_disable.mask() == 0x0000'0000'0000'0010);
    CHECK(all->accessed.mask() == 0x0000'0000'0000'0020);
    CHECK(all->dirty.mask() == 0x0000'0000'0000'0040);
    CHECK(all->page_size.mask() == 0x0000'0000'0000'0080);
    CHECK(all->pat.mask() == 0x0000'0000'0000'0080);
    CHECK(all->global.mask() == 0x0000'0000'0000'0100);
    CHECK(all->restart.mask() == 0x0000'0000'0000'0800);
    CHECK(all->pat_large.mask() == 0x0000'0000'0000'1000);
    CHECK(all->encryption.mask() == 0x0000'8000'0000'0000);
    CHECK(all->protection_key.mask() == 0x7800'0000'0000'0000);
    CHECK(all->execute_disable.mask() == 0x8000'0000'0000'0000);

    CHECK(shadow<shadow_features{.shared_bit = 47}>->shared.mask() == 0x0000'8000'0000'0000);
    CHECK(shadow<shadow_features{.key_id_bits = {51, 46}}>->key_id.mask() == 0x000f'c000'0000'0000);

    constexpr auto bare = shadow<shadow_features{.execute_disable = false, .global_pages = false}>;
    for (const field f : {bare->execute_disable, bare->global, bare->restart, bare->protection_key, bare->encryption,
                          bare->shared, bare->key_id}) {
        CHECK_FALSE(f.exists());
    }
    CHECK_FALSE(shadow<shadow_features{.levels = 2}>->execute_disable.exists());
}

// Intel SDM volume 3, "Paging", the figures of linear-address translation.
TEST_CASE("shape of the tables")
{
    struct shape_at {
        unsigned levels, entry_bits, index_bits, top_index_bits, address_bits, large_shift;
    };
    for (const shape_at& s :
         {shape_at{2, 32, 10, 10, 32, 22}, {3, 64, 9, 2, 32, 21}, {4, 64, 9, 9, 48, 21}, {5, 64, 9, 9, 57, 21}}) {
        CAPTURE(s.levels);
        const auto format = format_for(shadow_features{.levels = s.levels});
        const shape& t = format->shape();
        CHECK(t.levels == s.levels);
        CHECK(t.entry_bits == s.entry_bits);
        CHECK(t.index_bits_at(1) == s.index_bits);
        CHECK(t.index_bits_at(s.levels) == s.top_index_bits);
        CHECK(t.address_bits() == s.address_bits);
        CHECK(t.page_shift(1) == 12);
        CHECK(t.page_shift(2) == s.large_shift);
        CHECK(t.entry_bytes() == s.entry_bits / 8);
        CHECK(t.above == (s.levels >= 4 ? extension::sign : extension::zeros));
    }
    CHECK(shadow<shadow_features{}>->shape().page_shift(3) == 30);
}

TEST_CASE("all combinations of features")
{
    const manual::x86_manual manual;
    constexpr unsigned widths[] = {32, 36, 39, 40, 46, 48, 52};
    unsigned turn = 0;  // each combination at one width, in turn
    for (unsigned levels = 2; levels <= 5; ++levels) {
        for (unsigned on = 0; on < 256; ++on) {
            for (unsigned c = 0; c <= 65; ++c) {  // 65: no encryption bit
                const shadow_features f{.levels = levels,
                                        .physical_bits = widths[turn++ % std::size(widths)],
                                        .execute_disable = (on & 1) != 0,
                                        .gigabyte_pages = (on & 2) != 0,
                                        .large_pages = (on & 4) != 0,
                                        .pse36 = (on & 8) != 0,
                                        .global_pages = (on & 16) != 0,
                                        .user_keys = (on & 32) != 0,
                                        .hlat = (on & 64) != 0,
                                        .reserved_bit_8 = (on & 128) != 0,
                                        .encryption_bit = c < 65 ? optional_bits(c) : optional_bits(),
                                        .memory_bits = on % 3 == 0 ? 31U : 0U};
                CAPTURE(levels);
                CAPTURE(f.physical_bits);
                CAPTURE(on);
                CAPTURE(c);
                REQUIRE(manual.compare(format_for(f), f) == "");
            }
        }
    }
}

TEST_CASE("levels and widths that no CPU has are named as the defect")
{
    const manual::x86_manual manual;
    for (const unsigned levels : {0U, 1U, 2U, 3U, 4U, 5U, 6U, 7U, 64U, ~0U}) {
        for (const unsigned physical_bits : {0U, 1U, 12U, 31U, 32U, 33U, 51U, 52U, 53U, 63U, 64U, 65U, ~0U}) {
            for (const optional_bits c : {optional_bits(), optional_bits(47), optional_bits(52), optional_bits(~0U)}) {
                CAPTURE(levels);
                CAPTURE(physical_bits);
                for (const unsigned memory_bits : {0U, 1U, 31U, 32U, 51U, 52U, 64U, ~0U}) {
                    CAPTURE(memory_bits);
                    const shadow_features f{.levels = levels,
                                            .physical_bits = physical_bits,
                                            .encryption_bit = c,
                                            .memory_bits = memory_bits};
                    CHECK(manual.compare(format_for(f), f) == "");
                }
            }
        }
    }
}

TEST_CASE("key identifiers: every run of bits")
{
    const manual::x86_manual manual;
    for (const unsigned levels : {2U, 3U, 4U}) {
        for (unsigned low = 30; low <= 54; ++low) {
            for (unsigned high = 30; high <= 54; ++high) {
                for (const unsigned physical_bits : {36U, 46U, 52U}) {
                    CAPTURE(levels);
                    CAPTURE(low);
                    CAPTURE(high);
                    CAPTURE(physical_bits);
                    const shadow_features f{
                        .levels = levels, .physical_bits = physical_bits, .key_id_bits = {high, low}};
                    CHECK(manual.compare(format_for(f), f) == "");
                    const shadow_features one{
                        .levels = levels, .physical_bits = physical_bits, .encryption_bit = {high, low}};
                    CHECK(manual.compare(format_for(one), one) == "");
                    const shadow_features shared{
                        .levels = levels, .physical_bits = physical_bits, .shared_bit = {high, low}};
                    CHECK(manual.compare(format_for(shared), shared) == "");
                }
            }
        }
    }
}

TEST_CASE("hardware sets the accessed bit, and user mode executes where the supervisor does")
{
    for (const unsigned levels : {2U, 3U, 4U, 5U}) {
        const auto format = format_for(shadow_features{.levels = levels});
        CHECK(format->accessed_by() == accessed_setter::hardware);
        CHECK_FALSE(format->modes_apart());
        CHECK(format->permissions_in_place());
        CHECK(format->empty() == 0);
    }
}
