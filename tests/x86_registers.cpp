// SPDX-License-Identifier: BSL-1.0
// Roots from registers, and what registers say beside them.
#include <doctest/doctest.h>

#include <cstdint>
#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/npt.hpp>
#include <ptebits/formats/shadow.hpp>
#include <ptebits/x86_registers.hpp>

#include "walking.hpp"

using namespace walking;

namespace {

constexpr word bit_at(unsigned index) { return word{1} << index; }

/// The bits of a register that are refused, one at a time, by a function that reads it.
template <class Read>
word refused(Read read)
{
    word all = 0;
    for (unsigned i = 0; i < 64; ++i) {
        const auto r = read(bit_at(i));
        if (r) continue;
        all |= bit_at(i);
        CHECK(r.root == 0);
        CHECK(r.error == root_error::reserved_bits);
        CHECK(r.bits == bit_at(i));
    }
    return all;
}

/// The bits of a register that are the root's.
template <class Read>
word root_bits(Read read)
{
    word all = 0;
    for (unsigned i = 0; i < 64; ++i) {
        const auto r = read(bit_at(i));
        if (r) all |= r.root;
        if (r && r.root != 0) CHECK(r.root == bit_at(i));
    }
    return all;
}

}  // namespace

TEST_CASE("a root lies where the top table may: its size aligns it, the physical width ends it")
{
    constexpr auto long_mode_40 = shadow<shadow_features{.physical_bits = 40}>;
    CHECK(is_root(0x1000, long_mode_40));
    CHECK(is_root(0, long_mode_40));
    for (const word wrong : {word{0x1018}, word{0x1005}, word{0x105e}, word{0x1800}, bit_at(40), bit_at(63) | 0x1000}) {
        CHECK(!is_root(wrong, long_mode_40));
    }
    constexpr auto pae = shadow<shadow_features{.levels = 3, .physical_bits = 36}>;
    CHECK(is_root(0x1020, pae));
    CHECK(!is_root(0x1010, pae));
    CHECK(!is_root(bit_at(36), pae));
    constexpr auto two = shadow<shadow_features{.levels = 2, .physical_bits = 40}>;
    CHECK(is_root(0xffff'f000, two));
    CHECK(!is_root(0x0800, two));
    CHECK(!is_root(bit_at(32), two));
    constexpr auto encrypted = npt<npt_features{.physical_bits = 48, .encryption_bit = 47U}>;
    CHECK(is_root(bit_at(46), encrypted));
    CHECK(!is_root(bit_at(47), encrypted));
    CHECK(is_root(0x105e & ~0xfff, ept<ept_features{}>));
    CHECK(!is_root(0x105e, ept<ept_features{}>));
    CHECK(!is_root(0, format_for(ept_features{.levels = 3})));  // no tables
}

TEST_CASE("CR3 in long mode")
{
    for (const unsigned levels : {4U, 5U}) {
        const auto format = format_for(shadow_features{.levels = levels, .physical_bits = 46});
        const auto plain = [&](word cr3) { return root_of_cr3(cr3, format); };
        const auto pcid = [&](word cr3) { return root_of_cr3(cr3, format, {.pcide = true}); };
        const auto lam = [&](word cr3) { return root_of_cr3(cr3, format, {.linear_address_mask = true}); };
        constexpr word root = 0x3fff'ffff'f000;
        constexpr word above = ~word{0} << 46;
        CHECK(root_bits(plain) == root);
        CHECK(root_bits(pcid) == root);
        CHECK(root_bits(lam) == root);
        CHECK(refused(plain) == above);
        CHECK(refused(pcid) == (above & ~bit_at(63)));
        CHECK(refused(lam) == (above & ~bit_at(62) & ~bit_at(61)));

        cr3_root r = plain(0x1018);
        CHECK(r.root == 0x1000);
        CHECK(r.write_through);
        CHECK(r.cache_disable);
        CHECK(r.pcid == 0);
        r = plain(0x1fe7);  // ignored bits
        CHECK(r.root == 0x1000);
        CHECK(!r.write_through);
        CHECK(!r.cache_disable);
        r = pcid(bit_at(63) | 0x1abc);
        CHECK(r.root == 0x1000);
        CHECK(r.pcid == 0xabc);
        CHECK(r.no_flush);
        CHECK(!r.write_through);  // bits 4:3 are the PCID's
        CHECK(!r.cache_disable);
        r = lam(bit_at(62) | 0x1000);
        CHECK(r.lam_u48);
        CHECK(!r.lam_u57);
        CHECK(lam(bit_at(61)).lam_u57);
        CHECK(plain(bit_at(50) | bit_at(46) | 0x1018).bits == (bit_at(50) | bit_at(46)));
    }
}

TEST_CASE("CR3 of 32-bit and PAE paging is 32 bits wide, and PAE's table is aligned to 32 bytes")
{
    for (const unsigned width : {32U, 36U, 52U}) {
        const auto pae = format_for(shadow_features{.levels = 3, .physical_bits = width});
        const auto two = format_for(shadow_features{.levels = 2, .physical_bits = width});
        const cr3_controls all{.pcide = true, .linear_address_mask = true};  // long mode's, without effect
        for (const cr3_controls& cpu : {cr3_controls{}, all}) {
            CHECK(root_bits([&](word cr3) { return root_of_cr3(cr3, pae, cpu); }) == 0xffff'ffe0);
            CHECK(root_bits([&](word cr3) { return root_of_cr3(cr3, two, cpu); }) == 0xffff'f000);
            CHECK(refused([&](word cr3) { return root_of_cr3(cr3, pae, cpu); }) == 0);
            CHECK(refused([&](word cr3) { return root_of_cr3(cr3, two, cpu); }) == 0);
            const cr3_root r = root_of_cr3(~word{0}, two, cpu);
            CHECK(r.root == 0xffff'f000);
            CHECK(r.write_through);
            CHECK(r.cache_disable);
            CHECK(!r.lam_u48);
            CHECK(!r.lam_u57);
            CHECK(!r.no_flush);
            CHECK(r.pcid == 0);
        }
    }
    CHECK(root_of_cr3(0x103f, shadow<shadow_features{.levels = 3}>).root == 0x1020);
}

TEST_CASE("the C-bit in CR3 and nCR3 is no part of the root")
{
    // The width is what memory encryption leaves; the C-bit may stand above it.
    for (const unsigned c : {47U, 51U}) {
        const auto host = format_for(npt_features{.physical_bits = 48, .encryption_bit = c});
        const cr3_root r = root_of_ncr3(bit_at(c) | 0x1018, host);
        CHECK(r);
        CHECK(r.root == 0x1000);
        CHECK(r.encrypted);
        CHECK(r.write_through);
        CHECK(r.cache_disable);
        CHECK(!root_of_ncr3(0x1000, host).encrypted);
        const word above = ~word{0} << 48 & ~bit_at(c);
        CHECK(refused([&](word ncr3) { return root_of_ncr3(ncr3, host); }) == above);
        const auto guest = format_for(shadow_features{.physical_bits = 48, .encryption_bit = c});
        CHECK(root_of_cr3(bit_at(c) | 0x1000, guest).root == 0x1000);
    }
    CHECK(root_of_ncr3(0x1020, npt<npt_features{.levels = 3}>).root == 0x1020);
    CHECK(root_of_ncr3(bit_at(63), npt<npt_features{}>).error == root_error::reserved_bits);
}

TEST_CASE("the HLAT pointer and the pointer to sub-page permission tables")
{
    constexpr auto guest = shadow<shadow_features{.physical_bits = 46, .hlat = true}>;
    const auto hlatp = [&](word value) { return root_of_hlatp(value, guest); };
    CHECK(refused(hlatp) == ((~word{0} << 46) | 0xfe7));
    CHECK(root_bits(hlatp) == 0x3fff'ffff'f000);
    CHECK(hlatp(0x1018).root == 0x1000);
    CHECK(hlatp(0x1018).cache_disable);
    constexpr auto host = ept<ept_features{.physical_bits = 46, .sub_page_write = true}>;
    const auto spptp = [&](word value) { return root_of_spptp(value, host); };
    CHECK(refused(spptp) == ((~word{0} << 46) | 0xfff));
    CHECK(root_bits(spptp) == 0x3fff'ffff'f000);
}

TEST_CASE("a format that is wrong has no root")
{
    const auto wrong = format_for(shadow_features{.levels = 6});
    CHECK(root_of_cr3(0x1000, wrong).error == root_error::no_tables);
    CHECK(root_of_hlatp(0x1000, wrong).error == root_error::no_tables);
    const auto wrong_ept = format_for(ept_features{.levels = 3});
    CHECK(root_of_spptp(0x1000, wrong_ept).error == root_error::no_tables);
    CHECK(root_of_eptp(0x1016, wrong_ept).error == eptp_error::walk_length);
    CHECK(eptp_for(0x1000, wrong_ept).error == eptp_error::walk_length);
}

TEST_CASE("the root from an EPT pointer, which must agree with the format")
{
    constexpr auto plain = ept<ept_features{.physical_bits = 40}>;
    const eptp_root r = root_of_eptp(0x1234'505e, plain);
    CHECK(r);
    CHECK(r.root == 0x1234'5000);
    CHECK(r.type == memory_type::wb);
    CHECK(r.levels == 4);
    CHECK(r.accessed_dirty);
    CHECK(!r.supervisor_shadow_stack);
    CHECK(root_of_eptp(0x1234'5058, plain).type == memory_type::uc);

    constexpr auto no_flags = ept<ept_features{.physical_bits = 40, .accessed_dirty = false}>;
    constexpr auto five = ept<ept_features{.levels = 5, .physical_bits = 40}>;
    constexpr auto stacks = ept<ept_features{.physical_bits = 40, .supervisor_shadow_stack = true}>;
    const auto error = [](word eptp, const auto& format) {
        const eptp_root read = root_of_eptp(eptp, format);
        CHECK((read.root == 0) == !read);
        return read.error;
    };
    CHECK(error(0x105d, plain) == eptp_error::memory_type);
    CHECK(error(0x105f, plain) == eptp_error::memory_type);
    CHECK(error(0x1066, plain) == eptp_error::walk_length);
    CHECK(error(0x105e, five) == eptp_error::walk_length);
    CHECK(error(0x1066, five) == eptp_error::none);
    CHECK(error(0x101e, plain) == eptp_error::accessed_dirty);
    CHECK(error(0x105e, no_flags) == eptp_error::accessed_dirty);
    CHECK(error(0x101e, no_flags) == eptp_error::none);
    CHECK(error(0x10de, plain) == eptp_error::shadow_stack);
    CHECK(error(0x105e, stacks) == eptp_error::shadow_stack);
    CHECK(error(0x10de, stacks) == eptp_error::none);
    for (unsigned i = 8; i < 64; ++i) {
        const bool reserved = i < 12 || i >= 40;
        CHECK(error(0x105e | bit_at(i), plain) == (reserved ? eptp_error::reserved_bits : eptp_error::none));
    }
}

TEST_CASE("the EPT pointer of a format and a root, and back")
{
    constexpr word all = bit_at(6) | bit_at(7) | bit_at(8) | bit_at(14) | bit_at(21) | bit_at(23);
    for (unsigned n = 0; n < 16; ++n) {
        const ept_features f{.levels = n & 1 ? 5U : 4U,
                             .physical_bits = 40,
                             .accessed_dirty = (n & 2) != 0,
                             .supervisor_shadow_stack = (n & 4) != 0};
        const auto format = format_for(f);
        const memory_type type = n & 8 ? memory_type::wb : memory_type::uc;
        const encoded_eptp made = eptp_for(0x1234'5000, format, type);
        CHECK(made);
        CHECK(check_eptp(made.eptp, all, 40) == eptp_error::none);
        const eptp_root r = root_of_eptp(made.eptp, format);
        CHECK(r);
        CHECK(r.root == 0x1234'5000);
        CHECK(r.type == type);
        CHECK(r.levels == f.levels);
        CHECK(r.accessed_dirty == f.accessed_dirty);
        CHECK(r.supervisor_shadow_stack == f.supervisor_shadow_stack);
    }
    constexpr auto host = ept<ept_features{.physical_bits = 40}>;
    static_assert(eptp_for(0x1000, host).eptp == 0x105e);
    CHECK(eptp_for(0x1020, host).error == eptp_error::root);
    CHECK(eptp_for(bit_at(40), host).error == eptp_error::root);
    CHECK(eptp_for(0x1000, host, memory_type::wt).error == eptp_error::memory_type);
    CHECK(eptp_for(0x1000, host, memory_type::wt).eptp == 0);
}

TEST_CASE("a walk from the root that a register holds")
{
    one_page page;
    CHECK(walk(long_mode, root_of_cr3(0x1018, long_mode).root, 0x123, {}, {}, page.memory).address == 0x5000'0123);
}

TEST_CASE("the EPT pointer that VM entry takes")
{
    constexpr word all = word{1} << 6 | word{1} << 7 | word{1} << 8 | word{1} << 14 | word{1} << 21 | word{1} << 23;
    CHECK(check_eptp(0x1234'501e, all, 40) == eptp_error::none);
    CHECK(check_eptp(0x1234'5018, all, 40) == eptp_error::none);
    CHECK(check_eptp(0x1234'50e6, all, 40) == eptp_error::none);  // five levels, A/D, shadow stack
    CHECK(check_eptp(0x1234'501d, all, 40) == eptp_error::memory_type);
    CHECK(check_eptp(0x1234'501e, all & ~(word{1} << 14), 40) == eptp_error::memory_type);
    CHECK(check_eptp(0x1234'5018, all & ~(word{1} << 8), 40) == eptp_error::memory_type);
    CHECK(check_eptp(0x1234'5016, all, 40) == eptp_error::walk_length);
    CHECK(check_eptp(0x1234'501e, all & ~(word{1} << 6), 40) == eptp_error::walk_length);
    CHECK(check_eptp(0x1234'5026, all & ~(word{1} << 7), 40) == eptp_error::walk_length);
    CHECK(check_eptp(0x1234'505e, all & ~(word{1} << 21), 40) == eptp_error::accessed_dirty);
    CHECK(check_eptp(0x1234'509e, all & ~(word{1} << 23), 40) == eptp_error::shadow_stack);
    CHECK(check_eptp(0x1234'511e, all, 40) == eptp_error::reserved_bits);
    CHECK(check_eptp(0x1234'581e, all, 40) == eptp_error::reserved_bits);
    CHECK(check_eptp(word{1} << 40 | 0x1e, all, 40) == eptp_error::reserved_bits);
    CHECK(check_eptp(word{1} << 40 | 0x1e, all, 41) == eptp_error::none);
}

TEST_CASE("a key identifier in CR3 is no part of the root")
{
    constexpr auto format = shadow<shadow_features{.physical_bits = 46, .key_id_bits = {45, 40}}>;
    const cr3_root r = root_of_cr3(0x500'0000'1018, format);
    CHECK(r);
    CHECK(r.root == 0x1000);
    CHECK(r.key_id == 5);
    CHECK(is_root(r.root, format));
}

TEST_CASE("PDPTEs are checked at a root of PAE, in memory of any sort")
{
    constexpr auto pae = shadow<shadow_features{.levels = 3}>;
    struct {
        bool load(std::uint64_t physical, std::uint64_t& entry)
        {
            entry = physical == 0x1028 ? 0x2003 : 0;
            return physical < 0x2000;
        }
        slot_change replace(std::uint64_t, std::uint64_t, std::uint64_t) { return slot_change::no_slot; }
    } handlers;
    CHECK(check_pdptes(pae, 0x1020, handlers).broken == rule::reserved_bits);
    CHECK(!check_pdptes(pae, 0x1000, handlers));
    CHECK(check_pdptes(pae, 0x1005, handlers).broken == rule::no_such_level);
    CHECK(check_pdptes(format_for(shadow_features{}), 0x1000, handlers).broken == rule::no_such_level);
}
