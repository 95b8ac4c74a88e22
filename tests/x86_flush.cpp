// SPDX-License-Identifier: BSL-1.0
// What the invalidation instructions take, with the manuals' numbers typed anew. Intel SDM volume 2, "INVPCID"; volume
// 3, "INVEPT", "INVVPID", "VPID and EPT Capabilities"; AMD APM volume 2, "TLB Control".
#include <ptebits/x86_flush.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/npt.hpp>
#include <ptebits/formats/shadow.hpp>
#include <string>
#include <vector>

using namespace ptebits;

namespace {

using word = std::uint64_t;

constexpr word last_address = 0xffff'ffff'ffff'ffff;
constexpr auto four = shadow<shadow_features{}>;
constexpr auto five = shadow<shadow_features{.levels = 5}>;
constexpr auto pae = shadow<shadow_features{.levels = 3}>;
constexpr auto two = shadow<shadow_features{.levels = 2}>;

constexpr flush_item item(word first, word last, unsigned page_shift = 12, bool upper = false)
{
    return {.first = first, .last = last, .page_shift = page_shift, .upper = upper};
}

// IA32_VMX_EPT_VPID_CAP: EPT's 4 levels, WB and A/D; INVEPT and its two types; INVVPID and its four.
constexpr word ept_capabilities = word{1} << 6 | word{1} << 14 | word{1} << 21;
constexpr word has_invept = word{1} << 20;
constexpr word invept_single = word{1} << 25;
constexpr word invept_all = word{1} << 26;
constexpr word has_invvpid = word{1} << 32;
constexpr word invvpid_address = word{1} << 40;
constexpr word invvpid_single = word{1} << 41;
constexpr word invvpid_all = word{1} << 42;
constexpr word invvpid_retaining = word{1} << 43;
constexpr word all_capabilities = ept_capabilities | has_invept | invept_single | invept_all | has_invvpid |
                                  invvpid_address | invvpid_single | invvpid_all | invvpid_retaining;

std::vector<word> listed(const flush_addresses& addresses)
{
    std::vector<word> all;
    for (const word address : addresses) all.push_back(address);
    CHECK(all.size() == addresses.count());
    CHECK(all.empty() == addresses.empty());
    return all;
}

bool canonical(word address, unsigned bits)
{
    const word above = address >> (bits - 1);
    return above == 0 || above == last_address >> (bits - 1);
}

/// Whether two addresses of the list follow each other with nothing canonical between the pages of 2^shift bytes.
bool follows(word before, word next, unsigned shift, unsigned bits)
{
    const word stride = word{1} << shift;
    if (next - before == stride) return true;
    const word hole_begin = word{1} << (bits - 1);
    return before + stride == hole_begin && next == ~(hole_begin - 1);  // over the hole
}

/// Checks a few from the beginning and from the end; all of short lists.
void check_addresses(const flush_addresses& a, const flush_item& of, unsigned shift, unsigned bits)
{
    word from = of.first;
    word to = of.last;
    const word hole_begin = word{1} << (bits - 1);
    const word hole_end = ~(hole_begin - 1);
    if (from >= hole_begin && from < hole_end) from = hole_end;
    if (to >= hole_begin && to < hole_end) to = hole_begin - 1;
    if (from > to) {
        REQUIRE(a.empty());
        return;
    }
    REQUIRE(!a.empty());
    if (shift >= bits) {
        REQUIRE(a.count() == 1);
        REQUIRE(a[0] == (from & ~word{0xfff}));
        return;
    }
    // In the range from 0 to the last offset, without the hole, in strides.
    const word offset_mask = (word{1} << bits) - 1;
    REQUIRE(a.count() == ((to & offset_mask) >> shift) - ((from & offset_mask) >> shift) + 1);
    REQUIRE(a.count() <= word{1} << 52);
    REQUIRE(from - a[0] < word{1} << shift);
    REQUIRE(to - a[a.count() - 1] < word{1} << shift);
    const word some = a.count() < 600 ? a.count() : 5;
    bool right = true;
    for (const word begin : {word{0}, a.count() - some}) {
        for (word n = begin; n < begin + some; ++n) {
            right = right && canonical(a[n], bits) && (a[n] & ((word{1} << shift) - 1)) == 0;
            right = right && (n == begin || follows(a[n - 1], a[n], shift, bits));
        }
    }
    REQUIRE(right);
}

template <class Type>
void is_refused(const flush_operands<Type>& o, flush_error why)
{
    CHECK(!o);
    CHECK(o.error == why);
    CHECK(o.descriptor == flush_descriptor{});
}

// Guest-physical addresses are refused.
template <class F>
constexpr bool takes(const F&)
{
    return detail::takes_linear_addresses<F>;
}
static_assert(takes(four) && takes(format_for(shadow_features{})));
static_assert(!takes(ept<ept_features{}>) && !takes(format_for(ept_features{})));
static_assert(!takes(npt<npt_features{}>) && !takes(format_for(npt_features{})));

// As constants.
static_assert(invlpg_addresses(item(0x1000, 0x3fff), four).count() == 3);
static_assert(invlpg_addresses(item(0x1000, 0x3fff), four)[2] == 0x3000);
static_assert(invpcid_for(invpcid_type::individual_address, four, 0xabc, 0x1000, {.pcide = true}).descriptor ==
              flush_descriptor{0xabc, 0x1000});
static_assert(invept_for(invept_type::single_context, 0x1234'505e, all_capabilities, 40).descriptor ==
              flush_descriptor{0x1234'505e, 0});
static_assert(invvpid_for(invvpid_type::single_context, four, all_capabilities, 7).descriptor ==
              flush_descriptor{7, 0});
static_assert(invlpga_for(four, 3, 0x5000).ecx == 3);
static_assert(choose_invept(item(0, 0xfff), all_capabilities).scope == flush_scope::context);
static_assert(static_cast<unsigned>(tlb_control::nothing) == 0 && static_cast<unsigned>(tlb_control::entire_tlb) == 1 &&
              static_cast<unsigned>(tlb_control::guest) == 3 &&
              static_cast<unsigned>(tlb_control::guest_no_globals) == 7);

}  // namespace

TEST_CASE("an address for each page of an item, at its stride, aligned down")
{
    using list = std::vector<word>;
    CHECK(listed(invlpg_addresses(item(0x5000, 0x5fff), four)) == list{0x5000});
    CHECK(listed(invlpg_addresses(item(0x5000, 0x7fff), four)) == list{0x5000, 0x6000, 0x7000});
    CHECK(listed(invlpg_addresses(item(0x5fff, 0x6000), four)) == list{0x5000, 0x6000});
    CHECK(listed(invlpg_addresses(item(0x40'0000, 0x7f'ffff, 21), four)) == list{0x40'0000, 0x60'0000});
    CHECK(listed(invlpg_addresses(item(0x4000'0000, 0x4000'0000, 30), four)) == list{0x4000'0000});
    CHECK(listed(invlpg_addresses(item(0xffff'ffff'ffff'e000, last_address), four)) ==
          list{0xffff'ffff'ffff'e000, 0xffff'ffff'ffff'f000});
    CHECK(listed(invlpg_addresses(item(0, 0xfff, 0), four)) == list{0});  // no page is smaller than 4 Kbytes
    CHECK(listed(invlpg_addresses(item(0x40'0000, 0xbf'ffff, 22), two)) == list{0x40'0000, 0x80'0000});
    CHECK(listed(flush_addresses{}).empty());
    CHECK(listed(invlpg_addresses(item(2, 1), four)).empty());
}

TEST_CASE("addresses go over the canonical hole, and never into it")
{
    using list = std::vector<word>;
    CHECK(listed(invlpg_addresses(item(0x7fff'ffff'e000, 0xffff'8000'0000'1fff), four)) ==
          list{0x7fff'ffff'e000, 0x7fff'ffff'f000, 0xffff'8000'0000'0000, 0xffff'8000'0000'1000});
    CHECK(listed(invlpg_addresses(item(0x00ff'ffff'ffff'f000, 0xff00'0000'0000'0fff), five)) ==
          list{0x00ff'ffff'ffff'f000, 0xff00'0000'0000'0000});
    CHECK(listed(invlpg_addresses(item(0x8000'0000'0000, 0xffff'7fff'ffff'ffff), four)).empty());
    CHECK(invlpg_addresses(item(0, last_address), four).count() == word{1} << 36);
    CHECK(invlpg_addresses(item(0, last_address), five).count() == word{1} << 45);
    CHECK(invlpg_addresses(item(0, last_address), pae).count() == 1 << 20);  // 32 bits of linear address
    CHECK(invlpg_addresses(item(0, last_address), two).count() == 1 << 20);
    CHECK(listed(invlpg_addresses(item(0xffff'f000, last_address), two)) == list{0xffff'f000});
    CHECK(invlpg_addresses(item(0x1'0000'0000, last_address), pae).empty());
}

TEST_CASE("addresses of all strides from and to all edges")
{
    const auto check = [](const auto& format, unsigned bits) {
        const word hole_begin = word{1} << (bits - 1);
        const word hole_end = ~(hole_begin - 1);
        const word edges[] = {0,
                              1,
                              0xfff,
                              0x1000,
                              0x12'3456'7890,
                              hole_begin - 0x1001,
                              hole_begin - 1,
                              hole_begin,
                              hole_begin + 1,
                              hole_end - 1,
                              hole_end,
                              hole_end + 0x1000,
                              last_address - 0x20'0000,
                              last_address - 0xfff,
                              last_address - 1,
                              last_address};
        for (unsigned page_shift = 0; page_shift <= 70; ++page_shift) {
            const unsigned shift = page_shift < 12 ? 12 : page_shift;
            for (const word first : edges) {
                for (const word last : edges) {
                    const flush_item i = item(first, last, page_shift);
                    check_addresses(invlpg_addresses(i, format), i, shift, bits);
                    check_addresses(invpcid_addresses(i, format), i, shift, bits);
                    check_addresses(invvpid_addresses(i, format), i, 12, bits);
                    check_addresses(invlpga_addresses(i, format), i, 12, bits);
                    const flush_item with_tables = item(first, last, page_shift, true);
                    const unsigned lowest_tables = shift < 21 ? shift : 21;
                    check_addresses(invlpg_addresses(with_tables, format), with_tables, lowest_tables, bits);
                    check_addresses(invlpg_addresses(with_tables, format, {.tce = false}), with_tables, shift, bits);
                    check_addresses(invpcid_addresses(with_tables, format), with_tables, lowest_tables, bits);
                    check_addresses(invvpid_addresses(with_tables, format), with_tables, 12, bits);
                }
            }
        }
    };
    check(four, 48);
    check(format_for(five->features()), 57);
}

TEST_CASE("removed tables: an address in each of the lowest level, but of INVLPG without TCE")
{
    const flush_item tables_only = item(0x4000'0000, 0x7fff'ffff, 64, true);  // 1 Gbyte
    CHECK(listed(invlpg_addresses(tables_only, four, {.tce = false})) == std::vector<word>{0x4000'0000});
    CHECK(invlpg_addresses(tables_only, four).count() == 512);
    CHECK(invpcid_addresses(tables_only, four).count() == 512);
    CHECK(invpcid_addresses(tables_only, four)[1] == 0x4020'0000);
    CHECK(invpcid_addresses(item(0, 0x7f'ffff, 64, true), two).count() == 2);  // 4-Mbyte tables
    CHECK(listed(invpcid_addresses(item(0x4000'0000, 0x7fff'ffff, 64), four)) == std::vector<word>{0x4000'0000});
}

TEST_CASE("other formats: addresses that have ones above, and formats that are wrong")
{
    const shape ones_above{dimensions{.levels = 3, .above = extension::ones}};
    const flush_addresses a{ones_above, {0, last_address}, 30};
    CHECK(a.count() == 512);
    CHECK(a[0] == 0xffff'ff80'0000'0000);
    CHECK(a[511] == 0xffff'ffff'c000'0000);
    const flush_addresses all{shape{dimensions{.levels = 6, .index_bits = {9, 9, 9, 9, 9, 7}}}, {0, last_address}, 12};
    CHECK(all.count() == word{1} << 52);
    CHECK(all[0] == 0);
    CHECK(all[all.count() - 1] == 0xffff'ffff'ffff'f000);
    const auto wrong = format_for(shadow_features{.levels = 6});
    CHECK(invlpg_addresses(item(0, 0xfff), wrong).empty());
    CHECK(choose_invlpg(item(0, 0xfff), wrong, {.global = false}).scope == flush_scope::context);
    CHECK(choose_invpcid(item(0, 0xfff), wrong, {.global = false}).scope == flush_scope::context);
    CHECK(choose_invvpid(item(0, 0xfff), wrong, all_capabilities).scope == flush_scope::context);
    CHECK(choose_invlpga(item(0, 0xfff), wrong).scope == flush_scope::everything);
    is_refused(invpcid_for(invpcid_type::individual_address, wrong), flush_error::address);
    const flush_list_of<> unused;
    CHECK(choose_invlpg(unused, wrong).scope == flush_scope::nothing);
}

TEST_CASE("INVPCID: PCID in bits 11:0, linear address in bits 127:64")
{
    const cr3_controls pcide{.pcide = true};
    for (const word pcid : {word{0}, word{1}, word{0xfff}}) {
        const auto one = invpcid_for(invpcid_type::individual_address, four, pcid, 0xffff'8000'0000'1000, pcide);
        CHECK(one);
        CHECK(one.number() == 0);
        CHECK(one.descriptor == flush_descriptor{pcid, 0xffff'8000'0000'1000});
        const auto context = invpcid_for(invpcid_type::single_context, four, pcid, 0x8000'0000'0000, pcide);
        CHECK(context);
        CHECK(context.number() == 1);
        CHECK(context.descriptor == flush_descriptor{pcid, 0});
    }
    const auto everything = invpcid_for(invpcid_type::all_contexts_and_globals, four);
    CHECK(everything);
    CHECK(everything.number() == 2);
    CHECK(everything.descriptor == flush_descriptor{});
    const auto all = invpcid_for(invpcid_type::all_contexts, four, 5, 5, pcide);
    CHECK(all);
    CHECK(all.number() == 3);
    CHECK(all.descriptor == flush_descriptor{});

    for (unsigned t = 0; t < 4; ++t) {
        for (unsigned bit = 12; bit < 64; ++bit) {
            is_refused(invpcid_for(static_cast<invpcid_type>(t), four, word{1} << bit, 0, pcide), flush_error::pcid);
        }
        const auto without = invpcid_for(static_cast<invpcid_type>(t), four, 1);
        CHECK(without.error == (t < 2 ? flush_error::pcid : flush_error::none));  // CR4.PCIDE = 0
        CHECK(invpcid_for(static_cast<invpcid_type>(t), four));
    }
    for (unsigned t = 4; t < 256; ++t) is_refused(invpcid_for(static_cast<invpcid_type>(t), four), flush_error::type);
}

TEST_CASE("addresses that are not canonical are refused, on both sides of the hole")
{
    const auto errors = [](word address, const auto& format) {
        const auto pcid = invpcid_for(invpcid_type::individual_address, format, 0, address);
        const auto vpid = invvpid_for(invvpid_type::individual_address, format, all_capabilities, 1, address);
        const invlpga_operands asid = invlpga_for(format, 1, address);
        CHECK(pcid.error == vpid.error);
        CHECK(pcid.error == asid.error);
        CHECK(static_cast<bool>(pcid) == (pcid.error == flush_error::none));
        CHECK(pcid.descriptor.high == (pcid ? address : 0));
        CHECK(vpid.descriptor.high == (vpid ? address : 0));
        CHECK(asid.rax == (asid ? address : 0));
        return pcid.error;
    };
    for (const word address : {word{0}, word{0x7fff'ffff'ffff}, word{0xffff'8000'0000'0000}, last_address}) {
        CHECK(errors(address, four) == flush_error::none);
        CHECK(errors(address, five) == flush_error::none);
    }
    for (const word address : {word{0x8000'0000'0000}, word{0xffff'7fff'ffff'ffff}}) {
        CHECK(errors(address, four) == flush_error::address);
        CHECK(errors(address, five) == flush_error::none);
    }
    for (const word address : {word{0x00ff'ffff'ffff'ffff}, word{0xff00'0000'0000'0000}}) {
        CHECK(errors(address, five) == flush_error::none);
    }
    for (const word address : {word{0x0100'0000'0000'0000}, word{0xfeff'ffff'ffff'ffff}, word{1} << 63}) {
        CHECK(errors(address, five) == flush_error::address);
    }
    // With other types the address does not count.
    CHECK(invpcid_for(invpcid_type::single_context, four, 0, word{1} << 63));
    CHECK(invvpid_for(invvpid_type::single_context, four, all_capabilities, 1, word{1} << 63));
}

TEST_CASE("INVEPT: the EPT pointer in bits 63:0, nothing above")
{
    const auto context = invept_for(invept_type::single_context, 0x1234'505e, all_capabilities, 40);
    CHECK(context);
    CHECK(context.number() == 1);
    CHECK(context.descriptor == flush_descriptor{0x1234'505e, 0});
    const auto all = invept_for(invept_type::all_contexts, 0xdead, all_capabilities, 40);
    CHECK(all);
    CHECK(all.number() == 2);
    CHECK(all.descriptor == flush_descriptor{});
    const word made = eptp_for(0x7000, ept<ept_features{.physical_bits = 40}>).eptp;
    CHECK(invept_for(invept_type::single_context, made, all_capabilities, 40).descriptor.low == 0x705e);

    // What VM entry would refuse: memory type, levels, reserved bits, width.
    for (const word eptp : {word{0}, word{0x105d}, word{0x1066}, word{0x115e}, word{1} << 40 | 0x105e}) {
        is_refused(invept_for(invept_type::single_context, eptp, all_capabilities, 40), flush_error::eptp);
    }
    for (unsigned t = 0; t < 256; ++t) {
        if (t == 1 || t == 2) continue;
        is_refused(invept_for(static_cast<invept_type>(t), 0x105e, last_address, 40), flush_error::type);
    }
    const auto error = [](invept_type type, word capabilities) {
        return invept_for(type, 0x105e, ept_capabilities | capabilities, 40).error;
    };
    CHECK(error(invept_type::single_context, has_invept | invept_single) == flush_error::none);
    CHECK(error(invept_type::single_context, has_invept | invept_all) == flush_error::type);
    CHECK(error(invept_type::single_context, invept_single) == flush_error::type);
    CHECK(error(invept_type::all_contexts, has_invept | invept_all) == flush_error::none);
    CHECK(error(invept_type::all_contexts, has_invept | invept_single) == flush_error::type);
    CHECK(error(invept_type::all_contexts, invept_all) == flush_error::type);
}

TEST_CASE("INVVPID: VPID in bits 15:0, linear address in bits 127:64; VPID 0 with all contexts only")
{
    for (const std::uint16_t vpid : {std::uint16_t{1}, std::uint16_t{0xffff}}) {
        const auto one = invvpid_for(invvpid_type::individual_address, four, all_capabilities, vpid, 0x1234'5000);
        CHECK(one);
        CHECK(one.number() == 0);
        CHECK(one.descriptor == flush_descriptor{vpid, 0x1234'5000});
        const auto context = invvpid_for(invvpid_type::single_context, four, all_capabilities, vpid, 0x1000);
        CHECK(context);
        CHECK(context.number() == 1);
        CHECK(context.descriptor == flush_descriptor{vpid, 0});
        const auto retaining = invvpid_for(invvpid_type::single_context_no_globals, four, all_capabilities, vpid);
        CHECK(retaining);
        CHECK(retaining.number() == 3);
        CHECK(retaining.descriptor == flush_descriptor{vpid, 0});
    }
    for (const std::uint16_t vpid : {std::uint16_t{0}, std::uint16_t{9}}) {
        const auto all = invvpid_for(invvpid_type::all_contexts, four, all_capabilities, vpid, word{1} << 63);
        CHECK(all);
        CHECK(all.number() == 2);
        CHECK(all.descriptor == flush_descriptor{});
    }
    for (const auto type :
         {invvpid_type::individual_address, invvpid_type::single_context, invvpid_type::single_context_no_globals}) {
        is_refused(invvpid_for(type, four, all_capabilities, 0, 0x1000), flush_error::vpid);
    }
    const word one_type[] = {invvpid_address, invvpid_single, invvpid_all, invvpid_retaining};
    for (unsigned t = 0; t < 4; ++t) {
        const auto type = static_cast<invvpid_type>(t);
        CHECK(invvpid_for(type, four, has_invvpid | one_type[t], 1));
        is_refused(invvpid_for(type, four, one_type[t], 1), flush_error::type);
        is_refused(invvpid_for(type, four, all_capabilities & ~one_type[t], 1), flush_error::type);
    }
    for (unsigned t = 4; t < 256; ++t) {
        is_refused(invvpid_for(static_cast<invvpid_type>(t), four, last_address, 1), flush_error::type);
    }
}

TEST_CASE("INVLPGA: linear address and ASID, of which 0 is the host's")
{
    for (const std::uint32_t asid : {0U, 1U, 0xffff'ffffU}) {
        const invlpga_operands o = invlpga_for(four, asid, 0xffff'ffff'ffff'f000);
        CHECK(o);
        CHECK(o.rax == 0xffff'ffff'ffff'f000);
        CHECK(o.ecx == asid);
    }
    CHECK(invlpga_for(two, 1, 0x1'0000'0000).error == flush_error::address);
    CHECK(invlpga_for(two, 1, 0x1'0000'0000).ecx == 0);
}

TEST_CASE("what to do about a list, by what it says is due")
{
    flush_list_of<2, 1> list;
    const auto scopes = [&](flush_scope invlpg, flush_scope invpcid, flush_scope invept, flush_scope invvpid,
                            flush_scope npt, flush_scope invlpga) {
        const flush_controls c{.global = false, .flush_by_asid = true};
        CHECK(choose_invlpg(list, four, c).scope == invlpg);
        CHECK(choose_invpcid(list, four, c).scope == invpcid);
        CHECK(choose_invept(list, all_capabilities).scope == invept);
        CHECK(choose_invvpid(list, four, all_capabilities, c).scope == invvpid);
        CHECK(choose_npt(list, c).scope == npt);
        CHECK(choose_invlpga(list, four, c).scope == invlpga);
    };
    const auto all_alike = [&](flush_scope s) { scopes(s, s, s, s, s, s); };
    using enum flush_scope;
    CHECK(list.due() == flush_due::not_recorded);
    all_alike(nothing);
    list.record();
    CHECK(list.due() == flush_due::nothing);
    all_alike(nothing);
    list.add(item(0x1000, 0x2fff));
    list.add(item(0x8000, 0x8fff));
    scopes(addresses, addresses, context, addresses, context, addresses);
    CHECK(choose_invlpg(list, four).addresses == 3);
    CHECK(choose_invpcid(list, four, {.global = false}).addresses == 3);
    CHECK(choose_invvpid(list, four, all_capabilities).addresses == 3);
    CHECK(choose_invlpga(list, four).addresses == 3);
    list.add(item(0x10'0000, 0x10'0fff));  // no room
    CHECK(list.due() == flush_due::everything);
    all_alike(context);
    list.clear();
    all_alike(nothing);
}

TEST_CASE("more addresses than the threshold, over all items: the whole context")
{
    flush_list_of<4, 1> list;
    list.add(item(0x1000, 0x2fff));
    list.add(item(0x8000, 0x8fff));
    list.add(item(0xffff'8000'0000'0000, 0xffff'8000'0000'1fff));
    for (const word threshold : {word{0}, word{1}, word{4}, word{5}, word{6}, last_address}) {
        const bool fits = threshold >= 5;
        const auto choice = choose_invpcid(list, four, {.threshold = threshold, .global = false});
        CHECK(choice.scope == (fits ? flush_scope::addresses : flush_scope::context));
        CHECK(choice.type == (fits ? invpcid_type::individual_address : invpcid_type::single_context));
        CHECK(choice.addresses == (fits ? 5 : 0));
    }
    // As many as there can be, more than once.
    flush_list_of<4, 1> much;
    for (unsigned n = 0; n < 4; ++n) much.add({0, last_address, 12, false, n + 1});
    CHECK(much.item_count() == 4);
    CHECK(choose_invlpg(much, five).scope == flush_scope::everything);
    CHECK(choose_invlpg(much, five, {.threshold = last_address}).addresses == word{1} << 47);
    const flush_item thirty_two = item(0, 0x1'ffff);
    const flush_item thirty_three = item(0, 0x2'0000);
    CHECK(choose_invlpg(thirty_two, four) ==
          flush_choice<invpcid_type>{flush_scope::addresses, invpcid_type::individual_address, 32});
    CHECK(choose_invlpg(thirty_three, four, {.global = false}) ==
          flush_choice<invpcid_type>{flush_scope::context, invpcid_type::single_context, 0});
    // What no table translates needs no flush.
    CHECK(choose_invlpg(item(0x8000'0000'0000, 0x8000'0000'0fff), four).scope == flush_scope::nothing);
}

TEST_CASE("global translations: not by INVPCID of an address or a context")
{
    const flush_item page = item(0x1000, 0x1fff);
    const flush_item large = item(0, 0x1fff'ffff);
    const flush_item table = item(0, 0x1f'ffff, 64, true);
    const auto all = flush_choice<invpcid_type>{flush_scope::everything, invpcid_type::all_contexts_and_globals, 0};
    CHECK(choose_invpcid(page, four) == all);
    CHECK(choose_invpcid(page, four, {.global = false}).type == invpcid_type::individual_address);
    CHECK(choose_invlpg(page, four).scope == flush_scope::addresses);  // takes them
    CHECK(choose_invlpg(large, four) == all);
    CHECK(choose_invlpg(large, four, {.global = false}).type == invpcid_type::single_context);
    // Other PCIDs may have cached what refers to a table of global translations.
    CHECK(choose_invlpg(table, four) == all);
    CHECK(choose_invlpg(table, four, {.pcide = false}).scope == flush_scope::addresses);
    CHECK(choose_invlpg(table, four, {.global = false}).scope == flush_scope::addresses);
    // INVVPID of an address takes them.
    CHECK(choose_invvpid(page, four, all_capabilities).type == invvpid_type::individual_address);
    CHECK(choose_invvpid(large, four, all_capabilities).type == invvpid_type::single_context);
    CHECK(choose_invvpid(large, four, all_capabilities, {.global = false}).type ==
          invvpid_type::single_context_no_globals);
}

TEST_CASE("what the CPU lacks is not chosen")
{
    const flush_item page = item(0x1000, 0x1fff);
    using vpid_choice = flush_choice<invvpid_type>;
    const auto by = [&](word types, bool global) {
        return choose_invvpid(page, four, has_invvpid | types, {.global = global});
    };
    for (const bool global : {false, true}) {
        CHECK(by(invvpid_address, global) == vpid_choice{flush_scope::addresses, invvpid_type::individual_address, 1});
        CHECK(by(invvpid_single, global) == vpid_choice{flush_scope::context, invvpid_type::single_context, 0});
        CHECK(by(invvpid_all, global) == vpid_choice{flush_scope::everything, invvpid_type::all_contexts, 0});
        CHECK(by(0, global) == vpid_choice{flush_scope::everything, invvpid_type::all_contexts, 0});
    }
    CHECK(by(invvpid_single | invvpid_retaining, false).type == invvpid_type::single_context_no_globals);
    CHECK(by(invvpid_single | invvpid_retaining, true).type == invvpid_type::single_context);
    CHECK(by(invvpid_retaining, true).type == invvpid_type::all_contexts);

    using ept_choice = flush_choice<invept_type>;
    CHECK(choose_invept(page, has_invept | invept_single | invept_all) ==
          ept_choice{flush_scope::context, invept_type::single_context, 0});
    CHECK(choose_invept(page, has_invept | invept_all) ==
          ept_choice{flush_scope::everything, invept_type::all_contexts, 0});
}

TEST_CASE("AMD's guests: TLB_CONTROL, which is all that flushes NPT")
{
    const flush_item page = item(0x1000, 0x1fff);
    const flush_item large = item(0, 0x1fff'ffff);
    const flush_item linked = item(0, 0x1fff'ffff, 12, true);
    using choice = flush_choice<tlb_control>;
    for (const flush_item& i : {page, large, linked}) {
        CHECK(choose_npt(i) == choice{flush_scope::everything, tlb_control::entire_tlb, 0});
        for (const bool global : {false, true}) {  // the guest's pages may be global
            CHECK(choose_npt(i, {.global = global, .flush_by_asid = true}) ==
                  choice{flush_scope::context, tlb_control::guest, 0});
        }
    }
    CHECK(choose_invlpga(page, four) == choice{flush_scope::addresses, tlb_control::nothing, 1});
    CHECK(choose_invlpga(large, four) == choice{flush_scope::everything, tlb_control::entire_tlb, 0});
    const auto by_asid = [](const auto& what, bool global) {
        return choose_invlpga(what, four, {.global = global, .flush_by_asid = true}).type;
    };
    CHECK(by_asid(large, true) == tlb_control::guest);
    CHECK(by_asid(large, false) == tlb_control::guest_no_globals);
    CHECK(by_asid(linked, false) == tlb_control::guest);
    flush_list_of<1, 1> full;
    full.add(page);
    full.add(large);
    full.add(item(0x8000'0000, 0x8000'0fff));
    CHECK(full.due() == flush_due::everything);
    CHECK(by_asid(full, false) == tlb_control::guest);  // it may have been tables
}

TEST_CASE("names")
{
    const auto named = [](auto value, const char* expected) { CHECK(name(value) == std::string(expected)); };
    named(flush_error::none, "no error");
    named(flush_error::type, "no such type");
    named(flush_error::address, "the address is not canonical");
    named(flush_error::pcid, "PCID");
    named(flush_error::vpid, "VPID 0");
    named(flush_error::eptp, "EPT pointer");
    named(static_cast<flush_error>(6), "unknown");
    named(invpcid_type::individual_address, "individual address");
    named(invpcid_type::single_context, "single context");
    named(invpcid_type::all_contexts_and_globals, "all contexts and globals");
    named(invpcid_type::all_contexts, "all contexts");
    named(static_cast<invpcid_type>(4), "unknown");
    named(invept_type{}, "unknown");
    named(invept_type::single_context, "single context");
    named(invept_type::all_contexts, "all contexts");
    named(static_cast<invept_type>(3), "unknown");
    named(invvpid_type::individual_address, "individual address");
    named(invvpid_type::single_context, "single context");
    named(invvpid_type::all_contexts, "all contexts");
    named(invvpid_type::single_context_no_globals, "single context without globals");
    named(static_cast<invvpid_type>(4), "unknown");
    named(tlb_control::nothing, "nothing");
    named(tlb_control::entire_tlb, "entire TLB");
    named(static_cast<tlb_control>(2), "reserved");
    named(tlb_control::guest, "this guest");
    named(static_cast<tlb_control>(6), "reserved");
    named(tlb_control::guest_no_globals, "this guest without globals");
    named(static_cast<tlb_control>(8), "unknown");
    named(flush_scope::nothing, "nothing");
    named(flush_scope::addresses, "addresses");
    named(flush_scope::context, "context");
    named(flush_scope::everything, "everything");
    named(static_cast<flush_scope>(4), "unknown");
}
