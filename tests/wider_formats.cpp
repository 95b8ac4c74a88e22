// SPDX-License-Identifier: BSL-1.0
// Formats of other machines than x86, of which 32-bit Arm is the tests' own: layouts against drawings of the manuals'
// figures, kinds, and what encode() makes against questions and walks.
#include "wider_formats.hpp"

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>

#include "leaf_model.hpp"
#include "manual.hpp"
#include "wider_walk.hpp"

using namespace wider;
using manual::drawn;
using manual::letter;
using manual::setting;

namespace {

// ---- AMD-Vi

constexpr letter<amdvi_host_fields> amdvi_letters[] = {
    {'P', role::fixed, &amdvi_host_fields::present, every},
    {'N', role::next_level},
    {'n', role::fixed},
    {'A', role::accessed},
    {'D', role::dirty},
    {'a', role::address},
    {'z', role::written},
    {'U', role::attribute, &amdvi_host_fields::untranslated},
    {'F', role::attribute, &amdvi_host_fields::force_coherent},
    {'R', role::read},
    {'W', role::write},
    {'.', role::software},
    {'0', role::reserved},
};

// clang-format off
constexpr drawn amdvi_entries[] = {
    {"23456", kind::table, ".WR. .000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa NNN. ..A. ...P"},
    {"5", kind::leaf, ".WRF U000 0000 aaaa zzzz zzzz zzzz zzzz zzzz zzzz zzzz zzzz zzzz nnn. .DA. ...P"},
    {"4", kind::leaf, ".WRF U000 0000 aaaa aaaa aaaa azzz zzzz zzzz zzzz zzzz zzzz zzzz nnn. .DA. ...P"},
    {"3", kind::leaf, ".WRF U000 0000 aaaa aaaa aaaa aaaa aaaa aazz zzzz zzzz zzzz zzzz nnn. .DA. ...P"},
    {"2", kind::leaf, ".WRF U000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaz zzzz zzzz nnn. .DA. ...P"},
    {"1", kind::leaf, ".WRF U000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa nnn. .DA. ...P"},
};

constexpr setting<amdvi_host_features, 6> amdvi_settings[] = {
    {"A and D kept, six levels",
        {.levels = 6, .accessed_bits = true, .dirty_bits = true, .coded_sizes = false}, amdvi_entries},
    {"A kept, one level", {.levels = 1, .accessed_bits = true, .coded_sizes = false}, amdvi_entries, {
    {"23456", kind::table, ""},
    {"2345", kind::leaf, ""},
    {"1", kind::leaf, ".WRF U000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa nnn. ..A. ...P"}}},
    {"A and D ignored, 40 address bits", {.levels = 3, .physical_bits = 40, .coded_sizes = false}, amdvi_entries, {
    {"456", kind::table, ""},
    {"45", kind::leaf, ""},
    {"23", kind::table, ".WR. .000 0000 0000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa NNN. .... ...P"},
    {"3", kind::leaf, ".WRF U000 0000 0000 0000 0000 aaaa aaaa aazz zzzz zzzz zzzz zzzz nnn. .... ...P"},
    {"2", kind::leaf, ".WRF U000 0000 0000 0000 0000 aaaa aaaa aaaa aaaa aaaz zzzz zzzz nnn. .... ...P"},
    {"1", kind::leaf, ".WRF U000 0000 0000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa nnn. .... ...P"}}},
};

// ---- AArch64

constexpr letter<aarch64_fields> stage1_letters[] = {
    {'V', role::fixed, nullptr, every},
    {'T', role::fixed, nullptr, tables | leaf_at(1) | run_at(1)},  // a table or page, not a block
    {'M', role::memory_type, &aarch64_fields::memory_type},
    {'n', role::attribute},
    {'U', role::user, &aarch64_fields::unprivileged},
    {'R', role::write, &aarch64_fields::read_only, {}, true},
    {'S', role::memory_type, &aarch64_fields::shareability},
    {'A', role::accessed},
    {'g', role::attribute, &aarch64_fields::not_global},
    {'a', role::address},
    {'h', role::address, nullptr, {}, false, 36},  // address bits 51:48 in bits 15:12
    {'b', role::beyond},
    {'z', role::written},
    {'G', role::attribute},
    {'D', role::dirty_modifier, &aarch64_fields::dirty_modifier},
    {'C', role::fixed, &aarch64_fields::contiguous, runs},
    {'P', role::execute, &aarch64_fields::privileged_never, {}, true},
    {'X', role::user_execute, &aarch64_fields::unprivileged_never, {}, true},
    {'N', role::attribute},
    {'p', role::execute, nullptr, {}, true},
    {'x', role::user_execute, nullptr, {}, true},
    {'u', role::user, nullptr, {}, true},
    {'w', role::write, nullptr, {}, true},
    {'.', role::software},
};

constexpr drawn stage1_4k[] = {
    {"234", kind::table, "Nwux p... .... .zzz aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... .... ..TV"},
    {"3", kind::leaf, ".... .... .XPC DGzz aaaa aaaa aaaa aaaa aazz zzzz zzzz zzzz zzzz gASS RUnM MMTV"},
    {"2", kind::leaf, ".... .... .XPC DGzz aaaa aaaa aaaa aaaa aaaa aaaa aaaz zzzz zzzz gASS RUnM MMTV"},
    {"1", kind::leaf, ".... .... .XPC DGzz aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa gASS RUnM MMTV"},
    {"3", kind::run,  ".... .... .XPC DGzz aaaa aaaa aaaa aaaa aazz zzzz zzzz zzzz zzzz gASS RUnM MMTV"},
    {"2", kind::run,  ".... .... .XPC DGzz aaaa aaaa aaaa aaaa aaaa aaaa aaaz zzzz zzzz gASS RUnM MMTV"},
    {"1", kind::run,  ".... .... .XPC DGzz aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa gASS RUnM MMTV"},
};
constexpr drawn stage1_16k[] = {
    {"234", kind::table, "Nwux p... .... .zzz aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aazz .... .... ..TV"},
    {"2", kind::leaf, ".... .... .XPC DGzz aaaa aaaa aaaa aaaa aaaa aaaz zzzz zzzz zzzz gASS RUnM MMTV"},
    {"1", kind::leaf, ".... .... .XPC DGzz aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aazz gASS RUnM MMTV"},
    {"2", kind::run,  ".... .... .XPC DGzz aaaa aaaa aaaa aaaa aaaa aaaz zzzz zzzz zzzz gASS RUnM MMTV"},
    {"1", kind::run,  ".... .... .XPC DGzz aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aazz gASS RUnM MMTV"},
};
constexpr drawn stage1_64k[] = {
    {"23", kind::table, "Nwux p... .... .zzz aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa hhhh .... .... ..TV"},
    {"2", kind::leaf, ".... .... .XPC DGzz aaaa aaaa aaaa aaaa aaaz zzzz zzzz zzzz hhhh gASS RUnM MMTV"},
    {"1", kind::leaf, ".... .... .XPC DGzz aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa hhhh gASS RUnM MMTV"},
    {"2", kind::run,  ".... .... .XPC DGzz aaaa aaaa aaaa aaaa aaaz zzzz zzzz zzzz hhhh gASS RUnM MMTV"},
    {"1", kind::run,  ".... .... .XPC DGzz aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa hhhh gASS RUnM MMTV"},
};

constexpr setting<aarch64_stage1_features, 7> stage1_settings_4k[] = {
    {"4 Kbytes, all in use", {}, stage1_4k},
    {"4 Kbytes, the upper half", {.upper_half = true}, stage1_4k},
    {"4 Kbytes, access flag by software", {.access_flag = false, .dirty_state = false}, stage1_4k, {
    {"3", kind::leaf, ".... .... .XPC .Gzz aaaa aaaa aaaa aaaa aazz zzzz zzzz zzzz zzzz gASS RUnM MMTV"},
    {"2", kind::leaf, ".... .... .XPC .Gzz aaaa aaaa aaaa aaaa aaaa aaaa aaaz zzzz zzzz gASS RUnM MMTV"},
    {"1", kind::leaf, ".... .... .XPC .Gzz aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa gASS RUnM MMTV"},
    {"3", kind::run,  ".... .... .XPC .Gzz aaaa aaaa aaaa aaaa aazz zzzz zzzz zzzz zzzz gASS RUnM MMTV"},
    {"2", kind::run,  ".... .... .XPC .Gzz aaaa aaaa aaaa aaaa aaaa aaaa aaaz zzzz zzzz gASS RUnM MMTV"},
    {"1", kind::run,  ".... .... .XPC .Gzz aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa gASS RUnM MMTV"}}},
};
constexpr drawn stage1_40_bits[] = {
    {"23", kind::table, "N... .... .... .zzz bbbb bbbb aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... .... ..TV"},
    {"3", kind::leaf, ".... .... .XPC DGzz bbbb bbbb aaaa aaaa aazz zzzz zzzz zzzz zzzz gASS RUnM MMTV"},
    {"3", kind::run,  ".... .... .XPC DGzz bbbb bbbb aaaa aaaa aazz zzzz zzzz zzzz zzzz gASS RUnM MMTV"},
    {"2", kind::leaf, ".... .... .XPC DGzz bbbb bbbb aaaa aaaa aaaa aaaa aaaz zzzz zzzz gASS RUnM MMTV"},
    {"2", kind::run,  ".... .... .XPC DGzz bbbb bbbb aaaa aaaa aaaa aaaa aaaz zzzz zzzz gASS RUnM MMTV"},
    {"1", kind::leaf, ".... .... .XPC DGzz bbbb bbbb aaaa aaaa aaaa aaaa aaaa aaaa aaaa gASS RUnM MMTV"},
    {"1", kind::run,  ".... .... .XPC DGzz bbbb bbbb aaaa aaaa aaaa aaaa aaaa aaaa aaaa gASS RUnM MMTV"},
};
constexpr setting<aarch64_stage1_features, 7> stage1_settings_40_bits[] = {
    {"4 Kbytes, 39 bits, HPD0, 40 address bits",
        {.input_bits = 39, .physical_bits = 40, .hierarchical = false}, stage1_40_bits},
};
constexpr setting<aarch64_stage1_features, 5> stage1_settings_16k[] = {
    {"16 Kbytes", {.granule = 14}, stage1_16k},
    {"16 Kbytes, 36 bits", {.granule = 14, .input_bits = 36}, stage1_16k, {
    {"34", kind::table, ""}}},
};
constexpr setting<aarch64_stage1_features, 5> stage1_settings_64k[] = {
    {"64 Kbytes, 52 address bits",
        {.granule = 16, .input_bits = 42, .physical_bits = 52, .large_addresses = true}, stage1_64k, {
    {"3", kind::table, ""}}},
    {"64 Kbytes, 52 bits on a CPU with them, 48 in use",
        {.granule = 16, .physical_bits = 48, .large_addresses = true}, stage1_64k, {
    {"3", kind::leaf, ".... .... .XPn DGzz aaaa aazz zzzz zzzz zzzz zzzz zzzz zzzz bbbb gASS RUnM MMTV"},
    {"23", kind::table, "Nwux p... .... .zzz aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa bbbb .... .... ..TV"},
    {"2", kind::leaf, ".... .... .XPC DGzz aaaa aaaa aaaa aaaa aaaz zzzz zzzz zzzz bbbb gASS RUnM MMTV"},
    {"1", kind::leaf, ".... .... .XPC DGzz aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa bbbb gASS RUnM MMTV"},
    {"2", kind::run,  ".... .... .XPC DGzz aaaa aaaa aaaa aaaa aaaz zzzz zzzz zzzz bbbb gASS RUnM MMTV"},
    {"1", kind::run,  ".... .... .XPC DGzz aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa bbbb gASS RUnM MMTV"}}},
    {"64 Kbytes, a CPU with 48 bits", {.granule = 16}, stage1_64k, {
    {"23", kind::table, "Nwux p... .... .zzz aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa zzzz .... .... ..TV"},
    {"2", kind::leaf, ".... .... .XPC DGzz aaaa aaaa aaaa aaaa aaaz zzzz zzzz zzzz zzzz gASS RUnM MMTV"},
    {"1", kind::leaf, ".... .... .XPC DGzz aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa zzzz gASS RUnM MMTV"},
    {"2", kind::run,  ".... .... .XPC DGzz aaaa aaaa aaaa aaaa aaaz zzzz zzzz zzzz zzzz gASS RUnM MMTV"},
    {"1", kind::run,  ".... .... .XPC DGzz aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa zzzz gASS RUnM MMTV"}}},
};

constexpr letter<aarch64_fields> stage2_letters[] = {
    {'V', role::fixed, nullptr, every},
    {'T', role::fixed, nullptr, tables | leaf_at(1) | run_at(1)},
    {'M', role::memory_type, &aarch64_fields::memory_type},
    {'R', role::read},
    {'W', role::write},
    {'S', role::memory_type, &aarch64_fields::shareability},
    {'A', role::accessed},
    {'f', role::attribute},
    {'a', role::address},
    {'b', role::beyond},
    {'z', role::written},
    {'D', role::dirty_modifier, &aarch64_fields::dirty_modifier},
    {'C', role::fixed, &aarch64_fields::contiguous, runs},
    {'X', role::execute, &aarch64_fields::execute_never, {}, true},
    {'x', role::user_execute, nullptr, {}, true},
    {'.', role::software},
};

constexpr drawn stage2_4k[] = {
    {"234", kind::table, ".... .... .... .zzz aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... .... ..TV"},
    {"3", kind::leaf, ".... .... .XxC Dzzz aaaa aaaa aaaa aaaa aazz zzzz zzzz zzzz zzzz fASS WRMM MMTV"},
    {"2", kind::leaf, ".... .... .XxC Dzzz aaaa aaaa aaaa aaaa aaaa aaaa aaaz zzzz zzzz fASS WRMM MMTV"},
    {"1", kind::leaf, ".... .... .XxC Dzzz aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa fASS WRMM MMTV"},
    {"3", kind::run,  ".... .... .XxC Dzzz aaaa aaaa aaaa aaaa aazz zzzz zzzz zzzz zzzz fASS WRMM MMTV"},
    {"2", kind::run,  ".... .... .XxC Dzzz aaaa aaaa aaaa aaaa aaaa aaaa aaaz zzzz zzzz fASS WRMM MMTV"},
    {"1", kind::run,  ".... .... .XxC Dzzz aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa fASS WRMM MMTV"},
};

constexpr setting<aarch64_stage2_features, 7> stage2_settings[] = {
    {"4 Kbytes, all in use", {}, stage2_4k},
};

constexpr drawn stage2_plain[] = {
    {"23", kind::table, ".... .... .... .zzz aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... .... ..TV"},
    {"3", kind::leaf, ".... .... .XzC .zzz aaaa aaaa aaaa aaaa aazz zzzz zzzz zzzz zzzz fASS WRMM MMTV"},
    {"2", kind::leaf, ".... .... .XzC .zzz aaaa aaaa aaaa aaaa aaaa aaaa aaaz zzzz zzzz fASS WRMM MMTV"},
    {"1", kind::leaf, ".... .... .XzC .zzz aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa fASS WRMM MMTV"},
    {"3", kind::run,  ".... .... .XzC .zzz aaaa aaaa aaaa aaaa aazz zzzz zzzz zzzz zzzz fASS WRMM MMTV"},
    {"2", kind::run,  ".... .... .XzC .zzz aaaa aaaa aaaa aaaa aaaa aaaa aaaz zzzz zzzz fASS WRMM MMTV"},
    {"1", kind::run,  ".... .... .XzC .zzz aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa fASS WRMM MMTV"},
};
constexpr setting<aarch64_stage2_features, 7> stage2_settings_plain[] = {
    {"4 Kbytes, 40 bits from level 1, no FEAT_XNX, HD off",
        {.levels = 3, .input_bits = 40, .dirty_state = false, .execute_by_level = false}, stage2_plain},
};

// ---- 32-bit Arm: its entries for tables and its leaves are told by different bits

constexpr letter<short_fields> short_letters[] = {
    {'1', role::fixed, nullptr, every},
    {'c', role::fixed},
    {'a', role::address},
    {'D', role::attribute, &short_fields::domain},
    {'M', role::memory_type},
    {'n', role::attribute},
    {'F', role::attribute},
    {'U', role::user},
    {'R', role::write, nullptr, {}, true},
    {'P', role::execute, nullptr, {}, true},
    {'X', role::user_execute, nullptr, {}, true},
    {'x', role::user_execute, &short_fields::execute_never, {}, true},
    {'z', role::written},
    {'.', role::software},
};
constexpr drawn short_entries[] = {
    {"2", kind::table, "aaaa aaaa aaaa aaaa aaaa aa.D DDDz nPc1"},
    {"2", kind::leaf,  "aaaa aaaa aaaa ncnM RMMM UF.D DDDx MM1P"},
    {"2", kind::run,   "aaaa aaaa zzzz n1nM RMMM UF.z zzzx MM1P"},
    {"1", kind::leaf,  "aaaa aaaa aaaa aaaa aaaa nMRM MMUF MM1X"},
    {"1", kind::run,   "aaaa aaaa aaaa aaaa XMMM nMRz zzUF MMc1"},
};
constexpr setting<short_features, 5> short_settings[] = {
    {"with PXN", {.privileged_never = true}, short_entries},
    {"without PXN", {}, short_entries, {
    {"2", kind::table, "aaaa aaaa aaaa aaaa aaaa aa.D DDDz nzc1"},
    {"2", kind::leaf,  "aaaa aaaa aaaa ncnM RMMM UF.D DDDx MM1c"},
    {"2", kind::run,   "aaaa aaaa zzzz n1nM RMMM UF.z zzzx MM1c"}}},
};
// clang-format on

}  // namespace

namespace {

/// Checks the entries of a setting one by one: where entries are told apart by more than what is
/// drawn as fixed. Returns how many there are.
template <class Setting, class Fields, std::size_t Letters>
unsigned check_entries(const Setting& s, const letter<Fields> (&legend)[Letters])
{
    CAPTURE(s.words);
    const auto found = format_for(s.features);
    REQUIRE(found->wrong().what == defect::none);
    CHECK(well_formed(found));
    word drawn_bits[Letters] = {};
    entries drawn_in[Letters];
    unsigned count = 0;
    for (unsigned level = 1; level <= max_levels; ++level) {
        for (const kind k : present_kinds) {
            const std::string_view drawing = s.drawing(level, k);
            CHECK(found->exists(level, k) == !drawing.empty());
            if (drawing.empty()) continue;
            ++count;
            manual::expected e{.exists = true};
            for (const manual::part& p : manual::parts_of(drawing)) {
                bool known = false;
                for (std::size_t n = 0; n < Letters; ++n) {
                    if (legend[n].sign != p.sign) continue;
                    known = true;
                    e.add(legend[n], legend[n].is, p.bits, entries(level, k));
                    drawn_bits[n] |= p.bits;
                    drawn_in[n] = drawn_in[n] | entries(level, k);
                }
                CHECK(known);
            }
            CHECK(manual::difference(found, level, k, e) == "");
        }
    }
    for (std::size_t n = 0; n < Letters; ++n) {
        if (legend[n].name == nullptr) continue;
        const entry_field& f = found->fields().*legend[n].name;
        CHECK(f.mask() == drawn_bits[n]);
        CHECK(f.in() == drawn_in[n]);
    }
    return count;
}

}  // namespace

TEST_CASE("layouts of AMD-Vi")
{
    CHECK(check_entries(amdvi_settings[0], amdvi_letters) == 10);
    CHECK(check_entries(amdvi_settings[1], amdvi_letters) == 1);
    CHECK(check_entries(amdvi_settings[2], amdvi_letters) == 5);
    constexpr amdvi_host_features six = amdvi_settings[0].features;
    CHECK(manual::difference_of(format_for(six), amdvi_host<six>) == "");
    static_assert(well_formed(amdvi_host<six>));
    CHECK(amdvi_host<six>->next_level == bits(11, 9));
    CHECK(amdvi_host<six>->next_level.in() == (leaves_up_to(5) | tables_up_to(6)));
    CHECK(amdvi_host<six>->accessed == bit(5));
    CHECK(amdvi_host<six>->accessed.in() == (leaves_up_to(5) | tables_up_to(6)));
    CHECK(amdvi_host<six>->dirty == bit(6));
    CHECK(amdvi_host<six>->dirty.in() == leaves_up_to(5));
    CHECK(amdvi_host<six>->accessed_by() == accessed_setter::hardware);
    CHECK(format_for(amdvi_host_features{})->accessed_by() == accessed_setter::nobody);
    CHECK(amdvi_host<six>->layout_at(1, kind::none).mask(role::software) == ~word{1});
    CHECK(amdvi_host<six>->empty() == 0);
}

TEST_CASE("layouts of AArch64 stage 1, as constants and at run time")
{
    manual::check_settings<stage1_settings_4k>(stage1_letters);
    manual::check_settings<stage1_settings_40_bits>(stage1_letters);
    manual::check_settings<stage1_settings_16k>(stage1_letters);
    manual::check_settings<stage1_settings_64k>(stage1_letters);
}

TEST_CASE("layouts of AArch64 stage 2, as constants and at run time")
{
    manual::check_settings<stage2_settings>(stage2_letters);
    manual::check_settings<stage2_settings_plain>(stage2_letters);
}

TEST_CASE("layouts of 32-bit Arm, as constants and at run time")
{
    CHECK(check_entries(short_settings[0], short_letters) == 5);
    CHECK(check_entries(short_settings[1], short_letters) == 5);
    // 01 or 10: any of the two bits, and no other, makes an entry present.
    CHECK(short_format<short_features{}>->present_mask() == 3);
    CHECK(short_format<short_features{.privileged_never = true}>->present_mask() == 3);
    CHECK(short_format<short_features{}>->layout_at(1, kind::none).mask(role::software) == 0xffff'fffc);
    CHECK(manual::difference_of(format_for(short_features{}), short_format<short_features{}>) == "");
    CHECK(manual::difference_of(format_for(short_features{.privileged_never = true}),
                                short_format<short_features{.privileged_never = true}>) == "");
}

TEST_CASE("a page whose size is coded in its address, by the level of its first size")
{
    const auto f = format_for(amdvi_host_features{.levels = 6});
    for (unsigned level = 1; level <= 5; ++level) {
        CAPTURE(level);
        const unsigned shift = 12 + 9 * (level - 1);
        const layout& l = f->layout_at(level, kind::run);
        CHECK(l.sized);
        CHECK(l.mask(role::address) == ones(51, shift));
        CHECK(l.mask(role::fixed) == (1 | ones(11, 9) | ones(shift - 1, 12)));
        CHECK((l.value & l.mask(role::fixed)) == l.mask(role::fixed));
        CHECK(l.mask(role::reserved) == ones(58, 52));
        CHECK(l.mask(role::written) == 0);
    }
    CHECK_FALSE(f->exists(6, kind::run));
    CHECK_FALSE(f->exists(6, kind::leaf));
    CHECK(f->exists(6, kind::table));
    CHECK(f->uses_sizes());
    CHECK(f->uses(role::next_level));
    CHECK(manual::difference_of(f, amdvi_host<amdvi_host_features{.levels = 6}>) == "");
}

TEST_CASE("contradictory features leave every entry alone")
{
    CHECK(format_for(amdvi_host_features{.levels = 7})->wrong().what == defect::levels);
    CHECK(format_for(amdvi_host_features{.levels = 0})->wrong().what == defect::levels);
    CHECK(format_for(amdvi_host_features{.dirty_bits = true})->wrong().what == defect::contradiction);
    CHECK(format_for(aarch64_stage1_features{.granule = 13})->wrong().what == defect::levels);
    CHECK(format_for(aarch64_stage1_features{.input_bits = 49})->wrong().what == defect::levels);
    CHECK(format_for(aarch64_stage1_features{.input_bits = 15})->wrong().what == defect::levels);
    CHECK(format_for(aarch64_stage1_features{.physical_bits = 52})->wrong().what == defect::physical_bits);
    CHECK(format_for(aarch64_stage1_features{.access_flag = false})->wrong().what == defect::contradiction);
    CHECK(format_for(short_features{.physical_bits = 33})->wrong().what == defect::physical_bits);
    // Stage 2: the input does not fit what the start level has, 16 tables side by side.
    for (const unsigned bits : {30U, 44U}) {
        CHECK(format_for(aarch64_stage2_features{.levels = 3, .input_bits = bits})->wrong().what == defect::levels);
    }
    for (const unsigned bits : {31U, 43U}) {
        CHECK(format_for(aarch64_stage2_features{.levels = 3, .input_bits = bits})->wrong().what == defect::none);
    }
    CHECK(manual::inert(format_for(amdvi_host_features{.levels = 7}), 64));
    CHECK(manual::inert(format_for(aarch64_stage1_features{.input_bits = 49}), 64));
    CHECK(manual::inert(format_for(aarch64_stage2_features{.levels = 3, .input_bits = 44}), 64));
    CHECK(manual::inert(format_for(short_features{.physical_bits = 33}), 32));
}

// ---- kinds

TEST_CASE("kinds of AMD-Vi's entries, by their 12 low bits")
{
    for (const bool coded : {false, true}) {
        for (unsigned levels = 1; levels <= 6; ++levels) {
            const auto f = format_for(amdvi_host_features{.levels = levels, .coded_sizes = coded});
            for (unsigned level = 1; level <= levels; ++level) {
                const word ones_below = ones(11 + 9 * (level - 1), 12) & ones(51, 12);
                for (word low = 0; low < 4096; ++low) {
                    for (const word address : {word{0}, ones_below, ones_below >> 1 & ~word{0xfff}}) {
                        const word entry = low | address;
                        const word next = low >> 9;
                        const bool sized = coded && next == 7 && level < 6 && address == ones_below;
                        kind expected = level > 1 ? kind::table : kind::none;
                        if (sized) expected = kind::run;
                        if (next == 0 && level < 6) expected = kind::leaf;
                        if ((low & 1) == 0) expected = kind::none;
                        if (kind_of(entry, level, f) != expected || present(entry, f) != ((low & 1) != 0)) {
                            FAIL_CHECK(levels << " levels, level " << level << ": " << manual::hex(entry));
                        }
                        // What is no page and refers to no lower level breaks a rule.
                        const bool goes_down = next >= 1 && next < level;
                        const bool good =
                            (low & 1) == 0 || expected == kind::leaf || expected == kind::run || goes_down;
                        if (legal(entry, level, f) != good) FAIL_CHECK("legal " << level << ": " << manual::hex(entry));
                    }
                }
            }
        }
    }
    const auto f = format_for(amdvi_host_features{.levels = 6});
    CHECK(diagnose(0xe01, 2, f) == finding{rule::next_level, 0xe00});
    CHECK(diagnose(0x401, 2, f) == finding{rule::next_level, 0xe00});
    CHECK(diagnose(0x001, 6, f) == finding{rule::next_level, 0xe00});
    CHECK(diagnose(0x201, 1, f).broken == rule::no_such_kind);
    CHECK(f->level_below(0x401, 6) == 2);
}

TEST_CASE("kinds of AArch64's entries, by the bits that tell them")
{
    const auto check = [](const auto& f, unsigned levels, entries with_blocks, entries with_runs) {
        for (unsigned level = 1; level <= levels; ++level) {
            for (word low = 0; low < 4096; ++low) {
                for (const bool contiguous : {false, true}) {
                    const word entry = low | word{contiguous} << 52;
                    const bool is_run = contiguous && with_runs.contains(level, kind::run);
                    const kind mapped = is_run ? kind::run : kind::leaf;
                    kind expected = kind::none;
                    if ((low & 3) == 3) expected = level == 1 ? mapped : kind::table;
                    if ((low & 3) == 1 && with_blocks.contains(level, kind::leaf)) expected = mapped;
                    if (kind_of(entry, level, f) != expected || present(entry, f) != ((low & 1) != 0)) {
                        FAIL_CHECK("level " << level << ": " << manual::hex(entry));
                    }
                    const rule broken = (low & 1) != 0 && expected == kind::none ? rule::no_such_kind : rule::none;
                    if (diagnose(entry, level, f).broken != broken) FAIL_CHECK("rule " << manual::hex(entry));
                }
            }
        }
    };
    const entries all_runs = run_at(1) | run_at(2) | run_at(3);
    check(format_for(aarch64_stage1_features{}), 4, leaf_at(2) | leaf_at(3), all_runs);
    check(aarch64_stage1<aarch64_stage1_features{}>, 4, leaf_at(2) | leaf_at(3), all_runs);
    check(format_for(aarch64_stage1_features{.granule = 14}), 4, leaf_at(2), run_at(1) | run_at(2));
    check(format_for(aarch64_stage1_features{.granule = 16}), 3, leaf_at(2), run_at(1) | run_at(2));
    check(format_for(
              aarch64_stage1_features{.granule = 16, .input_bits = 52, .physical_bits = 52, .large_addresses = true}),
          3, leaf_at(2) | leaf_at(3), run_at(1) | run_at(2));
    check(format_for(aarch64_stage2_features{}), 4, leaf_at(2) | leaf_at(3), all_runs);
    check(aarch64_stage2<aarch64_stage2_features{.dirty_state = false}>, 4, leaf_at(2) | leaf_at(3), all_runs);
    check(format_for(aarch64_stage2_features{.granule = 14, .levels = 3}), 3, leaf_at(2), run_at(1) | run_at(2));
}

TEST_CASE("kinds of 32-bit Arm's entries, by their low bits and bit 18")
{
    for (const bool pxn : {false, true}) {
        const auto f = format_for(short_features{.privileged_never = pxn});
        for (word low = 0; low < 4096; ++low) {
            for (const bool bit_18 : {false, true}) {
                const word entry = low | word{bit_18} << 18;
                const word type = low & 3;
                const kind section = bit_18 ? kind::run : kind::leaf;
                const kind upper = type == 1 ? kind::table : type == 2 || (type == 3 && pxn) ? section : kind::none;
                const kind lower = type == 0 ? kind::none : type == 1 ? kind::run : kind::leaf;
                if (kind_of(entry, 2, f) != upper) FAIL_CHECK("level 2: " << manual::hex(entry));
                if (kind_of(entry, 1, f) != lower) FAIL_CHECK("level 1: " << manual::hex(entry));
                if (present(entry, f) != (type != 0)) FAIL_CHECK("present: " << manual::hex(entry));
            }
        }
        CHECK(diagnose(0x3, 2, f).broken == (pxn ? rule::none : rule::no_such_kind));
        CHECK(diagnose(word{1} << 32, 2, f).broken == rule::none);  // absent
        CHECK(diagnose(word{1} << 32 | 1, 2, f).broken == rule::too_wide);
    }
}

// ---- encode, questions, and a walk

namespace {

/// Every entry that encode() makes: what questions say of it, and where a walk comes by it.
/// Returns how many permissions of a level-1 leaf the format offers.
template <class Format, class Constant>
unsigned check_encode(const Format& format, const Constant& constant, word address, word physical)
{
    unsigned offered = 0;
    const shape& s = format->shape();
    for (unsigned level = 1; level <= max_levels; ++level) {
        for (const kind k : present_kinds) {
            CAPTURE(level);
            CAPTURE(std::string(name(k)));
            const bool exists = format->exists(level, k);
            const unsigned lowest = !exists            ? 12
                                    : k == kind::table ? s.table_shift(level - 1)
                                                       : format->layout_at(level, k).offset_bits_of(0);
            const word place = physical & ~ones(lowest - 1, 0);
            for (unsigned n = 0; n < 32; ++n) {
                CAPTURE(n);
                permissions p = manual::permissions_number(n);
                const encoded e = encode(k, level, place, p, format);
                const encoded twin = encode(k, level, place, p, constant);
                CHECK(e.entry == twin.entry);
                CHECK(e.error == twin.error);
                if (!exists) {
                    CHECK(e.error == encode_error::no_such_entry);
                    continue;
                }
                if (!e) {
                    CHECK(e.error == encode_error::permission_not_offered);
                    if (k == kind::table) CHECK_FALSE(p == permissions{});
                    continue;
                }
                if (!format->modes_apart()) p.user_execute = p.execute && p.user;
                offered += level == 1 && k == kind::leaf;
                CHECK(present(e.entry, format));
                CHECK(legal(e.entry, level, format));
                CHECK(kind_of(e.entry, level, format) == k);
                CHECK(address_of(e.entry, level, format) == place);
                CHECK(permissions_of(e.entry, level, format) == p);
                CHECK(permissions_of(e.entry, level, constant) == p);
                if (k == kind::table) continue;
                const word in_page = address & ones(format->layout_at(level, k).offset_bits_of(e.entry) - 1, 0);
                // The access flag where software keeps it.
                const word used = e.entry | format->accessed.mask();
                const walk_result r = walk_to(format, level, used, address).ended;
                CHECK(r.fault != fault_kind::not_present);
                CHECK(r.fault != fault_kind::reserved_bits);
                CHECK(r.fault != fault_kind::address_size);
                CHECK(r.allowed == p);
                CHECK(r.address == (place | in_page));
                CHECK(r.level == level);
                CHECK(r.page_shift == page_shift_of(e.entry, level, format));
                CHECK(walking::same_outcome(r, walk_to(constant, level, used, address).ended));
            }
            if (!exists) continue;
            CHECK(encode(k, level, place + 0x10, {}, format).error == encode_error::address_misaligned);
            CHECK(encode(k, level, word{1} << 56, {}, format).error == encode_error::address_too_wide);
        }
    }
    return offered;
}

}  // namespace

TEST_CASE("what encode() makes of AMD-Vi's entries")
{
    const auto check = [](auto constant, word address) {
        const auto f = format_for(constant->features());
        // Two bits; execution and user mode are always allowed, and user_execute does not count.
        CHECK(check_encode(f, constant, address, 0x000f'f234'5678'9000) == 8);
    };
    check(amdvi_host<amdvi_host_features{.levels = 1}>, 0x001f'f123);
    check(amdvi_host<amdvi_host_features{.levels = 4}>, 0x0000'f234'5678'9abc);
    check(amdvi_host<amdvi_host_features{.levels = 6}>, 0xfedc'ba98'7654'3210);
    check(amdvi_host<amdvi_host_features{.levels = 6, .accessed_bits = true, .dirty_bits = true}>,
          0x8000'0000'0000'0008);
}

TEST_CASE("what encode() makes of AArch64's stage 1 entries")
{
    const auto check = [](auto constant, word address, word physical) {
        // Reads are always allowed; what EL0 may write, EL1 does not execute.
        CHECK(check_encode(format_for(constant->features()), constant, address, physical) == 14);
    };
    check(aarch64_stage1<aarch64_stage1_features{}>, 0x0000'f234'5678'9abc, 0x0000'f234'5678'9000);
    check(aarch64_stage1<aarch64_stage1_features{.upper_half = true}>, 0xffff'f234'5678'9abc, 0x0000'f234'5678'9000);
    check(aarch64_stage1<aarch64_stage1_features{.input_bits = 39, .access_flag = false, .dirty_state = false}>,
          0x0000'0074'5678'9abc, 0x1000);
    check(aarch64_stage1<aarch64_stage1_features{.granule = 14}>, 0x0000'f234'5678'9abc, 0x0000'f234'5678'8000);
    check(aarch64_stage1<aarch64_stage1_features{
              .granule = 16, .input_bits = 52, .physical_bits = 52, .large_addresses = true}>,
          0x000f'f234'5678'9abc, 0x000f'f234'5678'0000);
}

TEST_CASE("what encode() makes of AArch64's stage 2 entries")
{
    const auto check = [](auto constant, word address) {
        // Two bits, and a code of four values. Without FEAT_XNX user_execute does not count.
        CHECK(check_encode(format_for(constant->features()), constant, address, 0x0000'f234'5678'0000) == 16);
    };
    check(aarch64_stage2<aarch64_stage2_features{}>, 0x0000'f234'5678'9abc);
    check(aarch64_stage2<aarch64_stage2_features{.levels = 3, .input_bits = 42, .dirty_state = false}>,
          0x0000'0274'5678'9abc);
    check(aarch64_stage2<aarch64_stage2_features{.execute_by_level = false}>, 0x0000'f234'5678'9abc);
    check(aarch64_stage2<aarch64_stage2_features{
              .granule = 16, .levels = 2, .input_bits = 42, .physical_bits = 52, .large_addresses = true}>,
          0x0000'0234'5678'9abc);
}

TEST_CASE("what encode() makes of 32-bit Arm's entries")
{
    constexpr auto plain = short_format<short_features{}>;
    constexpr auto with_pxn = short_format<short_features{.privileged_never = true}>;
    CHECK(check_encode(format_for(short_features{}), plain, 0xfedc'ba98, 0xf234'5000) == 16);
    CHECK(check_encode(format_for(short_features{.privileged_never = true}), with_pxn, 0xfedc'ba98, 0xf234'5000) == 8);

    CHECK(plain->shape().address_bits() == 32);
    CHECK(plain->shape().index(0xfedc'ba98, 2) == 0xfed);
    CHECK(plain->shape().index(0xfedc'ba98, 1) == 0xcb);
    CHECK(plain->shape().table_shift(1) == 10);
    CHECK(plain->shape().table_shift(2) == 14);
    CHECK(encode(kind::table, 2, 0x1234'5400, {}, plain, plain->domain(5)).entry == 0x1234'54a1);
    CHECK(encode(kind::leaf, 2, 0x1230'0000, {.user_execute = false}, plain).entry == 0x1230'0802);
    CHECK(encode(kind::run, 2, 0x1200'0000, {}, plain).entry == 0x1204'0802);
    CHECK(encode(kind::run, 1, 0x1234'0000, {}, plain).entry == 0x1234'0021);
    CHECK(encode(kind::leaf, 1, 0x1234'5000, {}, plain).entry == 0x1234'5022);
    CHECK(encode(kind::leaf, 1, 0x1234'5000, {.execute = false, .user = false}, plain).entry == 0x1234'5003);

    // Of pages, the entry above says whether the privileged mode may execute them.
    constexpr permissions user_code{.write = false, .execute = false, .user_execute = true};
    CHECK(encode(kind::leaf, 2, 0x1230'0000, user_code, with_pxn).entry == 0x1230'8803);
    CHECK(encode(kind::leaf, 1, 0x1234'5000, user_code, with_pxn).error == encode_error::permission_not_offered);
    CHECK(encode(kind::table, 2, 0x1234'5400, {.execute = false, .user_execute = true}, with_pxn).entry == 0x1234'5405);
    CHECK(encode(kind::table, 2, 0x1234'5400, {.execute = false}, plain).error == encode_error::permission_not_offered);
}

TEST_CASE("32-bit Arm: sections, pages and runs, by 12 and 8 index bits")
{
    // The top table has 4096 entries of 4 bytes; a page's has 256.
    constexpr word top = 0x10'0000;
    constexpr word below = 0x10'4400;
    constexpr word address = 0xfedc'ba98;
    walking::arena memory(top, 8);
    const auto put = [&](word place, word entry) { memory.put(place, static_cast<std::uint32_t>(entry)); };
    const auto walked = [&](const request& a = {}) {
        const walk_result r = walk(format_for(short_features{}), top, address, a, {}, memory);
        CHECK(walking::same_outcome(r, walk(short_format<short_features{}>, top, address, a, {}, memory)));
        return r;
    };
    constexpr word upper_slot = top + word{4} * 0xfed;
    constexpr word lower_slot = below + word{4} * 0xcb;
    CHECK(walked().fault == fault_kind::not_present);
    put(upper_slot, 0x4'0000);  // software's: only bits 1:0 make an entry present
    CHECK(walked().fault == fault_kind::not_present);
    CHECK(walked().broken == rule::none);
    put(upper_slot, 0x3);
    CHECK(walked().fault == fault_kind::not_present);
    CHECK(walked().broken == rule::no_such_kind);

    put(upper_slot, 0x1230'0402 | 0x800);
    CHECK(walked({action::write, true}).address == 0x123c'ba98);
    CHECK(walked().page_shift == 20);
    put(upper_slot, 0x1204'0402 | 0x8000);
    CHECK(walked().address == 0x12dc'ba98);
    CHECK(walked().page_shift == 24);
    CHECK(walked().level == 2);
    CHECK(walked({action::write}).fault == fault_kind::protection);
    CHECK(walked({action::read, true}).fault == fault_kind::protection);
    CHECK(walked({action::fetch}).fault == fault_kind::none);

    put(upper_slot, below | 0x1e1);
    CHECK(walked().fault == fault_kind::not_present);
    CHECK(walked().level == 1);
    put(lower_slot, 0x1234'5032);
    CHECK(walked({action::write, true}).address == 0x1234'5a98);
    CHECK(walked().page_shift == 12);
    CHECK(walked().path[1].slot_address == lower_slot);
    put(lower_slot, 0x1234'5033);
    CHECK(walked({action::fetch}).fault == fault_kind::protection);
    put(lower_slot, 0x1234'0031);  // a run of 64 Kbytes: all of its entries have its address
    CHECK(walked().address == 0x1234'ba98);
    CHECK(walked().page_shift == 16);
    put(lower_slot, 0x1234'8231);
    CHECK(walked({action::write}).fault == fault_kind::protection);
    CHECK(walked({action::fetch}).fault == fault_kind::protection);

    CHECK(leaf_model::wrong_translations_both_ways(short_format<short_features{}>) == 0);
    CHECK_FALSE(present(0x4'0000, short_format<short_features{}>));
    CHECK(check_absent(0xffff'fffc, short_format<short_features{}>) == absent_error::none);
    std::uint32_t slot = 0x1234'5032;
    CHECK(unmap(slot, short_format<short_features{}>, 0x4'0000) == 0x1234'5032);
    CHECK(slot == 0x4'0000);
}
