// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/ept.hpp>

#include "manual.hpp"

using namespace ptebits;
using manual::drawn;
using manual::expected;
using manual::letter;
using manual::part;
using manual::setting;

namespace {

constexpr letter<ept_fields> letters[] = {
    {'R', role::read, &ept_fields::read},
    {'W', role::write, &ept_fields::write},
    {'X', role::execute, &ept_fields::execute},
    {'U', role::user_execute, &ept_fields::user_execute},
    {'M', role::memory_type, &ept_fields::memory_type},
    {'I', role::memory_type, &ept_fields::ignore_pat},
    {'S', role::fixed, &ept_fields::page_size, leaves},
    {'A', role::accessed},
    {'D', role::dirty},
    {'a', role::address},
    {'V', role::attribute, &ept_fields::verify_guest_paging},
    {'P', role::attribute, &ept_fields::paging_write},
    {'H', role::attribute, &ept_fields::supervisor_shadow_stack},
    {'B', role::attribute, &ept_fields::sub_page_write},
    {'E', role::attribute, &ept_fields::suppress_ve},
    {'k', role::attribute, &ept_fields::key_id},
    {'.', role::software},
    {'0', role::reserved},
    {'-', role::fixed},                     // clear in absent entries
    {'1', role::written, nullptr, absent},  // and set in them
};
static_assert(manual::names_all(letters));

// Intel SDM volume 3, "VMX Support for Address Translation", the tables "Format of an EPT ...
// Entry". Drawn for 52 address bits, with accessed and dirty bits, no other feature beyond large pages.
// clang-format off
constexpr drawn four_levels[] = {
    {"4",   kind::table, ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...A 0000 0XWR"},
    {"23",  kind::table, ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...A S000 0XWR"},
    {"3",   kind::leaf,  ".... .... .... aaaa aaaa aaaa aaaa aaaa aa00 0000 0000 0000 0000 ..DA SIMM MXWR"},
    {"2",   kind::leaf,  ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 0000 ..DA SIMM MXWR"},
    {"1",   kind::leaf,  ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ..DA .IMM MXWR"},
};

// The same with every feature in use.
constexpr drawn everything[] = {
    {"45",  kind::table, ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .U.A 0000 0XWR"},
    {"23",  kind::table, ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .U.A S000 0XWR"},
    {"3",   kind::leaf,  "E..H .PV. .... aaaa aaaa aaaa aaaa aaaa aa00 0000 0000 0000 0000 .UDA SIMM MXWR"},
    {"2",   kind::leaf,  "E..H .PV. .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 0000 .UDA SIMM MXWR"},
    {"1",   kind::leaf,  "E.BH .PV. .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .UDA .IMM MXWR"},
};

constexpr setting<ept_features, 5> settings[] = {
    {"defaults", {}, four_levels},
    {"execute-only changes no bit's role", {.execute_only = false}, four_levels},
    {"five levels", {.levels = 5}, four_levels, {
    {"45",  kind::table, ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...A 0000 0XWR"}}},
    {"EPTP[6] off", {.accessed_dirty = false}, four_levels, {
    {"4",   kind::table, ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... 0000 0XWR"},
    {"23",  kind::table, ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... S000 0XWR"},
    {"3",   kind::leaf,  ".... .... .... aaaa aaaa aaaa aaaa aaaa aa00 0000 0000 0000 0000 .... SIMM MXWR"},
    {"2",   kind::leaf,  ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 0000 .... SIMM MXWR"},
    {"1",   kind::leaf,  ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... .IMM MXWR"}}},
    {"software accessed bit 8, EPTP[6] off", {.accessed_dirty = false, .software_accessed = 8}, four_levels, {
    {"4",   kind::table, ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... 0000 0XWR"},
    {"23",  kind::table, ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... S000 0XWR"},
    {"3",   kind::leaf,  ".... .... .... aaaa aaaa aaaa aaaa aaaa aa00 0000 0000 0000 0000 ...A SIMM MXWR"},
    {"2",   kind::leaf,  ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 0000 ...A SIMM MXWR"},
    {"1",   kind::leaf,  ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...A .IMM MXWR"}}},
    {"software accessed bit 63, EPTP[6] off", {.accessed_dirty = false, .software_accessed = 63}, four_levels, {
    {"4",   kind::table, ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... 0000 0XWR"},
    {"23",  kind::table, ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... S000 0XWR"},
    {"3",   kind::leaf,  "A... .... .... aaaa aaaa aaaa aaaa aaaa aa00 0000 0000 0000 0000 .... SIMM MXWR"},
    {"2",   kind::leaf,  "A... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 0000 .... SIMM MXWR"},
    {"1",   kind::leaf,  "A... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... .IMM MXWR"}}},
    {"no 2-Mbyte pages: bit 7 reserved at level 2", {.large_pages = false}, four_levels, {
    {"2",   kind::table, ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...A 0000 0XWR"},
    {"2",   kind::leaf,  ""}}},
    {"no 1-Gbyte pages: bit 7 reserved at level 3", {.gigabyte_pages = false}, four_levels, {
    {"3",   kind::table, ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...A 0000 0XWR"},
    {"3",   kind::leaf,  ""}}},
    {"mode-based execute", {.mode_based_execute = true}, four_levels, {
    {"4",   kind::table, ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .U.A 0000 0XWR"},
    {"23",  kind::table, ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .U.A S000 0XWR"},
    {"3",   kind::leaf,  ".... .... .... aaaa aaaa aaaa aaaa aaaa aa00 0000 0000 0000 0000 .UDA SIMM MXWR"},
    {"2",   kind::leaf,  ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 0000 .UDA SIMM MXWR"},
    {"1",   kind::leaf,  ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .UDA .IMM MXWR"}}},
    {"guest-paging verification", {.verify_guest_paging = true}, four_levels, {
    {"3",   kind::leaf,  ".... ..V. .... aaaa aaaa aaaa aaaa aaaa aa00 0000 0000 0000 0000 ..DA SIMM MXWR"},
    {"2",   kind::leaf,  ".... ..V. .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 0000 ..DA SIMM MXWR"},
    {"1",   kind::leaf,  ".... ..V. .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ..DA .IMM MXWR"}}},
    {"EPT paging-write", {.paging_write = true}, four_levels, {
    {"3",   kind::leaf,  ".... .P.. .... aaaa aaaa aaaa aaaa aaaa aa00 0000 0000 0000 0000 ..DA SIMM MXWR"},
    {"2",   kind::leaf,  ".... .P.. .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 0000 ..DA SIMM MXWR"},
    {"1",   kind::leaf,  ".... .P.. .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ..DA .IMM MXWR"}}},
    {"supervisor shadow stack", {.supervisor_shadow_stack = true}, four_levels, {
    {"3",   kind::leaf,  "...H .... .... aaaa aaaa aaaa aaaa aaaa aa00 0000 0000 0000 0000 ..DA SIMM MXWR"},
    {"2",   kind::leaf,  "...H .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 0000 ..DA SIMM MXWR"},
    {"1",   kind::leaf,  "...H .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ..DA .IMM MXWR"}}},
    {"sub-page write permissions, of 4-Kbyte pages only", {.sub_page_write = true}, four_levels, {
    {"1",   kind::leaf,  "..B. .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ..DA .IMM MXWR"}}},
    {"EPT-violation #VE", {.suppress_ve = true}, four_levels, {
    {"3",   kind::leaf,  "E... .... .... aaaa aaaa aaaa aaaa aaaa aa00 0000 0000 0000 0000 ..DA SIMM MXWR"},
    {"2",   kind::leaf,  "E... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 0000 ..DA SIMM MXWR"},
    {"1",   kind::leaf,  "E... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ..DA .IMM MXWR"},
    {"",    kind::none,  "1... .... .... .... .... .... .... .... .... .... .... .... .... .... .... .---"}}},
    {"L1TF: absent entries have an address", {.memory_bits = 36}, four_levels, {
    {"",    kind::none,  ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... .... .---"}}},
    {"L1TF, mode-based execute, EPT-violation #VE", {.mode_based_execute = true, .suppress_ve = true,
                                                     .memory_bits = 51}, four_levels, {
    {"4",   kind::table, ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .U.A 0000 0XWR"},
    {"23",  kind::table, ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .U.A S000 0XWR"},
    {"3",   kind::leaf,  "E... .... .... aaaa aaaa aaaa aaaa aaaa aa00 0000 0000 0000 0000 .UDA SIMM MXWR"},
    {"2",   kind::leaf,  "E... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 0000 .UDA SIMM MXWR"},
    {"1",   kind::leaf,  "E... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .UDA .IMM MXWR"},
    {"",    kind::none,  "1... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .-.. .... .---"}}},
    {"key identifier in bits 45:42, reserved above", {.physical_bits = 46, .key_id_bits = {45, 42}}, four_levels, {
    {"4",   kind::table, ".... .... .... 0000 00kk kkaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...A 0000 0XWR"},
    {"23",  kind::table, ".... .... .... 0000 00kk kkaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...A S000 0XWR"},
    {"3",   kind::leaf,  ".... .... .... 0000 00kk kkaa aaaa aaaa aa00 0000 0000 0000 0000 ..DA SIMM MXWR"},
    {"2",   kind::leaf,  ".... .... .... 0000 00kk kkaa aaaa aaaa aaaa aaaa aaa0 0000 0000 ..DA SIMM MXWR"},
    {"1",   kind::leaf,  ".... .... .... 0000 00kk kkaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ..DA .IMM MXWR"}}},
    {"key identifier in bits 50:46, bit 51 is TDX's", {.key_id_bits = {50, 46}}, four_levels, {
    {"4",   kind::table, ".... .... .... 0kkk kkaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...A 0000 0XWR"},
    {"23",  kind::table, ".... .... .... 0kkk kkaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...A S000 0XWR"},
    {"3",   kind::leaf,  ".... .... .... 0kkk kkaa aaaa aaaa aaaa aa00 0000 0000 0000 0000 ..DA SIMM MXWR"},
    {"2",   kind::leaf,  ".... .... .... 0kkk kkaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 0000 ..DA SIMM MXWR"},
    {"1",   kind::leaf,  ".... .... .... 0kkk kkaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ..DA .IMM MXWR"}}},
    {"36 address bits", {.physical_bits = 36}, four_levels, {
    {"4",   kind::table, ".... .... .... 0000 0000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa ...A 0000 0XWR"},
    {"23",  kind::table, ".... .... .... 0000 0000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa ...A S000 0XWR"},
    {"3",   kind::leaf,  ".... .... .... 0000 0000 0000 0000 aaaa aa00 0000 0000 0000 0000 ..DA SIMM MXWR"},
    {"2",   kind::leaf,  ".... .... .... 0000 0000 0000 0000 aaaa aaaa aaaa aaa0 0000 0000 ..DA SIMM MXWR"},
    {"1",   kind::leaf,  ".... .... .... 0000 0000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa ..DA .IMM MXWR"}}},
    {"all features", {.levels = 5, .mode_based_execute = true, .verify_guest_paging = true, .paging_write = true,
                      .supervisor_shadow_stack = true, .sub_page_write = true, .suppress_ve = true}, everything, {
    {"",    kind::none,  "1... .... .... .... .... .... .... .... .... .... .... .... .... .-.. .... .---"}}},
    {"no features", {.accessed_dirty = false, .execute_only = false, .large_pages = false, .gigabyte_pages = false},
                    four_levels, {
    {"234", kind::table, ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... 0000 0XWR"},
    {"23",  kind::leaf,  ""},
    {"1",   kind::leaf,  ".... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... .IMM MXWR"}}},
};
// clang-format on

static_assert(entry_format<std::remove_const_t<decltype(ept<ept_features{}>)>>);
static_assert(entry_format<runtime_format<ept_description>>);
static_assert(well_formed(ept<ept_features{}>) && well_formed(ept<ept_features{.accessed_dirty = false}>));
static_assert(well_formed(ept<ept_features{.accessed_dirty = false, .software_accessed = 63}>));

constexpr const letter<ept_fields>* letter_of(char sign)
{
    for (const auto& l : letters) {
        if (l.sign == sign) return &l;
    }
    return nullptr;
}

// A letter's role where features are off.
role role_of(char sign, unsigned level, const ept_features& f)
{
    switch (sign) {
    case 'A':
        return f.accessed_dirty ? role::accessed : role::software;
    case 'D':
        return f.accessed_dirty ? role::dirty : role::software;
    case 'U':
        return f.mode_based_execute ? role::user_execute : role::software;
    case 'V':
        return f.verify_guest_paging ? role::attribute : role::software;
    case 'P':
        return f.paging_write ? role::attribute : role::software;
    case 'H':
        return f.supervisor_shadow_stack ? role::attribute : role::software;
    case 'B':
        return f.sub_page_write ? role::attribute : role::software;
    case 'E':
        return f.suppress_ve ? role::attribute : role::software;
    case 'S':
        return (level == 2 ? f.large_pages : f.gigabyte_pages) ? role::fixed : role::reserved;
    default:
        break;
    }
    const letter<ept_fields>* const found = letter_of(sign);
    REQUIRE(found != nullptr);
    return found->is;
}

// EPT entries under any features without a defect.
class ept_manual {
public:
    ept_manual()
    {
        for (const drawn& d : everything) {
            for (const char level : d.levels) {
                entries_[level - '0'][static_cast<unsigned>(d.in)] = manual::parts_of(d.drawing);
            }
        }
    }

    [[nodiscard]] expected entry(unsigned level, kind k, const ept_features& f) const
    {
        if (k == kind::none) {
            expected e = manual::absent_entry(64, f.mode_based_execute ? 0x407 : 0x7);
            if (f.suppress_ve) {
                e.value = 0x8000'0000'0000'0000;
                e.move(e.value, role::written);
            }
            if (f.memory_bits != 0) {
                e.address = ones(address_end(f) - 1, 12);
                e.move(e.address, role::address);
            }
            return e;
        }
        const bool too_large = k == kind::leaf && ((level == 2 && !f.large_pages) || (level == 3 && !f.gigabyte_pages));
        if (level < 1 || level > f.levels || too_large) return manual::no_entry(64);
        const std::vector<part>& parts = entries_[level][static_cast<unsigned>(k)];
        if (parts.empty()) return manual::no_entry(64);
        expected e{.exists = true};
        for (const part& p : parts) {
            const std::uint64_t above = p.sign == 'a' ? p.bits & ~std::uint64_t{0} << address_end(f) : 0;
            e.add(*letter_of(p.sign), role_of(p.sign, level, f), p.bits & ~above, entries(level, k));
            e.add(role::reserved, above);
        }
        if (f.key_id_bits.given) e.move(ones(f.key_id_bits.high, f.key_id_bits.low), role::attribute);
        if (k == kind::leaf && f.software_accessed.given) e.move(f.software_accessed.bits().mask(), role::accessed);
        return e;
    }

    /// The address ends at the physical width, or at the key identifier in its highest bits.
    [[nodiscard]] static unsigned address_end(const ept_features& f)
    {
        return f.key_id_bits.given ? std::min(f.physical_bits, f.key_id_bits.low) : f.physical_bits;
    }

    [[nodiscard]] manual::defects wrong(const ept_features& f) const
    {
        manual::defects all;
        all.add_if(f.physical_bits < 32 || f.physical_bits > 52, defect::physical_bits);
        all.add_if(f.levels != 4 && f.levels != 5, defect::levels);
        const optional_bits k = f.key_id_bits;
        all.add_if(k.given && (k.low < 32 || k.high > 51 || k.low > k.high), defect::encryption_bit);
        all.add_if(k.given && k.high >= f.physical_bits, defect::encryption_bit);
        all.add_if(f.memory_bits >= f.physical_bits || (f.memory_bits != 0 && f.memory_bits >= address_end(f)),
                   defect::memory_bits);
        if (f.software_accessed.given) {
            all.add_if(f.accessed_dirty, defect::two_accessed_bits);
            all.add_if(!ignored_in_leaves(f.software_accessed.low, f), defect::software_bit_in_use);
        }
        return all;
    }

    [[nodiscard]] std::string compare(const ept_features& f) const
    {
        const auto format = format_for(f);
        const manual::defects bad = wrong(f);
        if (bad.empty() != (format->wrong().what == defect::none)) return "wrong() is not what it should be";
        if (find_flaw(format).what != format->wrong().what) return "find_flaw() and wrong() differ";
        if (!bad.empty()) {
            if (!bad.contains(format->wrong().what)) return "wrong() names another defect";
            return manual::inert(format, 64) ? "" : "a format with a defect still describes entries";
        }
        for (unsigned level = 0; level <= 7; ++level) {
            for (const kind k : manual::all_kinds) {
                std::string found = manual::difference(format, level, k, entry(level, k, f));
                if (!found.empty()) return found;
            }
        }
        return {};
    }

private:
    // From the list of ignored bits in the three tables of leaves, not from the drawings above.
    [[nodiscard]] static bool ignored_in_leaves(unsigned index, const ept_features& f)
    {
        switch (index) {
        case 7:  // set in large leaves, ignored in a 4-Kbyte leaf
            return !f.large_pages && !f.gigabyte_pages;
        case 8:
        case 9:
            return !f.accessed_dirty;
        case 10:
            return !f.mode_based_execute;
        case 57:
            return !f.verify_guest_paging;
        case 58:
            return !f.paging_write;
        case 60:
            return !f.supervisor_shadow_stack;
        case 61:
            return !f.sub_page_write;
        case 63:
            return !f.suppress_ve;
        case 11:
        case 59:
        case 62:
            return true;
        default:
            return index >= 52 && index <= 56;
        }
    }

    std::vector<part> entries_[6][kind_count];
};

}  // namespace

TEST_CASE("EPT entries are as the manual draws them, as a constant and at run time")
{
    manual::check_settings<settings>(letters);
}

// Intel SDM volume 3, "VMX Support for Address Translation": bits 51:M are reserved, for M = MAXPHYADDR,
// and large leaves reserve address bits from 12 up.
TEST_CASE("address and reserved masks for the widths of real CPUs")
{
    struct masks_at {
        unsigned physical_bits;
        std::uint64_t page, large, huge;                 // address masks of leaves, level 1, 2, 3
        std::uint64_t page_rest, large_rest, huge_rest;  // their reserved masks
        std::uint64_t table_rest, top_rest;              // reserved masks of tables, level 2 and 3, 4
    };
    // clang-format off
    constexpr masks_at all[] = {
        {32, 0x0000'0000'ffff'f000, 0x0000'0000'ffe0'0000, 0x0000'0000'c000'0000,
             0x000f'ffff'0000'0000, 0x000f'ffff'001f'f000, 0x000f'ffff'3fff'f000,
             0x000f'ffff'0000'0078, 0x000f'ffff'0000'00f8},
        {36, 0x0000'000f'ffff'f000, 0x0000'000f'ffe0'0000, 0x0000'000f'c000'0000,
             0x000f'fff0'0000'0000, 0x000f'fff0'001f'f000, 0x000f'fff0'3fff'f000,
             0x000f'fff0'0000'0078, 0x000f'fff0'0000'00f8},
        {39, 0x0000'007f'ffff'f000, 0x0000'007f'ffe0'0000, 0x0000'007f'c000'0000,
             0x000f'ff80'0000'0000, 0x000f'ff80'001f'f000, 0x000f'ff80'3fff'f000,
             0x000f'ff80'0000'0078, 0x000f'ff80'0000'00f8},
        {40, 0x0000'00ff'ffff'f000, 0x0000'00ff'ffe0'0000, 0x0000'00ff'c000'0000,
             0x000f'ff00'0000'0000, 0x000f'ff00'001f'f000, 0x000f'ff00'3fff'f000,
             0x000f'ff00'0000'0078, 0x000f'ff00'0000'00f8},
        {46, 0x0000'3fff'ffff'f000, 0x0000'3fff'ffe0'0000, 0x0000'3fff'c000'0000,
             0x000f'c000'0000'0000, 0x000f'c000'001f'f000, 0x000f'c000'3fff'f000,
             0x000f'c000'0000'0078, 0x000f'c000'0000'00f8},
        {48, 0x0000'ffff'ffff'f000, 0x0000'ffff'ffe0'0000, 0x0000'ffff'c000'0000,
             0x000f'0000'0000'0000, 0x000f'0000'001f'f000, 0x000f'0000'3fff'f000,
             0x000f'0000'0000'0078, 0x000f'0000'0000'00f8},
        {52, 0x000f'ffff'ffff'f000, 0x000f'ffff'ffe0'0000, 0x000f'ffff'c000'0000,
             0x0000'0000'0000'0000, 0x0000'0000'001f'f000, 0x0000'0000'3fff'f000,
             0x0000'0000'0000'0078, 0x0000'0000'0000'00f8},
    };
    // clang-format on
    for (const masks_at& m : all) {
        CAPTURE(m.physical_bits);
        const auto f = format_for(ept_features{.physical_bits = m.physical_bits});
        CHECK(f->address_mask(1, kind::leaf) == m.page);
        CHECK(f->address_mask(2, kind::leaf) == m.large);
        CHECK(f->address_mask(3, kind::leaf) == m.huge);
        CHECK(f->reserved_mask(1, kind::leaf) == m.page_rest);
        CHECK(f->reserved_mask(2, kind::leaf) == m.large_rest);
        CHECK(f->reserved_mask(3, kind::leaf) == m.huge_rest);
        CHECK(f->reserved_mask(2, kind::table) == m.table_rest);
        CHECK(f->reserved_mask(3, kind::table) == m.table_rest);
        CHECK(f->reserved_mask(4, kind::table) == m.top_rest);
        for (unsigned level = 2; level <= 4; ++level) CHECK(f->address_mask(level, kind::table) == m.page);
    }
}

TEST_CASE("masks of the named fields, present and ignored bits")
{
    constexpr auto all = ept<ept_features{.mode_based_execute = true,
                                          .verify_guest_paging = true,
                                          .paging_write = true,
                                          .supervisor_shadow_stack = true,
                                          .sub_page_write = true,
                                          .suppress_ve = true}>;
    CHECK(all->read.mask() == 0x0000'0000'0000'0001);
    CHECK(all->write.mask() == 0x0000'0000'0000'0002);
    CHECK(all->execute.mask() == 0x0000'0000'0000'0004);
    CHECK(all->memory_type.mask() == 0x0000'0000'0000'0038);
    CHECK(all->ignore_pat.mask() == 0x0000'0000'0000'0040);
    CHECK(all->page_size.mask() == 0x0000'0000'0000'0080);
    CHECK(all->accessed.mask() == 0x0000'0000'0000'0100);
    CHECK(all->dirty.mask() == 0x0000'0000'0000'0200);
    CHECK(all->user_execute.mask() == 0x0000'0000'0000'0400);
    CHECK(all->verify_guest_paging.mask() == 0x0200'0000'0000'0000);
    CHECK(all->paging_write.mask() == 0x0400'0000'0000'0000);
    CHECK(all->supervisor_shadow_stack.mask() == 0x1000'0000'0000'0000);
    CHECK(all->sub_page_write.mask() == 0x2000'0000'0000'0000);
    CHECK(all->suppress_ve.mask() == 0x8000'0000'0000'0000);
    CHECK(ept<ept_features{.key_id_bits = {51, 46}}>->key_id.mask() == 0x000f'c000'0000'0000);
    CHECK(all->present_mask() == 0x407);
    CHECK(all->software_mask(1, kind::leaf) == 0x49f0'0000'0000'0880);
    CHECK(all->software_mask(2, kind::leaf) == 0x69f0'0000'0000'0800);
    CHECK(all->software_mask(3, kind::leaf) == 0x69f0'0000'0000'0800);
    CHECK(all->software_mask(4, kind::table) == 0xfff0'0000'0000'0a00);

    constexpr auto plain = ept<ept_features{}>;
    CHECK(plain->present_mask() == 0x7);
    CHECK(plain->software_mask(1, kind::leaf) == 0xfff0'0000'0000'0c80);
    CHECK(plain->software_mask(2, kind::leaf) == 0xfff0'0000'0000'0c00);
    CHECK(plain->software_mask(3, kind::leaf) == 0xfff0'0000'0000'0c00);
    CHECK(plain->software_mask(2, kind::table) == 0xfff0'0000'0000'0e00);
    CHECK(plain->software_mask(3, kind::table) == 0xfff0'0000'0000'0e00);
    CHECK(plain->software_mask(4, kind::table) == 0xfff0'0000'0000'0e00);

    constexpr auto bare = ept<ept_features{.accessed_dirty = false}>;
    for (const field f :
         {bare->accessed, bare->dirty, bare->user_execute, bare->verify_guest_paging, bare->paging_write,
          bare->supervisor_shadow_stack, bare->sub_page_write, bare->suppress_ve, bare->key_id}) {
        CHECK_FALSE(f.exists());
    }
}

TEST_CASE("shape of the tables")
{
    for (const unsigned levels : {4U, 5U}) {
        const auto format = format_for(ept_features{.levels = levels});
        const shape& t = format->shape();
        CHECK(t.levels == levels);
        CHECK(t.entry_bits == 64);
        CHECK(t.page_shift(1) == 12);
        CHECK(t.page_shift(2) == 21);
        CHECK(t.page_shift(3) == 30);
        CHECK(t.index_bits_at(1) == 9);
        CHECK(t.index_bits_at(levels) == 9);
        CHECK(t.address_bits() == (levels == 4 ? 48 : 57));
        CHECK(t.above == extension::zeros);
    }
}

TEST_CASE("all combinations of features, with each place of a software accessed bit")
{
    const ept_manual manual;
    constexpr unsigned widths[] = {32, 36, 39, 40, 46, 48, 52};
    unsigned turn = 0;  // each combination at one width, in turn
    for (unsigned levels = 4; levels <= 5; ++levels) {
        for (unsigned on = 0; on < 1024; ++on) {
            for (unsigned a = 0; a <= 65; ++a) {  // 65: none
                const ept_features f{.levels = levels,
                                     .physical_bits = widths[turn++ % std::size(widths)],
                                     .accessed_dirty = (on & 1) != 0,
                                     .execute_only = (on & 2) != 0,
                                     .large_pages = (on & 4) != 0,
                                     .gigabyte_pages = (on & 8) != 0,
                                     .mode_based_execute = (on & 16) != 0,
                                     .verify_guest_paging = (on & 32) != 0,
                                     .paging_write = (on & 64) != 0,
                                     .supervisor_shadow_stack = (on & 128) != 0,
                                     .sub_page_write = (on & 256) != 0,
                                     .suppress_ve = (on & 512) != 0,
                                     .software_accessed = a < 65 ? optional_bits(a) : optional_bits(),
                                     .memory_bits = on % 3 == 0 ? 31U : 0U};
                CAPTURE(levels);
                CAPTURE(f.physical_bits);
                CAPTURE(on);
                CAPTURE(a);
                REQUIRE(manual.compare(f) == "");
            }
        }
    }
}

TEST_CASE("the accessed bit is the hardware's, software's, or none")
{
    for (unsigned index = 0; index < 64; ++index) {
        const auto f = format_for(ept_features{.accessed_dirty = false, .software_accessed = index});
        if (f->wrong().what != defect::none) continue;
        CAPTURE(index);
        CHECK(f->accessed.mask() == std::uint64_t{1} << index);
        CHECK(f->accessed.shift() == index);
        CHECK_FALSE(f->dirty.exists());
    }
    CHECK(ept<ept_features{}>->accessed_by() == accessed_setter::hardware);
    CHECK(ept<ept_features{.accessed_dirty = false}>->accessed_by() == accessed_setter::nobody);
    CHECK(ept<ept_features{.accessed_dirty = false, .software_accessed = 8}>->accessed_by() == accessed_setter::nobody);
    CHECK(format_for(ept_features{})->accessed.shift() == 8);
    CHECK(format_for(ept_features{})->dirty.shift() == 9);
    CHECK_FALSE(format_for(ept_features{.accessed_dirty = false})->accessed.exists());
}

TEST_CASE("levels and widths that no CPU has are named as the defect")
{
    const ept_manual manual;
    for (const unsigned levels : {0U, 1U, 2U, 3U, 4U, 5U, 6U, 7U, 64U, ~0U}) {
        for (const unsigned physical_bits : {0U, 1U, 12U, 31U, 32U, 33U, 51U, 52U, 53U, 63U, 64U, 65U, ~0U}) {
            for (const optional_bits a : {optional_bits(), optional_bits(62), optional_bits(3), optional_bits(~0U)}) {
                for (unsigned n = 0; n < 8; ++n) {
                    constexpr unsigned ends[] = {0, 31, 52, ~0U};
                    CAPTURE(levels);
                    CAPTURE(physical_bits);
                    CAPTURE(n);
                    CHECK(manual.compare({.levels = levels,
                                          .physical_bits = physical_bits,
                                          .accessed_dirty = n % 2 != 0,
                                          .software_accessed = a,
                                          .memory_bits = ends[n / 2]}) == "");
                }
            }
        }
    }
}

TEST_CASE("execution in user mode is apart with mode-based execute")
{
    CHECK_FALSE(ept<ept_features{}>->modes_apart());
    CHECK(ept<ept_features{.mode_based_execute = true}>->modes_apart());
}
