// SPDX-License-Identifier: BSL-1.0
#include <ptebits/format.hpp>

#include <ptebits/formats/ept.hpp>
#include <ptebits/masks.hpp>

#include "manual.hpp"

using namespace ptebits;

namespace {

// A format written without the library's rows. Its layouts are open, so that a test can spoil them.
struct hand_made {
    using description = void;

    field accessed = bit(5);
    field dirty;
    layout pages[max_levels + 1][kind_count];

    [[nodiscard]] const hand_made* operator->() const { return this; }

    hand_made()
    {
        for (auto& level : pages) {
            for (layout& l : level) l = no_layout(64);
        }
        for (layout* l : {&at(1, kind::leaf), &at(2, kind::table)}) {
            *l = {};
            l->all = ~std::uint64_t{0};
            l->mask(role::fixed) = 1;
            l->value = 1;
            l->mask(role::accessed) = 1 << 5;
            l->mask(role::software) = ones(11, 1) & ~std::uint64_t{1 << 5};
            l->mask(role::address) = ones(51, 12);
            l->mask(role::reserved) = ones(63, 52);
        }
    }

    [[nodiscard]] layout& at(unsigned level, kind k) { return pages[level][static_cast<unsigned>(k)]; }

    [[nodiscard]] std::uint64_t present_mask() const { return 1; }
    [[nodiscard]] std::uint64_t empty() const { return 0; }
    [[nodiscard]] flaw wrong() const { return {}; }
    [[nodiscard]] const layout& layout_at(unsigned level, kind k) const
    {
        return pages[level <= max_levels ? level : 0][static_cast<unsigned>(k)];
    }
    [[nodiscard]] kind kind_of(std::uint64_t entry, unsigned level) const
    {
        return (entry & 1) == 0 ? kind::none : level == 1 ? kind::leaf : kind::table;
    }
    [[nodiscard]] bool exists(unsigned level, kind k) const { return (leaf_at(1) | table_at(2)).contains(level, k); }
};
static_assert(entry_format<hand_made>);
static_assert(!constant_masks<hand_made>);
static_assert(constant_masks<std::remove_const_t<decltype(ept<ept_features{}>)>>);
static_assert(std::is_empty_v<decltype(ept<ept_features{}>)>);
static_assert(!constant_masks<runtime_format<ept_description>>);
static_assert(!entry_format<masks> && entry_masks<masks>);

template <class Format>
void check_available(const Format& format, std::uint64_t free)
{
    for (unsigned index = 0; index < 64; ++index) {
        CAPTURE(index);
        const std::uint64_t one = std::uint64_t{1} << index;
        CHECK(available(format, one) == ((free & one) != 0));
        CHECK(available(format, one | free) == ((free & one) != 0));
    }
    CHECK(available(format, free));
    CHECK(available(format, 0));
    CHECK_FALSE(available(format, ~std::uint64_t{0}));
}

}  // namespace

// The ignored bits that all entries of the format have in common, from the tables in the manuals.
TEST_CASE("available: each bit, under each feature that takes it")
{
    check_available(format_for(ept_features{}), 0xfff0'0000'0000'0c00);
    check_available(format_for(ept_features{.levels = 5}), 0xfff0'0000'0000'0c00);
    check_available(format_for(ept_features{.accessed_dirty = false}), 0xfff0'0000'0000'0f00);
    check_available(format_for(ept_features{.mode_based_execute = true}), 0xfff0'0000'0000'0800);
    check_available(format_for(ept_features{.verify_guest_paging = true}), 0xfdf0'0000'0000'0c00);
    check_available(format_for(ept_features{.paging_write = true}), 0xfbf0'0000'0000'0c00);
    check_available(format_for(ept_features{.supervisor_shadow_stack = true}), 0xeff0'0000'0000'0c00);
    check_available(format_for(ept_features{.sub_page_write = true}), 0xdff0'0000'0000'0c00);
    check_available(format_for(ept_features{.suppress_ve = true}), 0x7ff0'0000'0000'0c00);
    check_available(format_for(ept_features{.large_pages = false, .gigabyte_pages = false}), 0xfff0'0000'0000'0c00);
    check_available(format_for(ept_features{.accessed_dirty = false, .software_accessed = 63}), 0x7ff0'0000'0000'0f00);
    check_available(format_for(ept_features{.accessed_dirty = false, .software_accessed = 8}), 0xfff0'0000'0000'0e00);

    check_available(format_for(shadow_features{}), 0x7ff0'0000'0000'0e00);
    check_available(format_for(shadow_features{.execute_disable = false}), 0x7ff0'0000'0000'0e00);
    check_available(format_for(shadow_features{.user_keys = true}), 0x07f0'0000'0000'0e00);
    check_available(format_for(shadow_features{.hlat = true}), 0x7ff0'0000'0000'0600);
    check_available(format_for(shadow_features{.global_pages = false}), 0x7ff0'0000'0000'0f00);
    check_available(format_for(shadow_features{.global_pages = false, .reserved_bit_8 = true}), 0x7ff0'0000'0000'0e00);
    check_available(format_for(shadow_features{.levels = 3}), 0x0000'0000'0000'0e00);
    check_available(format_for(shadow_features{.levels = 3, .global_pages = false}), 0x0000'0000'0000'0e00);
    check_available(format_for(shadow_features{.levels = 2}), 0x0000'0000'0000'0e00);
    check_available(format_for(shadow_features{.levels = 2, .global_pages = false}), 0x0000'0000'0000'0f00);

    check_available(format_for(npt_features{}), 0x7ff0'0000'0000'0e00);
    check_available(format_for(npt_features{.reserved_bit_8 = false}), 0x7ff0'0000'0000'0f00);
    check_available(format_for(npt_features{.encryption_bit = 51}), 0x7ff0'0000'0000'0e00);
    check_available(npt<npt_features{}>, 0x7ff0'0000'0000'0e00);
    static_assert(available(npt<npt_features{}>, 0x600) && !available(npt<npt_features{}>, 0x700));
}

TEST_CASE("find_flaw finds a bit with two roles or none, in a format made by hand")
{
    CHECK(find_flaw(hand_made{}).what == defect::none);
    CHECK(available(hand_made{}, 0x2));

    for (unsigned index = 0; index < 64; ++index) {
        CAPTURE(index);
        const std::uint64_t one = std::uint64_t{1} << index;

        hand_made twice;
        for (unsigned r = 0; r < role_count; ++r) {
            layout& l = twice.at(2, kind::table);
            if ((l.masks[r] & one) != 0) continue;
            l.masks[r] |= one;
            const flaw f = find_flaw(twice);
            CHECK(f.what == defect::rows_overlap);
            CHECK(f.level == 2);
            CHECK(f.in == kind::table);
            CHECK(f.bits == one);
            l.masks[r] &= ~one;
        }

        hand_made without;
        for (std::uint64_t& mask : without.at(1, kind::leaf).masks) mask &= ~one;
        const flaw f = find_flaw(without);
        CHECK(f.what == defect::bit_without_role);
        CHECK(f.level == 1);
        CHECK(f.in == kind::leaf);
        CHECK(f.bits == one);
    }
}

TEST_CASE("find_flaw finds a bit that the entry does not have")
{
    hand_made narrow;
    for (auto& level : narrow.pages) {
        for (layout& l : level) {
            l.all = 0xffff'ffff;
            for (std::uint64_t& mask : l.masks) mask &= l.all;
        }
    }
    CHECK(find_flaw(narrow).what == defect::none);
    narrow.at(1, kind::leaf).mask(role::software) |= std::uint64_t{1} << 40;
    CHECK(find_flaw(narrow).what == defect::bit_without_role);
    CHECK(find_flaw(narrow).bits == std::uint64_t{1} << 40);
}

TEST_CASE("contradictory features: nothing is present, all bits are reserved, and wrong() says why")
{
    const auto check = [](const auto& features, defect what, unsigned entry_bits) {
        const auto f = format_for(features);
        CHECK(f->wrong().what == what);
        CHECK(find_flaw(f).what == what);
        CHECK_FALSE(well_formed(f));
        CHECK(manual::inert(f, entry_bits));
        CHECK(f->shape().levels == 0);
        CHECK_FALSE(present(~std::uint64_t{0}, f));
        CHECK(diagnose(1, 1, f).broken == rule::no_such_level);
        CHECK(encode(kind::leaf, 1, 0, {}, f).error == encode_error::no_such_entry);
        CHECK_FALSE(available(f, 0));
        CHECK(kind_of(~std::uint64_t{0}, 1, f) == kind::none);
        CHECK(address_of(~std::uint64_t{0}, 1, f) == 0);
        CHECK(permissions_of(~std::uint64_t{0}, 1, f) == no_permissions);
        CHECK(check_absent(0x1000, f) == absent_error::none);
    };
    check(ept_features{.levels = 6}, defect::levels, 64);
    check(ept_features{.levels = 3}, defect::levels, 64);
    check(ept_features{.physical_bits = 53}, defect::physical_bits, 64);
    check(ept_features{.software_accessed = 62}, defect::two_accessed_bits, 64);
    check(ept_features{.accessed_dirty = false, .suppress_ve = true, .software_accessed = 63},
          defect::software_bit_in_use, 64);
    check(ept_features{.accessed_dirty = false, .software_accessed = 64}, defect::software_bit_in_use, 64);
    check(shadow_features{.levels = 6}, defect::levels, 64);
    check(shadow_features{.levels = 1}, defect::levels, 64);
    check(shadow_features{.physical_bits = 31}, defect::physical_bits, 64);
    check(shadow_features{.levels = 3, .user_keys = true}, defect::contradiction, 64);
    check(shadow_features{.levels = 2, .hlat = true}, defect::contradiction, 32);
    check(shadow_features{.levels = 2, .encryption_bit = 31}, defect::encryption_bit, 32);
    check(shadow_features{.encryption_bit = 52}, defect::encryption_bit, 64);
    check(shadow_features{.encryption_bit = {48, 47}}, defect::flag_of_several_bits, 64);
    check(shadow_features{.physical_bits = 47, .shared_bit = 47}, defect::encryption_bit, 64);
    check(shadow_features{.encryption_bit = 47, .key_id_bits = {51, 48}}, defect::contradiction, 64);
    check(shadow_features{.large_pages = false}, defect::always_on, 64);
    check(npt_features{.levels = 3, .large_pages = false}, defect::always_on, 64);
    check(npt_features{.encryption_bit = 31}, defect::encryption_bit, 64);
    check(npt_features{.levels = 6}, defect::levels, 64);
    check(shadow_features{.encryption_bit = {40, 45}}, defect::encryption_bit, 64);
    check(shadow_features{.physical_bits = 40, .memory_bits = 40}, defect::memory_bits, 64);
    check(shadow_features{.levels = 2, .physical_bits = 40, .memory_bits = ~0U}, defect::memory_bits, 32);
    check(ept_features{.physical_bits = 36, .memory_bits = 37}, defect::memory_bits, 64);
    check(ept_features{.memory_bits = 64}, defect::memory_bits, 64);
    CHECK_FALSE(format_for(ept_features{.levels = 6})->read.exists());
    CHECK_FALSE(format_for(shadow_features{.encryption_bit = 52})->encryption.exists());
}

TEST_CASE("a format keeps the features it was made of")
{
    const auto f = format_for(shadow_features{.levels = 5, .physical_bits = 46, .encryption_bit = 45});
    CHECK(f->features().levels == 5);
    CHECK(f->features().physical_bits == 46);
    CHECK(f->features().encryption_bit == optional_bits(45));
    CHECK(ept<ept_features{.physical_bits = 39}>->features().physical_bits == 39);
}

TEST_CASE("formats are kept by their features: features compare, and a format may be none yet")
{
    runtime_format<ept_description> kept;
    CHECK(kept->wrong().what == defect::no_format);
    CHECK(kept->shape().levels == 0);
    CHECK(!present(~std::uint64_t{0}, kept));
    CHECK(kind_of(~std::uint64_t{0}, 1, kept) == kind::none);
    CHECK(encode(kind::leaf, 1, 0, {}, kept).error == encode_error::no_such_entry);
    unsigned made = 0;
    const auto format_of = [&](const ept_features& wanted) -> const runtime_format<ept_description>& {
        if (kept->wrong().what == defect::no_format || kept->features() != wanted) {
            kept = format_for(wanted);
            ++made;
        }
        return kept;
    };
    CHECK(format_of({})->dirty.exists());
    CHECK(format_of({})->dirty.exists());
    CHECK(!format_of({.accessed_dirty = false})->dirty.exists());
    CHECK(made == 2);

    CHECK(shadow_features{} == shadow_features{});
    CHECK(shadow_features{} != shadow_features{.encryption_bit = 47});
    CHECK(npt_features{} != npt_features{.guest_mode_execute_trap = true});
    CHECK(ept_features{} != ept_features{.memory_bits = 40});
}

TEST_CASE("address: every aligned address that fits, and none other")
{
    const auto f = format_for(ept_features{.physical_bits = 39});
    for (unsigned index = 12; index < 39; ++index) {
        CAPTURE(index);
        const std::uint64_t one = std::uint64_t{1} << index;
        CHECK(f->address(1, one) == one);
        CHECK(f->address(4, one, kind::table) == one);
        if (index >= 21) CHECK(f->address(2, one) == one);
        if (index >= 30) CHECK(f->address(3, one) == one);
    }
    static constexpr auto constant = ept<ept_features{.physical_bits = 39}>;
    using manual::constant_expression;
    CHECK(constant_expression<[] { return constant->address(1, 0x12'3456'7000); }>);
    CHECK_FALSE(constant_expression<[] { return constant->address(1, 0x12'3456'7800); }>);
    CHECK(constant_expression<[] { return constant->address(1, 0x40'0000'0000); }>);
    CHECK_FALSE(constant_expression<[] { return constant->address(1, 0x80'0000'0000); }>);
    CHECK(constant_expression<[] { return constant->address(2, 0x20'0000); }>);
    CHECK_FALSE(constant_expression<[] { return constant->address(2, 0x10'0000); }>);
    CHECK(constant_expression<[] { return constant->address(2, 0x1000, kind::table); }>);
    CHECK(constant_expression<[] { return constant->address(3, 0x4000'0000); }>);
    CHECK_FALSE(constant_expression<[] { return constant->address(3, 0x2000'0000); }>);
    CHECK_FALSE(constant_expression<[] { return constant->address(4, 0x1000); }>);  // no leaves at level 4

    // PSE-36: address bits 39:32 stand in bits 20:13.
    static constexpr auto pse36 = shadow<shadow_features{.levels = 2, .physical_bits = 40}>;
    CHECK(pse36->address(2, 0xab'ffc0'0000) == 0xffd5'6000);
    CHECK_FALSE(constant_expression<[] { return pse36->address(2, 0x100'0000'0000); }>);
    CHECK_FALSE(constant_expression<[] { return pse36->address(1, 0x1'0000'0000); }>);
}

// A named field of another entry does not fit: bit 12 of a 4-Kbyte leaf is an address bit, of a large one PAT.
TEST_CASE("address | fields: fields that do not stand in this entry do not compile")
{
    using manual::constant_expression;
    static constexpr auto x86 = shadow<shadow_features{}>;
    CHECK(constant_expression<[] { return x86->address(1, 0x1234'0000) | x86->present | x86->pat; }>);
    CHECK(constant_expression<[] { return x86->address(2, 0x1220'0000) | x86->present | x86->pat_large; }>);
    CHECK_FALSE(constant_expression<[] { return x86->address(1, 0x1234'0000) | x86->present | x86->pat_large; }>);
    CHECK_FALSE(constant_expression<[] { return x86->address(1, 0x1234'0000) | x86->pat_large(0) | x86->pat_large; }>);
    CHECK_FALSE(constant_expression<[] { return x86->pat_large | x86->address(1, 0x1234'0000); }>);
    CHECK_FALSE(constant_expression<[] { return x86->present | x86->pat_large | x86->address(1, 0x1000); }>);
    CHECK_FALSE(constant_expression<[] { return x86->pat | x86->pat_large; }>);
    CHECK_FALSE(constant_expression<[] { return x86->address(2, 0x20'0000) | x86->pat; }>);
    CHECK_FALSE(constant_expression<[] { return x86->address(1, 0x1000) | x86->page_size; }>);
    CHECK_FALSE(constant_expression<[] { return x86->address(2, 0x1000, kind::table) | x86->global; }>);
    CHECK_FALSE(constant_expression<[] { return x86->address(2, 0x1000, kind::table) | x86->dirty; }>);
    CHECK(constant_expression<[] { return x86->address(2, 0x1000, kind::table) | x86->accessed; }>);
    CHECK(constant_expression<[] { return x86->address(4, 0x1000, kind::table) | x86->present | x86->user; }>);
    CHECK_FALSE(constant_expression<[] { return x86->address(4, 0x1000, kind::table) | x86->page_size; }>);
    constexpr std::uint64_t entry = x86->address(2, 0x1220'0000) | x86->present | x86->page_size | x86->pat_large;
    CHECK(entry == 0x1220'1081);

    static constexpr auto host = ept<ept_features{.sub_page_write = true}>;
    CHECK(constant_expression<[] { return host->address(1, 0x1000) | host->read | host->sub_page_write; }>);
    CHECK_FALSE(constant_expression<[] { return host->address(2, 0x20'0000) | host->read | host->sub_page_write; }>);
    CHECK_FALSE(constant_expression<[] { return host->address(2, 0x1000, kind::table) | host->memory_type(6); }>);
    constexpr std::uint64_t page = host->address(1, 0x1000) | host->read | host->execute | host->memory_type(6);
    CHECK(page == 0x1035);

    // PAE's PDPTEs have no permissions.
    static constexpr auto pae = shadow<shadow_features{.levels = 3}>;
    CHECK_FALSE(constant_expression<[] { return pae->address(3, 0x1000, kind::table) | pae->write; }>);
    CHECK(constant_expression<[] { return pae->address(2, 0x1000, kind::table) | pae->write; }>);
}

TEST_CASE("a field that the features lack adds nothing, and takes no value but 0")
{
    static constexpr auto plain = ept<ept_features{}>;
    CHECK((plain->address(1, 0x1000) | plain->read | plain->user_execute) == 0x1001);
    CHECK((plain->address(1, 0x1000) | plain->suppress_ve(0) | plain->read) == 0x1001);
    CHECK_FALSE(manual::constant_expression<[] { return plain->address(1, 0x1000) | plain->suppress_ve(1); }>);
}
