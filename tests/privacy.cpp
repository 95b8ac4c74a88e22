// Memory encryption: the C-bit is no part of the address, the shared bit of TDX is, key
// identifiers are attributes. AMD APM volume 2, "Secure Encrypted Virtualization"; Intel TDX module
// specification; Intel MKTME specification.
#include <doctest/doctest.h>

#include <cstdint>
#include <ptebits/ptebits.hpp>
#include <string>

#include "manual.hpp"

using namespace ptebits;

namespace {

constexpr auto sev = npt<npt_features{.physical_bits = 48, .encryption_bit = 47}>;
constexpr auto sme = shadow<shadow_features{.physical_bits = 43, .encryption_bit = 47}>;
constexpr auto td = shadow<shadow_features{.shared_bit = 47}>;
constexpr auto td5 = shadow<shadow_features{.levels = 5, .shared_bit = 51}>;
constexpr auto mktme = ept<ept_features{.key_id_bits = {51, 46}}>;

template <class Format>
std::string fields_of(std::uint64_t entry, const Format& format)
{
    char text[2000];
    describe_fields(entry, 1, format, text);
    return text;
}

bool holds(const std::string& text, const char* words) { return text.find(words) != std::string::npos; }

}  // namespace

TEST_CASE("the width and the C-bit of a CPU with memory encryption")
{
    // 48 bits less 5, C-bit 47.
    constexpr std::uint32_t ebx = 5U << 6 | 47U;
    constexpr auto host = npt<with_memory_encryption(npt_features{.physical_bits = 48}, ebx)>;
    CHECK(host->reserved_mask(1, kind::leaf) == 0x000f'7800'0000'0000);
    CHECK(host->encryption.mask() == 0x0000'8000'0000'0000);
    const auto own = format_for(with_memory_encryption(shadow_features{.physical_bits = 52}, 0x10000 | 1U << 6 | 51U));
    CHECK(own->reserved_mask(1, kind::leaf) == 0);
    CHECK(own->address_mask(1, kind::leaf) == 0x0007'ffff'ffff'f000);
    CHECK(format_for(with_memory_encryption(npt_features{.physical_bits = 36}, 63U << 6 | 47U))->wrong().what ==
          defect::physical_bits);
}

TEST_CASE("address_of leaves out the C-bit and the key identifier, and has the shared bit")
{
    CHECK(address_of(0x8000'0000'6007, 1, sev) == 0x6000);
    CHECK(address_of(0x8000'0000'6003, 1, td) == 0x8000'0000'6000);
    CHECK(address_of(0x0008'0000'0000'6003, 1, td5) == 0x0008'0000'0000'6000);
    CHECK(address_of(0x0001'4000'0000'6037, 1, mktme) == 0x6000);
    CHECK(encode(kind::leaf, 1, 0x8000'0000'6000, {.user = false}, td).entry == 0x8000'0000'6003);
    CHECK(encode(kind::leaf, 1, 0x6000, {.user = false}, td, td->shared).entry == 0x8000'0000'6003);
    CHECK(encode(kind::leaf, 1, 0x6000, {}, td, {bit(20).mask(), leaf_at(1)}).error == encode_error::value_not_legal);
    CHECK(encode(kind::leaf, 1, 0x1'0000'0000'6000, {}, td).error == encode_error::address_too_wide);
    CHECK(encode(kind::leaf, 1, 0x6000, {}, mktme, mktme->memory_type(6) | mktme->key_id(5)).entry ==
          0x0001'4000'0000'6037);
    CHECK(diagnose(0x1'0000'0000'6003, 1, td) == finding{rule::reserved_bits, 0x1'0000'0000'0000});
    CHECK(legal(0x000f'c000'0000'6037, 1, mktme));
    CHECK(needs_flush(0x0001'4000'0000'6037, 0x0001'8000'0000'6037, mktme));
}

TEST_CASE("a walk leads to the address with the shared bit")
{
    std::uint64_t pages[5][512] = {};
    pages[1][0] = 0x2003;
    pages[2][0] = 0x3003;
    pages[3][0] = 0x4003;
    pages[4][0] = 0x8000'0000'6003;
    const auto memory = [&](std::uint64_t physical) {
        return physical < sizeof pages ? &pages[physical / 4096][physical % 4096 / 8] : nullptr;
    };
    CHECK(walk(td, 0x1000, 0x123, {}, {}, memory, update_flags::no).address == 0x8000'0000'6123);
    CHECK(walk(sme, 0x1000, 0x123, {}, {}, memory, update_flags::no).address == 0x6123);
}

TEST_CASE("features that exclude each other, and bits that are several")
{
    CHECK(format_for(shadow_features{.encryption_bit = 47, .shared_bit = 46})->wrong().what == defect::contradiction);
    CHECK(format_for(shadow_features{.shared_bit = 47, .key_id_bits = {51, 48}})->wrong().what ==
          defect::contradiction);
    CHECK(format_for(shadow_features{.encryption_bit = {48, 47}})->wrong().what == defect::flag_of_several_bits);
    CHECK(format_for(npt_features{.encryption_bit = {48, 47}})->wrong().what == defect::flag_of_several_bits);
    CHECK(format_for(shadow_features{.shared_bit = {48, 47}})->wrong().what == defect::flag_of_several_bits);
    CHECK(format_for(shadow_features{.physical_bits = 47, .shared_bit = 47})->wrong().what == defect::encryption_bit);
    CHECK(format_for(ept_features{.key_id_bits = {52, 46}})->wrong().what == defect::encryption_bit);
}

TEST_CASE("text says encrypted, shared and which key")
{
    CHECK(holds(fields_of(0x8000'0000'6007, sev), " encrypted"));
    CHECK(holds(fields_of(0x6007, sev), "not encrypted"));
    CHECK(holds(fields_of(0x8000'0000'6007, td), " shared"));
    CHECK(holds(fields_of(0x6007, td), " private"));
    CHECK(holds(fields_of(0x8000'0000'6007, td), "0x8000'0000'6000 RWX user SHARED"));
    CHECK_FALSE(holds(fields_of(0x6007, td), "RWX user SHARED"));
    CHECK(holds(fields_of(0x0001'4000'0000'6037, mktme), "0x6000 RWX WB KEYID=5"));
    CHECK(holds(fields_of(0x0001'4000'0000'6037, mktme), "key identifier"));
}

TEST_CASE("to_private and to_shared, values")
{
    const auto check = [](std::uint64_t private_one, std::uint64_t shared_one, unsigned level, const auto& format) {
        CHECK(is_private(private_one, level, format));
        CHECK_FALSE(is_private(shared_one, level, format));
        for (const std::uint64_t entry : {private_one, shared_one}) {
            CHECK(to_private(entry, level, format) == private_one);
            CHECK(to_shared(entry, level, format) == shared_one);
        }
        CHECK(needs_flush(private_one, shared_one, format, level));
        CHECK(needs_flush(shared_one, private_one, format, level));
    };
    check(0x8000'0000'6067, 0x6067, 1, sev);
    check(0x8000'0020'00e7, 0x20'00e7, 2, sme);
    check(0x8000'0000'6027, 0x6027, 3, format_for(sme->features()));
    check(0x6063, 0x8000'0000'6063, 1, td);
    check(0x4000'00e3, 0x8000'4000'00e3, 3, format_for(td->features()));
    check(0x6063, 0x0008'0000'0000'6063, 1, td5);

    for (const std::uint64_t other : {std::uint64_t{0}, std::uint64_t{0x6066}, std::uint64_t{0x1'0000'0000'6067}}) {
        CHECK(to_private(other, 1, sev) == other);  // absent, or it breaks a rule
        CHECK(to_shared(other, 1, td) == other);
    }
    CHECK_FALSE(is_private(0x6066, 1, td));
}

TEST_CASE("a live page is converted by one atomic operation, A and D set meanwhile are kept")
{
    struct interfering : atomic_access<> {
        int* times;
        bool compare_exchange(std::uint64_t& slot, std::uint64_t& expected, std::uint64_t desired) const
        {
            if ((*times)++ == 0) set(slot, 0x60);
            return atomic_access<>::compare_exchange(slot, expected, desired);
        }
    };
    std::uint64_t slot = 0x6007;
    int times = 0;
    CHECK(convert_to_private(slot, 1, sev, interfering{{}, &times}));
    CHECK(slot == 0x8000'0000'6067);
    CHECK(times == 2);
    CHECK_FALSE(convert_to_private(slot, 1, sev));
    CHECK(convert_to_shared(slot, 1, sev));
    CHECK(slot == 0x6067);
    times = 0;
    slot = 0x6007;
    CHECK(convert_to_shared(slot, 1, td, interfering{{}, &times}));
    CHECK(slot == 0x8000'0000'6067);
    CHECK(convert_to_private(slot, 1, format_for(td->features())));
    CHECK(slot == 0x6067);
    slot = 0x6006;
    CHECK_FALSE(convert_to_shared(slot, 1, td));
    CHECK(slot == 0x6006);
}

TEST_CASE("large_pages can be off for 32-bit entries only")
{
    for (const unsigned levels : {3U, 4U, 5U}) {
        CHECK(format_for(shadow_features{.levels = levels, .large_pages = false})->wrong().what == defect::always_on);
        CHECK(format_for(npt_features{.levels = levels, .large_pages = false})->wrong().what == defect::always_on);
    }
    CHECK_FALSE(format_for(shadow_features{.levels = 2, .large_pages = false})->exists(2, kind::leaf));
    CHECK_FALSE(format_for(npt_features{.levels = 2, .large_pages = false})->exists(2, kind::leaf));
    for (const unsigned levels : {4U, 5U}) {
        CHECK_FALSE(format_for(ept_features{.levels = levels, .large_pages = false})->exists(2, kind::leaf));
        CHECK_FALSE(format_for(ept_features{.levels = levels, .gigabyte_pages = false})->exists(3, kind::leaf));
    }
}

TEST_CASE("no feature grants a permission that the caller did not mention")
{
    const auto check = [](const auto& features) {
        const auto format = format_for(features);
        for (unsigned level = 1; level <= format->shape().levels; ++level) {
            for (const kind k : {kind::table, kind::leaf}) {
                for (unsigned n = 0; n < 16; ++n) {
                    const permissions grant{
                        .read = (n & 1) != 0, .write = (n & 2) != 0, .execute = (n & 4) != 0, .user = (n & 8) != 0};
                    const encoded e = encode(k, level, 0, grant, format);
                    if (!e) continue;
                    const permissions p = permissions_of(e.entry, level, format);
                    REQUIRE(p.read <= grant.read);
                    REQUIRE(p.write <= grant.write);
                    REQUIRE(p.execute <= grant.execute);
                    REQUIRE(p.user <= grant.user);
                    REQUIRE(p.user_execute <= grant.execute);
                }
            }
        }
    };
    for (const bool on : {false, true}) {
        check(ept_features{.mode_based_execute = on});
        check(ept_features{.execute_only = false, .mode_based_execute = on, .suppress_ve = on});
        check(ept_features{.mode_based_execute = on,
                           .verify_guest_paging = on,
                           .paging_write = on,
                           .supervisor_shadow_stack = on,
                           .sub_page_write = on});
        for (const unsigned levels : {2U, 3U, 4U, 5U}) {
            check(npt_features{.levels = levels, .guest_mode_execute_trap = on});
            check(npt_features{.levels = levels, .guest_mode_execute_trap = true, .supervisor_shadow_stack = on});
            check(shadow_features{.levels = levels, .shadow_stacks = on});
        }
    }
    CHECK(encode(kind::leaf, 1, 0x5000, {.execute = false}, ept<ept_features{.mode_based_execute = true}>).entry ==
          0x5003);
    CHECK(encode(kind::leaf, 1, 0x5000, {.execute = false}, npt<npt_features{.guest_mode_execute_trap = true}>).entry ==
          0x8000'0000'0000'5003);
}
