// SPDX-License-Identifier: BSL-1.0
#include <ptebits/entry.hpp>

#include <array>

#include "leaf_model.hpp"

#include <ptebits/formats/ept.hpp>

#include "manual.hpp"

using namespace ptebits;

namespace {

constexpr std::uint64_t all_bits = ~std::uint64_t{0};
constexpr permissions nothing = no_permissions;

constexpr std::uint64_t at(unsigned index) { return std::uint64_t{1} << index; }

using manual::permissions_number;

// What the manuals let an entry grant. `known`: what is granted, if it can be.
struct offer {
    bool possible = false;
    permissions known = nothing;
};

// Ordinary paging. A PDPTE of PAE has neither R/W nor U/S nor XD, so it grants everything.
offer offered(const shadow_features& f, unsigned level, kind, const permissions& p)
{
    const bool pdpte = f.levels == 3 && level == 3;
    const bool can_deny_execute = f.execute_disable && f.levels != 2 && !pdpte;
    const bool possible = p.read && (p.write || !pdpte) && (p.user || !pdpte) && (p.execute || can_deny_execute);
    return {possible, {true, p.write, p.execute, p.user, p.execute && p.user}};
}

// Nested paging: every access is a user access. With GMET U/S = 1 denies execution to the supervisor.
offer offered(const npt_features& f, unsigned level, kind k, const permissions& p)
{
    const bool pdpte = f.levels == 3 && level == 3;
    const bool can_deny_execute = f.execute_disable && f.levels != 2 && !pdpte;
    bool possible = p.read && p.user && (p.write || !pdpte);
    if (!f.guest_mode_execute_trap) {
        possible = possible && (p.execute || can_deny_execute);
        return {possible, {true, p.write, p.execute, true, p.execute}};
    }
    if (p.execute) possible = possible && p.user_execute;
    if (!p.execute && p.user_execute) possible = possible && k == kind::leaf;  // tables leave it to the leaf
    if (!p.execute && !p.user_execute) possible = possible && can_deny_execute;
    return {possible, {true, p.write, p.execute, true, p.user_execute}};
}

// EPT: the misconfigurations, and an entry that grants nothing is not present.
offer offered(const ept_features& f, unsigned, kind, const permissions& p)
{
    const bool user_execute = f.mode_based_execute && p.user_execute;
    bool possible = p.user && (p.read || p.write || p.execute || user_execute);
    if (p.write && !p.read) possible = false;
    if ((p.execute || user_execute) && !p.read && !f.execute_only) possible = false;
    return {possible, {p.read, p.write, p.execute, true, f.mode_based_execute ? p.user_execute : p.execute}};
}

// The address bits that an entry holds: from `low`, below `end`.
struct held_bits {
    unsigned low, end;
};

// Where memory encryption ends the address: at the C-bit or the key identifier, past the shared bit.
unsigned address_end_of(const shadow_features& f)
{
    if (f.shared_bit.given) return f.shared_bit.low + 1;
    if (f.key_id_bits.given) return f.key_id_bits.low;
    return f.encryption_bit.given ? f.encryption_bit.low : 64;
}
unsigned address_end_of(const npt_features& f) { return f.encryption_bit.given ? f.encryption_bit.low : 64; }
unsigned address_end_of(const ept_features& f) { return f.key_id_bits.given ? f.key_id_bits.low : 64; }

template <class Features>
held_bits address_of_entry(const Features& f, unsigned level, kind k)
{
    const unsigned encrypted = address_end_of(f);
    unsigned end = encrypted < f.physical_bits ? encrypted : f.physical_bits;
    if (f.levels == 2) {
        bool pse36 = false;
        if constexpr (requires { f.pse36; }) pse36 = f.pse36;
        const unsigned widest = pse36 && level == 2 && k == kind::leaf ? 40 : 32;
        if (end > widest) end = widest;
        return {k == kind::leaf && level == 2 ? 22U : 12U, end};
    }
    if (k == kind::table || level == 1) return {12, end};
    return {level == 2 ? 21U : 30U, end};
}

template <class Features>
void round_trip(const Features& features)
{
    const auto format = format_for(features);
    REQUIRE(format->wrong().what == defect::none);
    unsigned made = 0;
    for (unsigned level = 0; level <= 8; ++level) {
        for (const kind k : manual::all_kinds) {
            CAPTURE(level);
            CAPTURE(name(k));
            if (!format->exists(level, k)) {
                const encoded e = encode(k, level, 0, {}, format);
                CHECK(e.error == encode_error::no_such_entry);
                CHECK(e.entry == 0);
                continue;
            }
            const held_bits range = address_of_entry(features, level, k);
            for (unsigned n = 0; n < 32; ++n) {
                const permissions wanted = permissions_number(n);
                const offer possible = offered(features, level, k, wanted);
                CAPTURE(n);
                for (unsigned bit_index = 0; bit_index <= 64; ++bit_index) {
                    CAPTURE(bit_index);
                    // 64: all address bits at once
                    const std::uint64_t physical = bit_index < 64 ? at(bit_index) : ones(range.end - 1, range.low);
                    const encoded e = encode(k, level, physical, wanted, format);
                    if (bit_index < range.low) {
                        REQUIRE(e.error == encode_error::address_misaligned);
                        REQUIRE(e.entry == 0);
                        continue;
                    }
                    if (bit_index < 64 && bit_index >= range.end) {
                        REQUIRE(e.error == encode_error::address_too_wide);
                        REQUIRE(e.entry == 0);
                        continue;
                    }
                    if (!possible.possible) {
                        REQUIRE(e.error == encode_error::permission_not_offered);
                        REQUIRE(e.entry == 0);
                        continue;
                    }
                    REQUIRE(e.error == encode_error::none);
                    REQUIRE(static_cast<bool>(e));
                    REQUIRE(present(e.entry, format));
                    REQUIRE(legal(e.entry, level, format));
                    REQUIRE(kind_of(e.entry, level, format) == k);
                    REQUIRE(address_of(e.entry, level, format) == physical);
                    REQUIRE(permissions_of(e.entry, level, format) == possible.known);
                    REQUIRE(page_shift_of(e.entry, level, format) == format->shape().page_shift(level));
                    REQUIRE((e.entry & (format->accessed.mask() | format->dirty.mask())) == 0);
                    REQUIRE((e.entry & format->software_mask(level, k)) == 0);
                    ++made;
                }
            }
        }
    }
    CHECK(made > 0);
}

}  // namespace

TEST_CASE("encode: round trip in ordinary paging, or the error that says why not")
{
    for (const unsigned levels : {2U, 3U, 4U, 5U}) {
        for (const unsigned physical_bits : {32U, 36U, 40U, 52U}) {
            for (unsigned on = 0; on < 16; ++on) {
                const shadow_features f{.levels = levels,
                                        .physical_bits = physical_bits,
                                        .execute_disable = (on & 1) != 0,
                                        .gigabyte_pages = (on & 2) != 0,
                                        .large_pages = levels != 2 || (on & 4) != 0,
                                        .pse36 = (on & 8) != 0};
                CAPTURE(levels);
                CAPTURE(physical_bits);
                CAPTURE(on);
                round_trip(f);
            }
        }
    }
    round_trip(shadow_features{.physical_bits = 48, .encryption_bit = 47});
    round_trip(shadow_features{.levels = 5, .physical_bits = 43, .encryption_bit = 51});
    round_trip(shadow_features{.levels = 3, .encryption_bit = 40});
    round_trip(shadow_features{.shared_bit = 47});
    round_trip(shadow_features{.levels = 5, .shared_bit = 51});
    round_trip(shadow_features{.physical_bits = 46, .key_id_bits = {45, 40}});
}

TEST_CASE("encode: round trip in nested paging")
{
    for (const unsigned levels : {2U, 3U, 4U, 5U}) {
        for (const bool nxe : {false, true}) {
            CAPTURE(levels);
            CAPTURE(nxe);
            round_trip(npt_features{.levels = levels, .physical_bits = 48, .execute_disable = nxe});
        }
    }
    round_trip(npt_features{.levels = 4, .physical_bits = 43, .encryption_bit = 47});
}

TEST_CASE("encode: round trip in nested paging with GMET")
{
    for (const unsigned levels : {2U, 4U, 5U}) {
        for (const bool nxe : {false, true}) {
            CAPTURE(levels);
            CAPTURE(nxe);
            round_trip(npt_features{
                .levels = levels, .physical_bits = 48, .execute_disable = nxe, .guest_mode_execute_trap = true});
        }
    }
}

// A PDPTE has no U/S bit, so it cannot take execution from the supervisor.
TEST_CASE("encode: round trip in nested paging with GMET on a PAE host")
{
    round_trip(npt_features{.levels = 3, .guest_mode_execute_trap = true});
}

TEST_CASE("encode: round trip in EPT")
{
    for (const unsigned levels : {4U, 5U}) {
        for (const unsigned physical_bits : {36U, 39U, 52U}) {
            for (unsigned on = 0; on < 16; ++on) {
                const ept_features f{.levels = levels,
                                     .physical_bits = physical_bits,
                                     .accessed_dirty = (on & 8) != 0,
                                     .execute_only = (on & 1) != 0,
                                     .large_pages = (on & 2) != 0,
                                     .gigabyte_pages = (on & 2) != 0,
                                     .mode_based_execute = (on & 4) != 0};
                CAPTURE(levels);
                CAPTURE(physical_bits);
                CAPTURE(on);
                round_trip(f);
            }
        }
    }
}

TEST_CASE("encode: entries as the manuals write them")
{
    const auto ept4 = format_for(ept_features{.physical_bits = 39});
    CHECK(encode(kind::leaf, 1, 0x12'3456'7000, {}, ept4).entry == 0x12'3456'7007);
    CHECK(encode(kind::leaf, 2, 0x12'3460'0000, {}, ept4).entry == 0x12'3460'0087);
    CHECK(encode(kind::leaf, 3, 0x12'4000'0000, {.write = false}, ept4).entry == 0x12'4000'0085);
    CHECK(encode(kind::table, 4, 0x1000, {}, ept4).entry == 0x1007);

    const auto x86 = format_for(shadow_features{});
    CHECK(encode(kind::leaf, 1, 0x1000, {}, x86).entry == 0x1007);
    CHECK(encode(kind::leaf, 2, 0x20'0000, {.execute = false}, x86).entry == 0x8000'0000'0020'0087);
    CHECK(encode(kind::table, 3, 0x2000, {.write = false, .user = false}, x86).entry == 0x2001);

    const auto pae = format_for(shadow_features{.levels = 3});
    CHECK(encode(kind::table, 3, 0x2000, {}, pae).entry == 0x2001);

    // PSE-36: address bits 39:32 go to bits 20:13.
    const auto two = format_for(shadow_features{.levels = 2, .physical_bits = 40});
    CHECK(encode(kind::leaf, 2, 0xab'ffc0'0000, {}, two).entry == 0xffd5'6087);

    const auto nested = format_for(npt_features{});
    CHECK(encode(kind::leaf, 1, 0x1000, {.write = false}, nested).entry == 0x1005);
    const auto gmet = format_for(npt_features{.guest_mode_execute_trap = true});
    CHECK(encode(kind::leaf, 1, 0x1000, {}, gmet).entry == 0x1003);
    CHECK(encode(kind::leaf, 1, 0x1000, {.execute = false, .user_execute = true}, gmet).entry == 0x1007);
    CHECK(encode(kind::leaf, 1, 0x1000, {.execute = false}, gmet).entry == 0x8000'0000'0000'1003);

    // A table's own memory is encrypted; of a page the caller says it.
    const auto encrypted = format_for(npt_features{.encryption_bit = 47});
    CHECK(encode(kind::table, 2, 0x7000, {}, encrypted).entry == 0x8000'0000'7007);
    CHECK(encode(kind::leaf, 1, 0x7000, {}, encrypted).entry == 0x7007);
    CHECK(encode(kind::leaf, 1, 0x7000, {}, encrypted, encrypted->encryption).entry == 0x8000'0000'7007);
}

namespace {

// A constant format gives what the same features give at run time, and what the manuals let it give: for
// all kinds, levels and permissions, and addresses of every sort.
template <auto Features>
void encodes_alike()
{
    const auto found = format_for(Features);
    constexpr constant_format<typename decltype(found)::description, Features> constant;
    REQUIRE(manual::difference_of(found, constant) == "");
    for (unsigned level = 0; level <= 7; ++level) {
        for (const kind k : manual::all_kinds) {
            const held_bits held = address_of_entry(Features, level, k);
            for (unsigned n = 0; n < 32; ++n) {
                CAPTURE(level);
                CAPTURE(name(k));
                CAPTURE(n);
                const permissions wanted = permissions_number(n);
                for (unsigned index = 11; index <= 53; ++index) {
                    const std::uint64_t physical = index == 53 ? ones(held.end - 1, held.low) : at(index);
                    const encoded a = encode(k, level, physical, wanted, found);
                    const encoded b = encode(k, level, physical, wanted, constant);
                    REQUIRE(a.entry == b.entry);
                    REQUIRE(a.error == b.error);
                    if (!found->exists(level, k) || index != 53) continue;
                    const offer possible = offered(Features, level, k, wanted);
                    REQUIRE(static_cast<bool>(b) == possible.possible);
                    if (!b) continue;
                    REQUIRE(permissions_of(b.entry, level, constant) == possible.known);
                    REQUIRE(permissions_of(b.entry, level, found) == possible.known);
                    REQUIRE(address_of(b.entry, level, constant) == physical);
                }
            }
        }
    }
}

}  // namespace

TEST_CASE("encode: a constant format and one found at run time give the same")
{
    encodes_alike<ept_features{}>();
    encodes_alike<ept_features{.levels = 5,
                               .mode_based_execute = true,
                               .verify_guest_paging = true,
                               .paging_write = true,
                               .supervisor_shadow_stack = true,
                               .sub_page_write = true,
                               .suppress_ve = true,
                               .memory_bits = 40}>();
    encodes_alike<ept_features{.physical_bits = 39, .execute_only = false, .mode_based_execute = true}>();
    encodes_alike<ept_features{
        .accessed_dirty = false, .large_pages = false, .gigabyte_pages = false, .software_accessed = 62}>();
    encodes_alike<npt_features{}>();
    encodes_alike<npt_features{.guest_mode_execute_trap = true}>();
    encodes_alike<npt_features{.levels = 3, .execute_disable = false, .guest_mode_execute_trap = true}>();
    encodes_alike<npt_features{.levels = 2, .guest_mode_execute_trap = true}>();
    encodes_alike<npt_features{.levels = 5, .physical_bits = 43, .encryption_bit = 47}>();
    encodes_alike<shadow_features{.levels = 2}>();
    encodes_alike<shadow_features{.levels = 2, .physical_bits = 36, .large_pages = false}>();
    encodes_alike<shadow_features{.levels = 3}>();
    encodes_alike<shadow_features{.levels = 4, .physical_bits = 46, .memory_bits = 36}>();
    encodes_alike<shadow_features{.levels = 4, .execute_disable = false, .gigabyte_pages = false}>();
    encodes_alike<shadow_features{
        .levels = 5, .user_keys = true, .hlat = true, .reserved_bit_8 = true, .key_id_bits = {51, 46}}>();
    encodes_alike<shadow_features{.shared_bit = 47}>();
    encodes_alike<ept_features{.key_id_bits = {50, 46}}>();
}

namespace {

// Constant expressions read permissions one by one, code at run time all at once.
template <class Format>
void encodes_as_in_constant_expressions()
{
    static constexpr auto made = [] {
        std::array<encoded, 32> all{};
        for (unsigned n = 0; n < 32; ++n) all[n] = encode(kind::leaf, 1, 0x1000, permissions_number(n), Format{});
        return all;
    }();
    for (unsigned n = 0; n < 32; ++n) {
        CAPTURE(n);
        const encoded found = encode(kind::leaf, 1, 0x1000, permissions_number(n), Format{});
        CHECK(found.entry == made[n].entry);
        CHECK(found.error == made[n].error);
    }
}

}  // namespace

TEST_CASE("encode: constant expressions give what code at run time gives")
{
    encodes_as_in_constant_expressions<constant_format<shadow_description, shadow_features{}>>();
    encodes_as_in_constant_expressions<
        constant_format<npt_description, npt_features{.guest_mode_execute_trap = true}>>();
    encodes_as_in_constant_expressions<constant_format<ept_description, ept_features{}>>();
    encodes_as_in_constant_expressions<constant_format<ept_description, ept_features{.mode_based_execute = true}>>();
}

TEST_CASE("encode: further fields are in the entry, all else is as without")
{
    const auto check = [](const auto& format) {
        for (unsigned level = 1; level <= format->shape().levels; ++level) {
            for (const kind k : present_kinds) {
                if (!format->exists(level, k)) continue;
                const encoded plain = encode(k, level, 0, {}, format);
                REQUIRE(plain);
                const layout& l = format->layout_at(level, k);
                for (unsigned index = 0; index < format->shape().entry_bits; ++index) {
                    CAPTURE(level);
                    CAPTURE(name(k));
                    CAPTURE(index);
                    const field_values one{at(index), entries(level, k)};
                    const encoded with = encode(k, level, 0, {}, format, one);
                    const std::uint64_t given = l.permission_mask() | l.mask(role::fixed) | l.mask(role::address);
                    const bool right = (given & at(index)) == 0 && legal(plain.entry | at(index), level, format);
                    CHECK(with.error == (right ? encode_error::none : encode_error::value_not_legal));
                    CHECK(with.entry == (right ? plain.entry | at(index) : 0));
                    CHECK(encode(k, level, 0, {}, format, field_values(at(index), entries())).error ==
                          encode_error::no_such_field);
                }
            }
        }
    };
    check(format_for(shadow_features{.user_keys = true}));
    check(format_for(shadow_features{.levels = 2}));
    check(format_for(shadow_features{.levels = 3, .physical_bits = 40}));
    check(format_for(ept_features{.physical_bits = 39, .mode_based_execute = true, .suppress_ve = true}));
    check(format_for(npt_features{.encryption_bit = 47}));
    check(shadow<shadow_features{}>);
    check(ept<ept_features{.levels = 5}>);
}

TEST_CASE("encode: further fields by name, with each error")
{
    static constexpr auto host = ept<ept_features{.physical_bits = 39, .sub_page_write = true}>;
    constexpr auto made = [](const encoded& e) { return e.error == encode_error::none ? e.entry : ~e.entry; };
    CHECK(made(encode(kind::leaf, 1, 0x1000, {}, host, host->memory_type(6))) == 0x1037);
    CHECK(made(encode(kind::leaf, 1, 0x1000, {}, host, host->memory_type(6) | host->ignore_pat)) == 0x1077);
    CHECK(made(encode(kind::leaf, 2, 0x20'0000, {.execute = false}, host, host->memory_type(4) | host->dirty)) ==
          0x20'02a3);
    CHECK(made(encode(kind::leaf, 1, 0x1000, {}, host, host->sub_page_write)) == (0x1007 | at(61)));
    CHECK(made(encode(kind::table, 4, 0x1000, {}, host, host->accessed)) == 0x1107);
    CHECK(made(encode(kind::leaf, 1, 0x1000, {}, host, host->memory_type(0))) == 0x1007);
    CHECK(made(encode(kind::leaf, 1, 0x1000, {}, host, {})) == 0x1007);

    const auto error = [&](kind k, unsigned level, std::uint64_t physical, const permissions& p,
                           const field_values& also) {
        const encoded e = encode(k, level, physical, p, host, also);
        const encoded at_run_time = encode(k, level, physical, p, format_for(host->features()), also);
        CHECK(e.error == at_run_time.error);
        CHECK(e.entry == at_run_time.entry);
        CHECK((e.error == encode_error::none || e.entry == 0));
        CHECK(static_cast<bool>(e) == (e.error == encode_error::none));
        return e.error;
    };
    using enum encode_error;
    CHECK(error(kind::table, 2, 0x1000, {}, host->memory_type(6)) == no_such_field);
    CHECK(error(kind::leaf, 2, 0x20'0000, {}, host->sub_page_write) == no_such_field);
    CHECK(error(kind::table, 4, 0x1000, {}, host->dirty) == no_such_field);
    CHECK(error(kind::leaf, 1, 0x1000, {}, host->page_size) == no_such_field);
    for (unsigned type = 0; type < 8; ++type) {
        const bool exists = type != 2 && type != 3 && type != 7;
        CHECK(error(kind::leaf, 1, 0x1000, {}, host->memory_type(type)) == (exists ? none : value_not_legal));
    }
    // Permissions, address and what tells kinds apart are given by the other arguments.
    CHECK(error(kind::leaf, 1, 0x1000, {.write = false}, host->write) == value_not_legal);
    CHECK(error(kind::leaf, 1, 0x1000, {}, host->read) == value_not_legal);
    CHECK(error(kind::leaf, 2, 0x20'0000, {}, host->page_size) == value_not_legal);
    CHECK(error(kind::leaf, 1, 0x1000, {}, host->address(1, 0x2000)) == value_not_legal);
    CHECK(error(kind::leaf, 1, 0x1000, {}, field_values(at(45), leaf_at(1))) == value_not_legal);
    // What is wrong without them comes first.
    CHECK(error(kind::leaf, 4, 0x1000, {}, host->memory_type(2)) == no_such_entry);
    CHECK(error(kind::none, 1, 0, {}, host->memory_type(2)) == no_such_entry);
    CHECK(error(kind::run, 1, 0, {}, {}) == no_such_entry);
    CHECK(error(kind::leaf, 1, 0x1800, {}, host->memory_type(2)) == address_misaligned);
    CHECK(error(kind::leaf, 1, at(39), {}, host->memory_type(2)) == address_too_wide);
    CHECK(error(kind::leaf, 1, 0x1000, {.read = false}, host->memory_type(2)) == permission_not_offered);
    CHECK(error(kind::leaf, 1, 0x1000, nothing, host->memory_type(6)) == permission_not_offered);

    static constexpr auto x86 = shadow<shadow_features{.user_keys = true, .encryption_bit = 51}>;
    CHECK(made(encode(kind::leaf, 2, 0x20'0000, {}, x86, x86->pat_large | x86->global | x86->encryption)) ==
          (0x20'1187 | at(51)));
    CHECK(made(encode(kind::leaf, 1, 0x1000, {.write = false}, x86, x86->protection_key(9) | x86->pat)) ==
          (0x1085 | std::uint64_t{9} << 59));
    CHECK(made(encode(kind::table, 2, 0x1000, {}, x86, x86->encryption)) == (0x1007 | at(51)));
    CHECK(encode(kind::leaf, 1, 0x1000, {}, x86, x86->pat_large).error == no_such_field);
    CHECK(encode(kind::leaf, 2, 0x20'0000, {}, x86, x86->pat).error == no_such_field);
    CHECK(encode(kind::leaf, 1, 0x1000, {}, x86, x86->present).error == value_not_legal);
    CHECK(encode(kind::leaf, 1, 0x1000, {}, x86, x86->execute_disable).error == value_not_legal);
}

TEST_CASE("present: bit 0 in ordinary and nested paging; any permission in EPT")
{
    const auto x86 = format_for(shadow_features{});
    const auto nested = format_for(npt_features{});
    const auto plain = format_for(ept_features{});
    const auto mbe = format_for(ept_features{.mode_based_execute = true});
    for (unsigned index = 0; index < 64; ++index) {
        CAPTURE(index);
        CHECK(present(at(index), x86) == (index == 0));
        CHECK(present(at(index), nested) == (index == 0));
        CHECK(present(at(index), plain) == (index <= 2));
        CHECK(present(at(index), mbe) == (index <= 2 || index == 10));
    }
    CHECK_FALSE(present(0, x86));
    CHECK_FALSE(present(~std::uint64_t{7}, plain));
    CHECK_FALSE(present(~std::uint64_t{0x407}, mbe));
}

TEST_CASE("young and dirty: one bit each, where the format has it")
{
    const auto x86 = format_for(shadow_features{});
    const auto hardware = format_for(ept_features{});
    const auto software = format_for(ept_features{.accessed_dirty = false, .software_accessed = 63});
    constexpr auto constant = ept<ept_features{}>;
    for (unsigned index = 0; index < 64; ++index) {
        CAPTURE(index);
        CHECK(young(at(index), x86) == (index == 5));
        CHECK(dirty(at(index), x86) == (index == 6));
        CHECK(young(at(index), hardware) == (index == 8));
        CHECK(dirty(at(index), hardware) == (index == 9));
        CHECK(young(at(index), constant) == (index == 8));
        CHECK(dirty(at(index), constant) == (index == 9));
        CHECK(young(at(index), software) == (index == 63));
        CHECK(young(~at(index), x86) == (index != 5));
    }
    CHECK_FALSE(
        manual::constant_expression<[] { return young(0, format_for(ept_features{.accessed_dirty = false})); }>);
    CHECK_FALSE(
        manual::constant_expression<[] { return dirty(0, format_for(ept_features{.accessed_dirty = false})); }>);
    CHECK(manual::constant_expression<[] { return young(0, format_for(ept_features{})); }>);
}

TEST_CASE("kind_of: bit 7, where large pages are")
{
    const auto check = [](const auto& format, unsigned large_levels) {  // bit n: large pages at level n
        const std::uint64_t p = format->present_mask();
        const unsigned levels = format->shape().levels;
        for (unsigned level = 2; level <= levels; ++level) {
            CAPTURE(level);
            const bool large = (large_levels >> level & 1) != 0;
            CHECK(kind_of(all_bits, level, format) == (large ? kind::leaf : kind::table));
            CHECK(kind_of(at(7) | p, level, format) == (large ? kind::leaf : kind::table));
            CHECK(kind_of(~at(7), level, format) == kind::table);
            CHECK(kind_of(p, level, format) == kind::table);
        }
        CHECK(kind_of(all_bits, 1, format) == kind::leaf);
        CHECK(kind_of(~at(7), 1, format) == kind::leaf);
        CHECK(kind_of(p, 1, format) == kind::leaf);
        for (const unsigned level : {0U, levels + 1, 6U, 7U, ~0U})
            CHECK(kind_of(all_bits, level, format) == kind::none);
    };
    check(format_for(shadow_features{}), 0b1100);
    check(format_for(shadow_features{.levels = 5}), 0b1100);
    check(format_for(shadow_features{.gigabyte_pages = false}), 0b0100);
    check(format_for(shadow_features{.levels = 3}), 0b0100);
    check(format_for(shadow_features{.levels = 2}), 0b0100);
    check(format_for(shadow_features{.levels = 2, .large_pages = false}), 0);
    check(format_for(npt_features{}), 0b1100);
    check(format_for(ept_features{}), 0b1100);
    check(format_for(ept_features{.levels = 5, .large_pages = false}), 0b1000);
    check(format_for(ept_features{.gigabyte_pages = false}), 0b0100);
    check(format_for(ept_features{.large_pages = false, .gigabyte_pages = false}), 0);
    check(ept<ept_features{}>, 0b1100);
    check(shadow<shadow_features{.levels = 2}>, 0b0100);
}

// x86: P = 0, "all other bits are ignored". EPT: bits 2:0 all 0, with mode-based execute bit 10 too.
TEST_CASE("an absent entry is of no kind, at no level, whatever its other bits")
{
    const auto check = [](const auto& format, std::uint64_t present_bits) {
        REQUIRE(format->present_mask() == present_bits);
        const layout& none = format->layout_at(1, kind::none);
        for (unsigned level = 0; level <= 8; ++level) {
            CAPTURE(level);
            const auto absent_one = [&](std::uint64_t entry) {
                CAPTURE(manual::hex(entry));
                CHECK_FALSE(present(entry, format));
                CHECK(kind_of(entry, level, format) == kind::none);
                CHECK(&layout_of(entry, level, format) == &none);
                CHECK(address_of(entry, level, format) == 0);
                CHECK(permissions_of(entry, level, format) == nothing);
                const bool exists = level >= 1 && level <= format->shape().levels;
                CHECK(diagnose(entry, level, format).broken == (exists ? rule::none : rule::no_such_level));
            };
            for (const std::uint64_t entry : {std::uint64_t{0}, all_bits, std::uint64_t{0x6053'38e0},
                                              std::uint64_t{0x5555'5555'5555'5555}, at(7), at(63) | at(7)}) {
                absent_one(entry & ~present_bits);
            }
            for (unsigned index = 0; index < 64; ++index) {
                if ((present_bits & at(index)) != 0) continue;
                absent_one(at(index));
                absent_one(~present_bits & ~at(index));
            }
        }
        for (unsigned level = 1; level <= format->shape().levels; ++level) {
            for (unsigned index = 0; index < 64; ++index) {
                if ((present_bits & at(index)) != 0) CHECK(kind_of(at(index), level, format) != kind::none);
            }
        }
        CHECK((none.mask(role::fixed) & present_bits) == present_bits);
        CHECK((none.value & present_bits) == 0);
    };
    for (const unsigned levels : {2U, 3U, 4U, 5U}) {
        check(format_for(shadow_features{.levels = levels}), 1);
        check(format_for(npt_features{.levels = levels, .guest_mode_execute_trap = levels > 3}), 1);
    }
    check(format_for(ept_features{}), 7);
    check(format_for(ept_features{.levels = 5, .large_pages = false, .memory_bits = 40}), 7);
    check(format_for(ept_features{.execute_only = false, .suppress_ve = true}), 7);
    check(format_for(ept_features{.levels = 5, .mode_based_execute = true, .suppress_ve = true}), 0x407);
    check(ept<ept_features{.mode_based_execute = true}>, 0x407);
    check(shadow<shadow_features{.levels = 3}>, 1);
}

// Intel SDM volume 3, "Convertible EPT Violations": bit 63 of an EPT entry that is not present decides as
// that of a leaf does.
TEST_CASE("check_absent: EPT-violation #VE must be suppressed in absent entries")
{
    const auto format = format_for(ept_features{.suppress_ve = true});
    const layout& none = format->layout_at(1, kind::none);
    CHECK(none.mask(role::written) == at(63));
    CHECK(none.value == at(63));
    CHECK(format->empty() == at(63));
    CHECK(ept<ept_features{.suppress_ve = true}>->empty() == at(63));
    CHECK(check_absent(at(63), format) == absent_error::none);
    CHECK(check_absent(0, format) == absent_error::bits_not_written);
    CHECK(check_absent(at(63) | 1, format) == absent_error::looks_present);
    CHECK(check_absent(1, format) == absent_error::looks_present);
    for (unsigned index = 3; index < 63; ++index) {
        CAPTURE(index);
        const absent_error flag = index == 8   ? absent_error::looks_accessed
                                  : index == 9 ? absent_error::looks_dirty
                                               : absent_error::none;
        CHECK(check_absent(at(63) | at(index), format) == flag);
        CHECK(check_absent(at(index), format) == (flag != absent_error::none ? flag : absent_error::bits_not_written));
    }
    const auto plain = format_for(ept_features{});
    CHECK(plain->empty() == 0);
    CHECK(plain->layout_at(1, kind::none).mask(role::written) == 0);
    CHECK(check_absent(0, plain) == absent_error::none);
    CHECK(check_absent(0x4a0, plain) == absent_error::none);
    CHECK(check_absent(0x4a0, format_for(ept_features{.mode_based_execute = true})) == absent_error::looks_present);
}

TEST_CASE("check_absent: where a CPU has L1TF, no absent entry points into memory")
{
    const auto check = [](const auto& format, std::uint64_t written) {
        CHECK(format->memory_bits() == 36);
        CHECK(check_absent(format->empty(), format) == absent_error::none);
        for (unsigned index = 11; index < 63; ++index) {
            CAPTURE(index);
            const bool into = index >= 12 && index < 36;
            CHECK(check_absent(written | at(index), format) ==
                  (into ? absent_error::points_into_memory : absent_error::none));
            CHECK(check_absent(written | at(index) | at(36), format) == absent_error::none);
        }
        CHECK(check_absent(written | 0x0000'000f'ffff'f000, format) == absent_error::points_into_memory);
        CHECK(check_absent(written | 0x0000'0010'0000'0000, format) == absent_error::none);
    };
    check(format_for(shadow_features{.physical_bits = 46, .memory_bits = 36}), 0);
    check(format_for(shadow_features{.levels = 3, .physical_bits = 46, .memory_bits = 36}), 0);
    check(format_for(ept_features{.physical_bits = 39, .memory_bits = 36}), 0);
    check(format_for(ept_features{.physical_bits = 39, .suppress_ve = true, .memory_bits = 36}), at(63));
    check(shadow<shadow_features{.physical_bits = 46, .memory_bits = 36}>, 0);

    // Without it they may point where they like.
    CHECK(check_absent(0x1000, format_for(shadow_features{})) == absent_error::none);
    CHECK(check_absent(0x1000, format_for(npt_features{})) == absent_error::none);
    CHECK(npt<npt_features{}>->memory_bits() == 0);
}

TEST_CASE("address_of: attribute, software and encryption bits stay out of it")
{
    const auto x86 = format_for(shadow_features{.physical_bits = 46});
    CHECK(address_of(all_bits, 1, x86) == 0x0000'3fff'ffff'f000);
    CHECK(address_of(all_bits, 2, x86) == 0x0000'3fff'ffe0'0000);
    CHECK(address_of(all_bits, 3, x86) == 0x0000'3fff'c000'0000);
    CHECK(address_of(~at(7), 2, x86) == 0x0000'3fff'ffff'f000);
    CHECK(address_of(~at(7), 3, x86) == 0x0000'3fff'ffff'f000);
    CHECK(address_of(all_bits, 4, x86) == 0x0000'3fff'ffff'f000);

    const auto plain_ept = format_for(ept_features{.physical_bits = 39});
    CHECK(address_of(all_bits, 1, plain_ept) == 0x7f'ffff'f000);
    CHECK(address_of(all_bits, 2, plain_ept) == 0x7f'ffe0'0000);
    CHECK(address_of(all_bits, 3, plain_ept) == 0x7f'c000'0000);
    CHECK(address_of(all_bits, 4, plain_ept) == 0x7f'ffff'f000);

    // Bits 8 and 9 of an EPT entry that refers to a table, once kept by a hypervisor's mask.
    CHECK(address_of(0x1307, 4, plain_ept) == 0x1000);

    // Software's bits 52 to 62, one at a time.
    for (unsigned index = 52; index <= 62; ++index) {
        CHECK(address_of(0x1007 | at(index), 1, x86) == 0x1000);
        CHECK(address_of(0x1007 | at(index), 1, plain_ept) == 0x1000);
    }

    for (unsigned c = 32; c <= 51; ++c) {
        CAPTURE(c);
        const auto encrypted = format_for(shadow_features{.encryption_bit = c});
        CHECK(address_of(0x1007 | at(c), 1, encrypted) == 0x1000);
        CHECK(address_of(all_bits, 1, encrypted) == at(c) - at(12));
        CHECK(address_of(all_bits, 2, encrypted) == at(c) - at(21));
        CHECK(address_of(all_bits, 3, encrypted) == at(c) - at(30));
        CHECK(address_of(~at(7), 2, encrypted) == at(c) - at(12));
    }

    const auto two = format_for(shadow_features{.levels = 2});
    CHECK(address_of(0xffff'ffff, 1, two) == 0xffff'f000);
    CHECK(address_of(0xffff'ff7f, 2, two) == 0xffff'f000);
    CHECK(address_of(0xffff'ffff, 2, two) == 0xff'ffc0'0000);
    CHECK(address_of(0x0000'2087, 2, two) == 0x01'0000'0000);
    CHECK(address_of(0x0010'0087, 2, two) == 0x80'0000'0000);
    CHECK(address_of(0x0000'1087, 2, two) == 0);  // bit 12 is PAT
    CHECK(address_of(0xffff'ffff, 2, format_for(shadow_features{.levels = 2, .physical_bits = 36})) == 0xf'ffc0'0000);
    CHECK(address_of(0xffff'ffff, 2, format_for(shadow_features{.levels = 2, .pse36 = false})) == 0xffc0'0000);
    CHECK(address_of(0xffff'ffff, 2, format_for(shadow_features{.levels = 2, .large_pages = false})) == 0xffff'f000);
}

// Intel SDM volume 3, "Paging", "Access Rights"; AMD APM volume 2, "Page-Protection Checks".
TEST_CASE("permissions of ordinary entries")
{
    for (const bool nxe : {false, true}) {
        const auto format = format_for(shadow_features{.execute_disable = nxe});
        for (unsigned level = 1; level <= 4; ++level) {
            for (unsigned n = 0; n < 16; ++n) {
                const bool p = (n & 1) != 0;
                const bool w = (n & 2) != 0;
                const bool u = (n & 4) != 0;
                const bool xd = (n & 8) != 0;
                const std::uint64_t entry = 0x5000 | (n & 7) | (xd ? at(63) : 0);
                const bool x = !(xd && nxe);
                const permissions expected = p ? permissions{true, w, x, u, x && u} : nothing;
                CAPTURE(level);
                CAPTURE(n);
                CHECK(permissions_of(entry, level, format) == expected);
                if (level != 1) continue;
                CHECK(readable(entry, format) == expected.read);
                CHECK(writable(entry, format) == expected.write);
                CHECK(executable(entry, format) == expected.execute);
            }
        }
    }
    const auto pae = format_for(shadow_features{.levels = 3});
    CHECK(permissions_of(0x1001, 3, pae) == permissions{true, true, true, true, true});
    CHECK(permissions_of(0x1000, 3, pae) == nothing);
    CHECK(permissions_of(0x1001, 2, pae) == permissions{true, false, true, false, false});
}

// AMD APM volume 2, "Nested Paging": accesses are user accesses, so U/S must be 1. With GMET a page with
// U/S = 1 is not executed by the supervisor.
TEST_CASE("permissions of nested entries, without and with GMET")
{
    const auto nested = format_for(npt_features{});
    const auto gmet = format_for(npt_features{.guest_mode_execute_trap = true});
    for (unsigned n = 0; n < 16; ++n) {
        const bool p = (n & 1) != 0;
        const bool w = (n & 2) != 0;
        const bool u = (n & 4) != 0;
        const bool x = (n & 8) == 0;
        const std::uint64_t entry = 0x5000 | (n & 7) | (x ? 0 : at(63));
        CAPTURE(n);
        const permissions plain = p && u ? permissions{true, w, x, true, x} : nothing;
        CHECK(permissions_of(entry, 1, nested) == plain);
        CHECK(readable(entry, nested) == plain.read);
        CHECK(writable(entry, nested) == plain.write);
        CHECK(executable(entry, nested) == plain.execute);
        CHECK(permissions_of(entry, 1, gmet) == (p ? permissions{true, w, x && !u, true, x} : nothing));
    }
    // U/S is anded over the levels: tables have it set, so that the leaf decides.
    CHECK(encode(kind::table, 2, 0x1000, {}, gmet).entry == 0x1007);
    CHECK(encode(kind::leaf, 1, 0x1000, {}, gmet).entry == 0x1003);
    CHECK(encode(kind::leaf, 1, 0x1000, {.execute = false, .user_execute = true}, gmet).entry == 0x1007);
    CHECK(permissions_of(0x1001, 3, format_for(npt_features{.levels = 3})) == permissions{});
    CHECK(permissions_of(0x1001, 3, format_for(npt_features{.levels = 3, .guest_mode_execute_trap = true})) ==
          permissions{});
}

TEST_CASE("permissions of EPT entries, without and with mode-based execute")
{
    const auto plain = format_for(ept_features{});
    const auto mbe = format_for(ept_features{.mode_based_execute = true});
    for (unsigned level = 1; level <= 4; ++level) {
        for (unsigned n = 0; n < 16; ++n) {
            const bool r = (n & 1) != 0;
            const bool w = (n & 2) != 0;
            const bool x = (n & 4) != 0;
            const bool xu = (n & 8) != 0;
            const std::uint64_t entry = 0x5000 | (n & 7) | (xu ? at(10) : 0);
            CAPTURE(level);
            CAPTURE(n);
            CHECK(permissions_of(entry, level, plain) == ((n & 7) != 0 ? permissions{r, w, x, true, x} : nothing));
            CHECK(permissions_of(entry, level, mbe) == (n != 0 ? permissions{r, w, x, true, xu} : nothing));
            if (level != 1) continue;
            CHECK(readable(entry, plain) == r);
            CHECK(writable(entry, plain) == w);
            CHECK(executable(entry, plain) == x);
        }
    }
}

// Intel SDM volume 3, "EPT Misconfigurations".
TEST_CASE("EPT leaves: every value of bits 5:0 and 10, with every reason")
{
    for (const bool execute_only : {true, false}) {
        for (const bool mbe : {false, true}) {
            const auto format = format_for(ept_features{.execute_only = execute_only, .mode_based_execute = mbe});
            for (unsigned level = 1; level <= 3; ++level) {
                unsigned count = 0;
                for (unsigned n = 0; n < 128; ++n) {
                    const bool r = (n & 1) != 0;
                    const bool w = (n & 2) != 0;
                    const bool x = (n & 4) != 0;
                    const bool xu = (n & 64) != 0;
                    const unsigned memory_type = n >> 3 & 7;
                    const bool type_exists = memory_type != 2 && memory_type != 3 && memory_type != 7;
                    const std::uint64_t entry = (n & 63) | (xu ? at(10) : 0) | (level > 1 ? at(7) : 0);

                    const bool used = r || w || x || (mbe && xu);
                    const bool bad_write = used && w && !r;
                    const bool bad_execute = used && (x || (mbe && xu)) && !r && !execute_only;
                    const bool bad_type = used && !type_exists;
                    const finding found = diagnose(entry, level, format);
                    CAPTURE(execute_only);
                    CAPTURE(mbe);
                    CAPTURE(level);
                    CAPTURE(n);
                    CHECK(legal(entry, level, format) == !(bad_write || bad_execute || bad_type));
                    CHECK(static_cast<bool>(found) == (bad_write || bad_execute || bad_type));
                    switch (found.broken) {
                    case rule::none:
                        CHECK(found.bits == 0);
                        break;
                    case rule::write_without_read:
                        CHECK(bad_write);
                        CHECK(found.bits == 0x3);
                        break;
                    case rule::execute_without_read:
                        CHECK(bad_execute);
                        CHECK((found.bits == 0x5 || found.bits == 0x401));
                        break;
                    case rule::memory_type:
                        CHECK(bad_type);
                        CHECK(found.bits == 0x38);
                        break;
                    default:
                        FAIL("a rule that no EPT entry breaks here");
                    }
                    if (n < 64 && type_exists && legal(entry, level, format)) ++count;
                }
                CHECK(count == (execute_only ? 30 : 25));
            }
        }
    }
}

TEST_CASE("EPT entries that refer to tables: bits 6:3 are reserved, permissions obey the same rules")
{
    for (const bool execute_only : {true, false}) {
        const auto format = format_for(ept_features{.levels = 5, .execute_only = execute_only});
        for (unsigned level = 2; level <= 5; ++level) {
            for (unsigned n = 0; n < 128; ++n) {
                const bool used = (n & 7) != 0;
                const bool reserved = (n & 0x78) != 0;
                const bool no_read = (n & 1) == 0;
                const bool bad = no_read && ((n & 2) != 0 || ((n & 4) != 0 && !execute_only));
                CAPTURE(level);
                CAPTURE(n);
                const finding found = diagnose(n, level, format);
                CHECK(static_cast<bool>(found) == (used && (reserved || bad)));
                if (used && reserved) CHECK(found == finding{rule::reserved_bits, n & 0x78});
            }
        }
    }
}

TEST_CASE("reserved bits, one by one and together, in the words of diagnose")
{
    struct reserved_in {
        unsigned level;
        std::uint64_t entry;
        std::uint64_t reserved;
    };
    const auto check = [](const auto& format, std::initializer_list<reserved_in> all) {
        for (const reserved_in& e : all) {
            CAPTURE(e.level);
            CAPTURE(manual::hex(e.entry));
            REQUIRE(legal(e.entry, e.level, format));
            for (unsigned index = 0; index < 64; ++index) {
                if ((e.reserved & at(index)) == 0) continue;
                CAPTURE(index);
                CHECK(diagnose(e.entry | at(index), e.level, format) == finding{rule::reserved_bits, at(index)});
            }
            // What is not reserved may be set, bit 7 apart, which makes another kind of entry of it.
            const std::uint64_t rest = format->layout_at(e.level, kind::leaf).all & ~(e.reserved | at(7) | 0x38);
            CHECK(legal(e.entry | rest, e.level, format));
            if (e.reserved == 0) continue;
            CHECK(diagnose(e.entry | e.reserved, e.level, format) == finding{rule::reserved_bits, e.reserved});
            CHECK_FALSE(legal(e.entry | e.reserved, e.level, format));
        }
    };
    check(format_for(ept_features{.physical_bits = 39}), {{1, 0x37, 0x000f'ff80'0000'0000},
                                                          {2, 0xb7, 0x000f'ff80'001f'f000},
                                                          {3, 0xb7, 0x000f'ff80'3fff'f000},
                                                          {2, 0x07, 0x000f'ff80'0000'0078},
                                                          {3, 0x07, 0x000f'ff80'0000'0078},
                                                          {4, 0x07, 0x000f'ff80'0000'00f8}});
    check(format_for(ept_features{.large_pages = false, .gigabyte_pages = false}),
          {{1, 0x37, 0}, {2, 0x07, 0xf8}, {3, 0x07, 0xf8}, {4, 0x07, 0xf8}});
    check(format_for(shadow_features{.physical_bits = 46}), {{1, 0x07, 0x000f'c000'0000'0000},
                                                             {2, 0x87, 0x000f'c000'001f'e000},
                                                             {3, 0x87, 0x000f'c000'3fff'e000},
                                                             {2, 0x07, 0x000f'c000'0000'0000},
                                                             {3, 0x07, 0x000f'c000'0000'0000},
                                                             {4, 0x07, 0x000f'c000'0000'0080}});
    check(format_for(shadow_features{.execute_disable = false, .gigabyte_pages = false}),
          {{1, 0x07, at(63)}, {2, 0x87, at(63) | 0x1f'e000}, {3, 0x07, at(63) | at(7)}, {4, 0x07, at(63) | at(7)}});
    check(format_for(shadow_features{.levels = 3, .physical_bits = 40}),
          {{1, 0x07, 0x7fff'ff00'0000'0000}, {2, 0x87, 0x7fff'ff00'001f'e000}, {3, 0x01, 0xffff'ff00'0000'01e6}});
    check(format_for(npt_features{.levels = 5}),
          {{1, 0x07, 0}, {2, 0x87, 0x1f'e000}, {4, 0x07, 0x180}, {5, 0x07, 0x180}});
    check(format_for(shadow_features{.levels = 2}), {{1, 0x07, 0}, {2, 0x07, 0}, {2, 0x87, at(21)}});
    check(format_for(shadow_features{.levels = 2, .physical_bits = 36}), {{2, 0x87, 0x3e'0000}});
    check(format_for(shadow_features{.levels = 2, .large_pages = false}), {{2, 0x07, 0}, {2, 0x87, 0}});
    check(format_for(shadow_features{.physical_bits = 48, .encryption_bit = 47}),
          {{1, 0x07, 0x000f'0000'0000'0000}, {1, 0x07 | at(47), 0x000f'0000'0000'0000}});
}

TEST_CASE("reserved bits come before forbidden combinations, write before memory type")
{
    const auto format = format_for(ept_features{.physical_bits = 39});
    CHECK(diagnose(0x3a | at(51), 1, format) == finding{rule::reserved_bits, at(51)});
    CHECK(diagnose(0x3a, 1, format) == finding{rule::write_without_read, 0x3});
}

TEST_CASE("what translates is present, and legal at the level or at some level")
{
    CHECK(leaf_model::wrong_translations_both_ways(leaf_model::ept_ad) == 0);
    CHECK(leaf_model::wrong_translations_both_ways(leaf_model::ept_46) == 0);
    CHECK(leaf_model::wrong_translations_both_ways(leaf_model::ept_mbe) == 0);
    CHECK(leaf_model::wrong_translations_both_ways(ept<ept_features{.execute_only = false}>) == 0);
    CHECK(leaf_model::wrong_translations_both_ways(
              ept<ept_features{.execute_only = false, .mode_based_execute = true, .suppress_ve = true}>) == 0);
    CHECK(leaf_model::wrong_translations_both_ways(leaf_model::npt_long) == 0);
    CHECK(leaf_model::wrong_translations_both_ways(leaf_model::shadow_46) == 0);
    CHECK(leaf_model::wrong_translations_both_ways(leaf_model::shadow_pae) == 0);
    CHECK(leaf_model::wrong_translations_both_ways(leaf_model::shadow_two) == 0);
    CHECK(leaf_model::wrong_translations_both_ways(shadow<shadow_features{.execute_disable = false}>) == 0);

    // By masks, which have no rules: present.
    const masks m = masks::from({.present = 0x7});
    for (const std::uint64_t entry : {std::uint64_t{0}, std::uint64_t{2}, ~std::uint64_t{0}, std::uint64_t{8}}) {
        CHECK(translates(entry, m) == present(entry, m));
        CHECK(translates(entry, m, 3) == present(entry, m));
    }
    // Nothing does by features that contradict each other.
    CHECK_FALSE(translates(~std::uint64_t{0}, format_for(shadow_features{.levels = 7})));
}

TEST_CASE("an entry that is not present breaks no rule, whatever its other bits")
{
    const auto check = [](const auto& format, std::uint64_t present_bits) {
        for (unsigned level = 1; level <= format->shape().levels; ++level) {
            const std::uint64_t all = format->layout_at(level, kind::table).all;
            CHECK(diagnose(all & ~present_bits, level, format) == finding{});
            for (unsigned index = 0; index < 64; ++index) {
                if ((at(index) & all & ~present_bits) != 0) CHECK(legal(at(index), level, format));
            }
            CHECK(permissions_of(all & ~present_bits, level, format) == nothing);
        }
    };
    check(format_for(shadow_features{}), 1);
    check(format_for(shadow_features{.levels = 3}), 1);
    check(format_for(shadow_features{.levels = 2}), 1);
    check(format_for(npt_features{}), 1);
    check(format_for(ept_features{}), 7);
    check(format_for(ept_features{.levels = 5, .mode_based_execute = true}), 0x407);
}

TEST_CASE("bits that a 32-bit entry does not have")
{
    const auto two = format_for(shadow_features{.levels = 2});
    for (unsigned index = 32; index < 64; ++index) {
        CAPTURE(index);
        for (const unsigned level : {1U, 2U}) {
            CHECK(diagnose(7 | at(index), level, two) == finding{rule::too_wide, at(index)});
            CHECK(diagnose(at(index), level, two) == finding{});  // not present
        }
    }
    CHECK(diagnose(all_bits, 1, two) == finding{rule::too_wide, 0xffff'ffff'0000'0000});
}

TEST_CASE("levels out of range are named, and nothing is read outside the tables")
{
    const auto check = [](const auto& format) {
        for (const unsigned level : {0U, format->shape().levels + 1, 6U, 7U, 64U, ~0U}) {
            CAPTURE(level);
            for (const std::uint64_t entry : {std::uint64_t{0}, std::uint64_t{7}, all_bits}) {
                CHECK(diagnose(entry, level, format) == finding{rule::no_such_level, entry});
                CHECK_FALSE(legal(entry, level, format));
                CHECK(address_of(entry, level, format) == 0);
                CHECK(kind_of(entry, level, format) == kind::none);
                CHECK(permissions_of(entry, level, format) == nothing);
            }
            for (const kind k : manual::all_kinds) {
                CHECK(encode(k, level, 0, {}, format).error == encode_error::no_such_entry);
                CHECK_FALSE(format->exists(level, k));
            }
        }
    };
    for (const unsigned levels : {2U, 3U, 4U, 5U}) {
        check(format_for(shadow_features{.levels = levels}));
        check(format_for(npt_features{.levels = levels}));
    }
    check(format_for(ept_features{.levels = 4}));
    check(format_for(ept_features{.levels = 5}));
}
