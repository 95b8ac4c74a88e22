// SPDX-License-Identifier: BSL-1.0
#include <ptebits/attributes.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/npt.hpp>
#include <ptebits/formats/riscv.hpp>
#include <ptebits/formats/shadow.hpp>

using namespace ptebits;

namespace {

using word = std::uint64_t;

constexpr auto ordinary = shadow<shadow_features{}>;
constexpr auto extended = ept<ept_features{}>;

// With WC where the reset value has a second WT.
constexpr word pat_with_wc = 0x0007'0106'0007'0406;

template <class Format>
word bits_of(const page_attributes& a, unsigned level, const Format& format)
{
    const attribute_bits made = bits_for(a, level, kind::leaf, format);
    CHECK(made);
    return made.bits;
}
template <class Format>
encode_error error_of(const page_attributes& a, unsigned level, const Format& format)
{
    return bits_for(a, level, kind::leaf, format).error;
}

/// Another MMU's memory types, by the hook.
struct typed_description : riscv_description {
    // Svpbmt, bits 62 and 61: 0 as the platform says, 1 not cached, 2 a device.
    static constexpr attribute_bits type_bits(memory_type type, unsigned, kind, const fields& f)
    {
        if (type == memory_type::wb) return {};
        if (type == memory_type::wc) return {f.memory_type(1), encode_error::none};
        if (type == memory_type::uc) return {f.memory_type(2), encode_error::none};
        return {0, encode_error::value_not_legal};
    }
};

}  // namespace

TEST_CASE("memory types of ordinary and nested pages by the PAT, whose third bit stands elsewhere in large pages")
{
    CHECK(bits_of({}, 1, ordinary) == 0);
    CHECK(bits_of({.type = memory_type::wt}, 1, ordinary) == 0x8);
    CHECK(bits_of({.type = memory_type::uc_minus}, 1, ordinary) == 0x10);
    CHECK(bits_of({.type = memory_type::uc}, 2, ordinary) == 0x18);
    CHECK(bits_of({.type = memory_type::wc, .pat = pat_with_wc}, 1, ordinary) == 0x88);
    CHECK(bits_of({.type = memory_type::wc, .pat = pat_with_wc}, 2, ordinary) == 0x1008);
    CHECK(bits_of({.type = memory_type::wc, .pat = pat_with_wc}, 3, npt<npt_features{}>) == 0x1008);
    // Without large pages there is no bit for them.
    const auto small = format_for(shadow_features{.levels = 2, .large_pages = false});
    CHECK(error_of({.type = memory_type::wc, .pat = pat_with_wc}, 2, small) == encode_error::value_not_legal);
    for (const memory_type t : {memory_type::wc, memory_type::wp, memory_type::reserved, memory_type::cd}) {
        CHECK(error_of({.type = t}, 1, ordinary) == encode_error::value_not_legal);
    }
}

TEST_CASE("memory types of EPT stand in the entry")
{
    CHECK(bits_of({}, 1, extended) == 0x30);
    CHECK(bits_of({.type = memory_type::uc}, 1, extended) == 0);
    CHECK(bits_of({.type = memory_type::wc}, 2, extended) == 0x8);
    CHECK(bits_of({.type = memory_type::wt}, 3, extended) == 0x20);
    CHECK(bits_of({.type = memory_type::wp}, 1, extended) == 0x28);
    CHECK(error_of({.type = memory_type::cd}, 1, extended) == encode_error::value_not_legal);
    // UC- is none of its types: the rules of entries say so.
    CHECK(encode_page(kind::leaf, 1, 0x1000, {}, {.type = memory_type::uc_minus}, extended).error ==
          encode_error::value_not_legal);
}

TEST_CASE("memory types of other MMUs by the hook, or write-back alone")
{
    const auto typed = runtime_format<typed_description>(riscv_features{.svpbmt = true});
    REQUIRE(typed->wrong().what == defect::none);
    CHECK(bits_of({}, 1, typed) == 0);
    CHECK(bits_of({.type = memory_type::wc}, 1, typed) == word{1} << 61);
    CHECK(bits_of({.type = memory_type::uc}, 3, typed) == word{2} << 61);
    CHECK(error_of({.type = memory_type::wp}, 1, typed) == encode_error::value_not_legal);
    const auto untyped = format_for(riscv_features{});
    CHECK(bits_of({}, 1, untyped) == 0);
    CHECK(error_of({.type = memory_type::uc}, 1, untyped) == encode_error::no_such_field);
}

TEST_CASE("global, encrypted, shared, a key: where the format has them")
{
    CHECK(bits_of({.global = true}, 1, ordinary) == 0x100);
    CHECK(error_of({.global = true}, 1, shadow<shadow_features{.global_pages = false}>) == encode_error::no_such_field);
    CHECK(error_of({.global = true}, 1, npt<npt_features{}>) == encode_error::no_such_field);
    CHECK(error_of({.global = true}, 1, extended) == encode_error::no_such_field);

    constexpr auto sev = npt<npt_features{.encryption_bit = 47}>;
    CHECK(bits_of({.encrypted = true}, 2, sev) == word{1} << 47);
    CHECK(bits_of({}, 2, sev) == 0);
    CHECK(error_of({.encrypted = true}, 1, ordinary) == encode_error::no_such_field);
    CHECK(error_of({.encrypted = true}, 1, extended) == encode_error::no_such_field);

    constexpr auto tdx = shadow<shadow_features{.shared_bit = 47}>;
    CHECK(bits_of({.shared = true}, 1, tdx) == word{1} << 47);
    CHECK(error_of({.shared = true}, 1, ordinary) == encode_error::no_such_field);
    CHECK(error_of({.shared = true}, 1, extended) == encode_error::no_such_field);

    constexpr auto keys = ept<ept_features{.physical_bits = 52, .key_id_bits = {51, 46}}>;
    CHECK(bits_of({.type = memory_type::uc, .key_id = 5}, 1, keys) == word{5} << 46);
    CHECK(bits_of({.type = memory_type::uc, .key_id = 63}, 1, keys) == word{63} << 46);
    CHECK(error_of({.key_id = 64}, 1, keys) == encode_error::value_not_legal);
    CHECK(error_of({.key_id = 1}, 1, extended) == encode_error::no_such_field);
    CHECK(error_of({.key_id = 1}, 1, format_for(riscv_features{})) == encode_error::no_such_field);
}

TEST_CASE("software bits are those that the MMU ignores; the first error is told")
{
    CHECK(bits_of({.software = word{1} << 57}, 1, extended) == (word{1} << 57 | 0x30));
    CHECK(error_of({.software = 1}, 1, extended) == encode_error::value_not_legal);
    CHECK(error_of({.global = true, .software = 1}, 1, extended) == encode_error::no_such_field);
}

TEST_CASE("a page's entry by its attributes")
{
    static_assert(encode_page(kind::leaf, 2, 0x20'0000, {.write = false}, {}, extended).entry == 0x20'00b5);
    static_assert(
        encode_page(kind::leaf, 1, 0x5000, {.user = false}, {.type = memory_type::uc, .global = true}, ordinary)
            .entry == 0x511b);
    CHECK(encode_page(kind::leaf, 1, 0x5000, {}, {.key_id = 1}, extended).error == encode_error::no_such_field);
    CHECK(encode_page(kind::leaf, 1, 0x5001, {}, {}, extended).error == encode_error::address_misaligned);
    CHECK(encode_page(kind::leaf, 4, 0, {}, {}, extended).error == encode_error::no_such_entry);
    // Shared pages, by a bit of the address.
    constexpr auto tdx = shadow<shadow_features{.shared_bit = 47}>;
    CHECK(encode_page(kind::leaf, 1, 0x5000, {}, {.shared = true}, tdx).entry == (word{1} << 47 | 0x5007));
}
