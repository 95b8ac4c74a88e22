// SPDX-License-Identifier: BSL-1.0
// RISC-V's formats by all operations of the library. Expectations are the manual's: RISC-V ISA manual, volume II. What
// was recorded on emulators is replayed beside this, by tests/replay/riscv.hpp.
#include "leaf_model.hpp"

#include <ptebits/ptebits.hpp>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "manual.hpp"
#include "walking.hpp"

using namespace ptebits;
using does = riscv_operation;
using fields = riscv_fields;

constexpr auto host = riscv<riscv_features{.svpbmt = true}>;

static_assert(well_formed(host) && well_formed(riscv<riscv_features{.levels = 5, .svnapot = true}>));
static_assert(host->accessed == field_of(0x40) && host->dirty == field_of(0x80) && available(host, 0x300));
static_assert(encode(kind::leaf, 1, 0x8000'0000, {}, host, host->accessed | host->dirty).entry == 0x2000'00df);

namespace {

using word = std::uint64_t;

constexpr riscv_features everything{.svnapot = true, .svpbmt = true, .svadu = true};
constexpr auto svadu = riscv<everything>;

constexpr riscv_access user_load{.what = does::load, .user = true};
constexpr riscv_access user_store{.what = does::store, .user = true};
constexpr riscv_access user_fetch{.what = does::fetch, .user = true};

// ---- the manual's figures

constexpr manual::letter<fields> letters[] = {
    {'V', role::fixed, &fields::valid, every},
    {'t', role::fixed, &fields::rights},
    {'R', role::read, &fields::read},
    {'W', role::write, &fields::write},
    {'X', role::execute, &fields::execute},
    {'U', role::user, &fields::user},
    {'G', role::attribute, &fields::global},
    {'A', role::accessed},
    {'D', role::dirty},
    {'a', role::address, nullptr, {}, false, 2},
    {'1', role::fixed, nullptr, runs},
    {'z', role::fixed},
    {'M', role::memory_type, &fields::memory_type},
    {'N', role::fixed, &fields::run, runs},
    {'.', role::software},
    {'w', role::written},
    {'0', role::reserved},
};

// clang-format off
constexpr manual::drawn sv57[] = {
    {"2345", kind::table, "0000 0000 00aa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aa.. 00G0 tttV"},
    {"5",    kind::leaf,  "0MM0 0000 00aa aaaa aa00 0000 0000 0000 0000 0000 0000 0000 0000 00.. DAGU XWRV"},
    {"4",    kind::leaf,  "0MM0 0000 00aa aaaa aaaa aaaa aaa0 0000 0000 0000 0000 0000 0000 00.. DAGU XWRV"},
    {"3",    kind::leaf,  "0MM0 0000 00aa aaaa aaaa aaaa aaaa aaaa aaaa 0000 0000 0000 0000 00.. DAGU XWRV"},
    {"2",    kind::leaf,  "0MM0 0000 00aa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa a000 0000 00.. DAGU XWRV"},
    {"1",    kind::leaf,  "0MM0 0000 00aa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aa.. DAGU XWRV"},
    {"1",    kind::run,   "NMM0 0000 00aa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aa1z zz.. DAGU XWRV"},
};
constexpr manual::drawn sv32[] = {
    {"2", kind::table, "aaaa aaaa aaaa aaaa aaaa aa.. 00G0 tttV"},
    {"2", kind::leaf,  "aaaa aaaa aaaa 0000 0000 00.. DAGU XWRV"},
    {"1", kind::leaf,  "aaaa aaaa aaaa aaaa aaaa aa.. DAGU XWRV"},
};
constexpr manual::drawn sv57_more[] = {
    {"2345", kind::table, "000. .000 00aa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aa.. 00G0 tttV"},
    {"5",    kind::leaf,  "0MM. .000 00aa aaaa aa00 0000 0000 0000 0000 0000 0000 0000 0000 00.. DAGU XWRV"},
    {"4",    kind::leaf,  "0MM. .000 00aa aaaa aaaa aaaa aaa0 0000 0000 0000 0000 0000 0000 00.. DAGU XWRV"},
    {"3",    kind::leaf,  "0MM. .000 00aa aaaa aaaa aaaa aaaa aaaa aaaa 0000 0000 0000 0000 00.. DAGU XWRV"},
    {"2",    kind::leaf,  "0MM. .000 00aa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa a000 0000 00.. DAGU XWRV"},
    {"1",    kind::leaf,  "0MM. .000 00aa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aa.. DAGU XWRV"},
    {"1",    kind::run,   "NMM. .000 00aa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aa1z zz.. DAGU XWRV"},
};
constexpr manual::drawn sv57x4[] = {
    {"2345", kind::table, "0000 0000 00aa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aa.. 00w0 tttV"},
    {"5",    kind::leaf,  "0MM0 0000 00aa aaaa aa00 0000 0000 0000 0000 0000 0000 0000 0000 00.. DAwU XWRV"},
    {"4",    kind::leaf,  "0MM0 0000 00aa aaaa aaaa aaaa aaa0 0000 0000 0000 0000 0000 0000 00.. DAwU XWRV"},
    {"3",    kind::leaf,  "0MM0 0000 00aa aaaa aaaa aaaa aaaa aaaa aaaa 0000 0000 0000 0000 00.. DAwU XWRV"},
    {"2",    kind::leaf,  "0MM0 0000 00aa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa a000 0000 00.. DAwU XWRV"},
    {"1",    kind::leaf,  "0MM0 0000 00aa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aa.. DAwU XWRV"},
    {"1",    kind::run,   "NMM0 0000 00aa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aa1z zz.. DAwU XWRV"},
};
constexpr manual::drawn sv32x4[] = {
    {"2", kind::table, "aaaa aaaa aaaa aaaa aaaa aa.. 00w0 tttV"},
    {"2", kind::leaf,  "aaaa aaaa aaaa 0000 0000 00.. DAwU XWRV"},
    {"1", kind::leaf,  "aaaa aaaa aaaa aaaa aaaa aa.. DAwU XWRV"},
};
constexpr manual::setting<riscv_features, 7> rv64_settings[] = {
    {"Sv57, Svnapot, Svpbmt", {.levels = 5, .svnapot = true, .svpbmt = true}, sv57},
    {"Sv48, Svpbmt", {.levels = 4, .svpbmt = true}, sv57, {
    {"5", kind::table, ""},
    {"5", kind::leaf, ""},
    {"1", kind::run, ""}}},
    {"Sv57, Svnapot, Svpbmt, Svrsw60t59b", {.levels = 5, .svnapot = true, .svpbmt = true, .svrsw60t59b = true}, sv57_more},
    {"Sv39", {}, sv57, {
    {"45", kind::table, ""},
    {"45", kind::leaf, ""},
    {"3",  kind::leaf, "0000 0000 00aa aaaa aaaa aaaa aaaa aaaa aaaa 0000 0000 0000 0000 00.. DAGU XWRV"},
    {"2",  kind::leaf, "0000 0000 00aa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa a000 0000 00.. DAGU XWRV"},
    {"1",  kind::leaf, "0000 0000 00aa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aa.. DAGU XWRV"},
    {"1",  kind::run, ""}}},
};
constexpr manual::setting<riscv_features, 3> rv32_settings[] = {
    {"Sv32", {.levels = 2}, sv32},
};
constexpr manual::setting<gstage_features, 7> gstage_settings[] = {
    {"Sv57x4, Svnapot, Svpbmt", {.levels = 5, .svnapot = true, .svpbmt = true}, sv57x4},
    {"Sv48x4, Svpbmt", {.levels = 4, .svpbmt = true}, sv57x4, {
    {"5", kind::table, ""},
    {"5", kind::leaf, ""},
    {"1", kind::run, ""}}},
};
constexpr manual::setting<gstage_features, 3> gstage_rv32_settings[] = {
    {"Sv32x4", {.levels = 2}, sv32x4},
};
// clang-format on

template <const auto& Settings>
void check_layouts()
{
    const auto check = [](auto index) {
        constexpr auto& s = Settings[index];
        CAPTURE(s.words);
        const auto found = format_for(s.features);
        REQUIRE(found->wrong().what == defect::none);
        CHECK(manual::difference(found, s, letters) == "");
        constexpr constant_format<typename decltype(s.features)::description, s.features> constants;
        CHECK(manual::difference(constants, s, letters) == "");
        CHECK(manual::difference_of(found, constants) == "");
    };
    [&]<std::size_t... Index>(std::index_sequence<Index...>) {
        (check(std::integral_constant<std::size_t, Index>{}), ...);
    }(std::make_index_sequence<std::size(Settings)>{});
}

/// An entry in one line.
template <class Format>
std::string words(word entry, unsigned level, const Format& format)
{
    char line[160];
    describe(entry, level, format, line);
    return line;
}

/// Calls with a format of constants and with the same at run time.
template <riscv_features Features, class Call>
void with_both(Call call)
{
    call(riscv<Features>);
    call(format_for(Features));
}

}  // namespace

TEST_CASE("entries of Sv32 to Sv57 as the manual's figures show them")
{
    check_layouts<rv64_settings>();
    check_layouts<rv32_settings>();
}

TEST_CASE("entries of the x4 forms, in which G is to be 0")
{
    check_layouts<gstage_settings>();
    check_layouts<gstage_rv32_settings>();
}

TEST_CASE("features that no hart has")
{
    for (const unsigned levels : {0U, 1U, 6U}) {
        CHECK(format_for(riscv_features{.levels = levels})->wrong().what == defect::levels);
    }
    CHECK(format_for(riscv_features{.physical_bits = 55})->wrong().what == defect::physical_bits);
    CHECK(format_for(riscv_features{.physical_bits = 57})->wrong().what == defect::physical_bits);
    CHECK(format_for(riscv_features{.levels = 2, .svnapot = true})->wrong().what == defect::contradiction);
    CHECK(format_for(riscv_features{.levels = 2, .svpbmt = true})->wrong().what == defect::contradiction);
}

TEST_CASE("entries as KVM makes them")
{
    with_both<everything>([](const auto& f) {
        const field_values used = f->accessed | f->dirty;
        CHECK(encode(kind::leaf, 1, 0x8765'4000, {}, f, used).entry == 0x21d9'50df);
        CHECK(encode(kind::leaf, 1, 0x8765'4000, {.write = false}, f, used).entry == 0x21d9'50db);
        // A device: no execution, PBMT is IO.
        const permissions data{.execute = false, .user_execute = false};
        CHECK(encode(kind::leaf, 1, 0x1000'0000, data, f, used | f->memory_type(2)).entry == 0x4000'0000'0400'00d7);
        CHECK(encode(kind::leaf, 2, 0x8000'0000, {}, f, used).entry == 0x2000'00df);
        CHECK(encode(kind::leaf, 3, 0x8000'0000, {}, f, used).entry == 0x2000'00df);
        CHECK(encode(kind::table, 2, 0x8765'4000, {}, f).entry == 0x21d9'5001);
        CHECK(address_of(0x21d9'5001, 2, f) == 0x8765'4000);
    });
    CHECK(host->address(1, 0x8765'4000) == 0x21d9'5000);
    CHECK((host->address(2, 0x8000'0000) | host->valid | host->read | host->memory_type(1)) == 0x2000'0000'2000'0003);
}

TEST_CASE("what cannot be made is not made")
{
    with_both<everything>([](const auto& f) {
        const auto error = [&](kind k, unsigned level, word physical, permissions p, const field_values& also = {}) {
            return encode(k, level, physical, p, f, also).error;
        };
        CHECK(error(kind::leaf, 1, 0, {.read = false}) == encode_error::permission_not_offered);  // W without R
        CHECK(error(kind::leaf, 1, 0, no_permissions) == encode_error::permission_not_offered);
        CHECK(error(kind::leaf, 2, 0, no_permissions) == encode_error::permission_not_offered);  // it would be a table
        CHECK(error(kind::table, 2, 0, {.write = false}) == encode_error::permission_not_offered);
        CHECK(error(kind::leaf, 1, 0x800, {}) == encode_error::address_misaligned);
        CHECK(error(kind::leaf, 2, 0x1000, {}) == encode_error::address_misaligned);
        CHECK(error(kind::run, 1, 0x1000, {}) == encode_error::address_misaligned);
        CHECK(error(kind::leaf, 1, word{1} << 56, {}) == encode_error::address_too_wide);
        CHECK(error(kind::leaf, 1, word{1} << 55, {}) == encode_error::none);
        CHECK(error(kind::run, 2, 0, {}) == encode_error::no_such_entry);
        CHECK(error(kind::leaf, 4, 0, {}) == encode_error::no_such_entry);
        CHECK(error(kind::leaf, 1, 0, {}, f->memory_type(3)) == encode_error::value_not_legal);
        CHECK(error(kind::table, 2, 0, {}, f->dirty) == encode_error::no_such_field);
        CHECK(encode(kind::run, 1, 0x8001'0000, {}, f).entry == 0x8000'0000'2000'601f);
    });
    // Two levels: PPN has 22 bits.
    with_both<riscv_features{.levels = 2}>([](const auto& f) {
        CHECK(encode(kind::leaf, 1, 0x3'ffff'f000, {}, f).entry == 0xffff'fc1f);
        CHECK(encode(kind::leaf, 1, 0x4'0000'0000, {}, f).error == encode_error::address_too_wide);
        CHECK(encode(kind::leaf, 2, 0x40'0000, {}, f).entry == 0x10'001f);
    });
}

TEST_CASE("each rule of the manual, broken")
{
    const auto plain = format_for(riscv_features{});
    with_both<everything>([&](const auto& f) {
        const word n = word{1} << 63;
        CHECK(diagnose(0x2000'0005, 1, f) == finding{rule::write_without_read, 0x6});
        CHECK(diagnose(0x2000'000d, 1, f) == finding{rule::write_without_read, 0x6});
        CHECK(diagnose(0x2000'0001, 1, f) == finding{rule::no_such_kind, 0xe});  // a table below the lowest level
        CHECK(diagnose(n | 0x2000'2001, 1, f) == finding{rule::no_such_kind, 0xe});
        for (const word bit : {0x10U, 0x40U, 0x80U})
            CHECK(diagnose(0x2000'0001 | bit, 2, f) == finding{rule::reserved_bits, bit});
        for (unsigned index = 54; index < 64; ++index) {
            const word bit = word{1} << index;
            const bool is_type = index == 61 || index == 62;
            CAPTURE(index);
            CHECK(diagnose(0x2000'0001 | bit, 2, f) == finding{rule::reserved_bits, bit});
            CHECK(diagnose(0x2000'000f | bit, 2, f) == (is_type ? finding{} : finding{rule::reserved_bits, bit}));
            CHECK(diagnose(0x2000'000f | bit, 1, plain) == finding{rule::reserved_bits, bit});
        }
        CHECK(diagnose(0x6000'0000'2000'000f, 1, f) == finding{rule::memory_type, 0x6000'0000'0000'0000});
        CHECK(diagnose(0x2000'040f, 2, f) == finding{rule::reserved_bits, 0x400});
        // N counts with 1000 in PPN's lowest bits only.
        for (word low = 0; low < 16; ++low) {
            const word entry = n | 0x2000'000f | low << 10;
            CAPTURE(low);
            CHECK(kind_of(entry, 1, f) == (low == 8 ? kind::run : kind::leaf));
            CHECK(diagnose(entry, 1, f) == (low == 8 ? finding{} : finding{rule::reserved_bits, n}));
            CHECK(diagnose(entry, 1, plain) == finding{rule::reserved_bits, n});
        }
        CHECK(legal(0x2000'0321, 2, f));  // G and RSW of a table
        CHECK(legal(~word{1}, 1, f));     // V is clear
    });
}

TEST_CASE("what V, R, W, X and U allow, by privilege, SUM and MXR")
{
    with_both<everything>([](const auto& f) {
        for (unsigned n = 0; n < 256; ++n) {
            const unsigned bits = n & 31;
            const bool readable = (bits & 2) != 0;
            const bool writable = (bits & 4) != 0;
            const bool executable = (bits & 8) != 0;
            const bool users = (bits & 16) != 0;
            const riscv_controls hart{.sum = (n & 32) != 0, .mxr = (n & 64) != 0};
            const bool user = (n & 128) != 0;
            for (const does what : {does::load, does::store, does::fetch}) {
                CAPTURE(n);
                CAPTURE(static_cast<unsigned>(what));
                walking::arena memory(0x1000, 3);
                memory.put<word>(0x1000, 0x801);
                memory.put<word>(0x2000, 0xc01);
                memory.put<word>(0x3000, 0x400 | bits);
                const walk_result r = walk(f, 0x1000, 0x123, {what, user}, hart, memory);
                const bool valid = (bits & 1) != 0 && (readable || !writable) && (readable || executable);
                const bool mode = user ? users : !users || (hart.sum && what != does::fetch);
                const bool right = what == does::load    ? readable || (hart.mxr && executable)
                                   : what == does::store ? writable
                                                         : executable;
                CHECK(bool{r} == (valid && mode && right));
                CHECK((r.fault == fault_kind::protection) == (valid && !(mode && right)));
                CHECK((r.fault == fault_kind::not_present) == ((bits & 1) == 0));
                const word flags = !r ? 0 : what == does::store ? 0xc0 : 0x40;
                CHECK(memory.get<word>(0x3000) == (0x400 | bits | flags));
                CHECK(memory.get<word>(0x1000) == 0x801);
                CHECK(memory.get<word>(0x2000) == 0xc01);
            }
        }
    });
}

TEST_CASE("addresses that walks reach, and those that they refuse")
{
    // From the top of each half; where memory ends is not the format's business.
    const auto check = [](const auto& f, unsigned bits) {
        for (const word va : {ones(bits - 2, 12), ~ones(bits - 2, 0) | 0x5000}) {
            walking::arena memory(0x1000, 6);
            const auto c = walking::build_chain(memory, f, 1, va, word{1} << 55);
            REQUIRE(c.slots[1] != 0);
            const walk_result r = walk(f, 0x1000, va | 0x678, user_load, {}, memory);
            CHECK(r);
            CHECK(r.address == (word{1} << 55 | 0x678));
            CHECK(r.page_shift == 12);
            CHECK(walk(f, 0x1000, va ^ word{1} << bits, user_load, {}, memory).fault == fault_kind::not_canonical);
            CHECK(walk(f, 0x1000, va ^ word{1} << 63, user_load, {}, memory).fault == fault_kind::not_canonical);
        }
    };
    check(svadu, 39);
    check(riscv<riscv_features{.levels = 4, .svadu = true}>, 48);
    check(riscv<riscv_features{.levels = 5, .svadu = true}>, 57);
    check(format_for(riscv_features{.levels = 5, .svadu = true}), 57);

    with_both<everything>([](const auto& f) {
        walking::arena memory(0x1000, 3);
        memory.put<word>(0x1000, 0x801);
        memory.put<word>(0x2000, 0xc01);
        // A run: any of its 16 entries leads to all of it. A and D are set where the walk came by.
        memory.put<word>(0x3000 + 5 * 8, 0xa000'0000'2000'601f);
        const walk_result r = walk(f, 0x1000, 0x5678, user_store, {}, memory);
        CHECK(r);
        CHECK(r.address == 0x8001'5678);
        CHECK(r.page_shift == 16);
        CHECK(r.memory_type() == 0x2000'0000'0000'0000);
        CHECK(memory.get<word>(0x3000 + 5 * 8) == 0xa000'0000'2000'60df);
        CHECK(walk(f, 0x1000, 0x6678, user_store, {}, memory).fault == fault_kind::not_present);
        // A table that no memory holds.
        memory.put<word>(0x2000, 0x1c01);
        CHECK(walk(f, 0x1000, 0x5678, user_fetch, {}, memory).fault == fault_kind::memory_absent);
    });
}

TEST_CASE("one comparison is enough for every entry that translates and has no memory type")
{
    constexpr detail::quick_test page = detail::quick_test_of(1, kind::leaf, svadu);
    constexpr detail::quick_test large_page = detail::quick_test_of(2, kind::leaf, svadu);
    constexpr detail::quick_test table = detail::quick_test_of(2, kind::table, svadu);
    for (word low = 0; low < 0x400; ++low) {
        CAPTURE(low);
        const word entry = 0x2000'0000 | low;
        const bool valid = (low & 1) != 0;
        const word rights = low >> 1 & 7;
        const bool translates = valid && rights != 0 && (rights & 3) != 2;  // some right, and not W without R
        CHECK(page.passes(entry) == translates);
        CHECK(large_page.passes(entry) == translates);
        CHECK(table.passes(entry) == (valid && rights == 0 && (low & 0xd0) == 0));
        for (const unsigned index : {54U, 55U, 56U, 57U, 58U, 59U, 60U, 63U}) {
            const word beside = word{1} << index;
            CHECK_FALSE(page.passes(entry | beside));
            CHECK_FALSE(large_page.passes(entry | beside));
            CHECK_FALSE(table.passes(entry | beside));
        }
    }
    CHECK(svadu->page_test().passes(0x2000'0003));
    CHECK(format_for(everything)->page_test().passes(0x2000'0003));
}

TEST_CASE("pages are aged, and found written, by hardware")
{
    with_both<everything>([](const auto& f) {
        walking::arena memory(0x1000, 3);
        const word slot_at = walking::build_chain(memory, f, 1, 0x7000, 0x8000'0000).slots[1];
        word& slot = *memory(slot_at, std::type_identity<word>{});
        CHECK_FALSE(age(slot, f));
        CHECK(walk(f, 0x1000, 0x7000, user_store, {}, memory));
        CHECK(slot == 0x2000'00df);
        CHECK(age(slot, f));
        CHECK_FALSE(age(slot, f));
        CHECK(harvest_dirty(slot, f));
        CHECK_FALSE(harvest_dirty(slot, f));
        CHECK(slot == 0x2000'001f);

        // In a run any entry may have them: software looks at all 16.
        std::vector<word> run(16, encode(kind::run, 1, 0x8001'0000, {}, f).entry);
        CHECK_FALSE(young_any(run, f));
        run[11] |= 0xc0;
        CHECK(young_any(run, f));
        CHECK(age_all(run, f));
        CHECK(run[11] == 0x8000'0000'2000'609f);
    });
}

TEST_CASE("pages are aged, and found written, by faults")
{
    with_both<riscv_features{}>([](const auto& f) {
        CHECK(f->accessed_by() == accessed_setter::fault);
        walking::arena memory(0x1000, 3);
        const word slot_at = walking::build_chain(memory, f, 1, 0x7000, 0x8000'0000).slots[1];
        word& slot = *memory(slot_at, std::type_identity<word>{});
        const auto fault = [&](const riscv_access& a) { return walk(f, 0x1000, 0x7000, a, {}, memory).fault; };
        CHECK(fault(user_load) == fault_kind::access_flag);
        CHECK(slot == 0x2000'001f);
        CHECK(mark_accessed(slot, f));  // the fault handler
        CHECK(fault(user_load) == fault_kind::none);
        CHECK(fault(user_fetch) == fault_kind::none);
        CHECK(fault(user_store) == fault_kind::access_flag);
        slot |= f->dirty.mask();
        CHECK(fault(user_store) == fault_kind::none);
        CHECK(slot == 0x2000'00df);
        CHECK(age(slot, f));
        CHECK(fault(user_load) == fault_kind::access_flag);
        CHECK(harvest_dirty(slot, f));
        CHECK(mark_accessed(slot, f));
        CHECK(fault(user_store) == fault_kind::access_flag);

        // KVM's log goes by W instead.
        slot = 0x2000'00df;
        CHECK(write_protect(slot, f));
        CHECK(slot == 0x2000'00db);
        CHECK(fault(user_store) == fault_kind::protection);
    });
}

TEST_CASE("a range is aged and harvested through its tables")
{
    with_both<everything>([](const auto& f) {
        walking::arena memory(0x1000, 3);
        walking::build_chain(memory, f, 1, 0x7000, 0x8000'0000);
        memory.put<word>(0x2008, 0x2008'00df);  // a page of 2 Mbytes behind them
        CHECK(walk(f, 0x1000, 0x7000, user_store, {}, memory));
        std::vector<word> young;
        const auto handed_out = [&](word physical) { return memory(physical, std::type_identity<word>{}); };
        const range_counts aged =
            age_range(f, 0x1000, {0, 0x3f'ffff}, handed_out, [&](word va, word) { young.push_back(va); });
        CHECK(young == std::vector<word>{0x7000, 0x20'0000});
        CHECK(aged.tables == 3);
        CHECK(aged.illegal == 0);
        CHECK(harvest_range(f, 0x1000, {0, 0x3f'ffff}, handed_out, [](word, word) {}).pages == 2);
        CHECK(harvest_range(f, 0x1000, {0, 0x3f'ffff}, handed_out, [](word, word) {}).pages == 0);
    });
}

TEST_CASE("a run is aged and harvested as one page, whichever of its entries has A or D")
{
    with_both<everything>([](const auto& f) {
        walking::arena memory(0x1000, 3);
        memory.put<word>(0x1000, 0x801);
        memory.put<word>(0x2000, 0xc01);
        const word entry = 0x8000'0000'2000'601f;
        for (unsigned i = 16; i < 32; ++i) memory.put<word>(0x3000 + i * 8, entry);
        memory.put<word>(0x3000 + 32 * 8, 0x2008'00df);  // a page behind it
        const auto slots = [&](word physical) { return memory(physical, std::type_identity<word>{}); };
        const auto put = [&](unsigned index, word bits) { memory.put<word>(0x3000 + index * 8, entry | bits); };
        struct reported {
            word address, bytes;
            bool operator==(const reported&) const = default;
        };
        std::vector<reported> pages;
        const auto report = [&](word address, word bytes) { pages.push_back({address, bytes}); };
        const auto aged = [&](inclusive_range range) {
            pages.clear();
            return age_range(f, 0x1000, range, slots, report).pages;
        };
        put(19, 0xc0);
        put(30, 0xc0);
        CHECK(aged({0, 0x3f'ffff}) == 2);
        CHECK(pages == std::vector<reported>{{0x1'0000, 0x1'0000}, {0x2'0000, 0x1000}});
        CHECK(memory.get<word>(0x3000 + 19 * 8) == (entry | 0x80));
        CHECK(memory.get<word>(0x3000 + 30 * 8) == (entry | 0x80));
        CHECK(aged({0, 0x3f'ffff}) == 0);
        // A range inside the run: what is set in an entry outside of it counts.
        put(30, 0xc0);
        CHECK(aged({0x1'2000, 0x1'2fff}) == 1);
        CHECK(pages == std::vector<reported>{{0x1'0000, 0x1'0000}});
        pages.clear();
        CHECK(harvest_range(f, 0x1000, {0x1'2000, 0x1'2fff}, slots, report).pages == 1);
        CHECK(pages == std::vector<reported>{{0x1'0000, 0x1'0000}});
        for (unsigned i = 16; i < 32; ++i) CHECK(memory.get<word>(0x3000 + i * 8) == entry);
        // A page among the entries of a run is one of its own.
        memory.put<word>(0x3000 + 20 * 8, 0x2000'505f);
        put(16, 0x40);
        CHECK(aged({0, 0x1'ffff}) == 2);
        CHECK(pages == std::vector<reported>{{0x1'0000, 0x1'0000}, {0x1'4000, 0x1000}});
    });
}

TEST_CASE("a run is one mapping, whose entries stand for 4 Kbytes each")
{
    with_both<everything>([](const auto& f) {
        walking::arena memory(0x1000, 3);
        memory.put<word>(0x1000, 0x801);
        memory.put<word>(0x2000, 0xc01);
        for (unsigned i = 16; i < 32; ++i) memory.put<word>(0x3000 + i * 8, 0x8000'0000'2000'601f);
        std::vector<mapping> found;
        const auto mappings = [&](inclusive_range range) {
            found.clear();
            for_each_mapping(f, 0x1000, range, memory, [&](const mapping& m) { found.push_back(m); });
            return found.size();
        };
        CHECK(mappings({}) == 1);
        CHECK(found[0].address == 0x1'0000);
        CHECK(found[0].physical == 0x8001'0000);
        CHECK(found[0].bytes == 0x1'0000);
        CHECK(found[0].page_shift == 16);
        memory.put<word>(0x3000 + 20 * 8, 0);
        CHECK(mappings({}) == 2);
        CHECK(found[1].address == 0x1'5000);
        CHECK(found[1].physical == 0x8001'5000);
        CHECK(found[1].bytes == 0xb000);
    });
}

TEST_CASE("which changes call for a fence")
{
    with_both<everything>([](const auto& f) {
        CHECK_FALSE(needs_flush(0, 0x2000'00df, f));
        CHECK(needs_flush(0x2000'00df, 0, f));
        CHECK(needs_flush(0x2000'00df, 0x2000'00db, f));        // W taken
        CHECK_FALSE(needs_flush(0x2000'00db, 0x2000'00df, f));  // and given
        CHECK_FALSE(needs_flush(0x2000'00df, 0x2000'009f, f));  // A cleared: a hint
        CHECK(needs_flush(0x2000'00df, 0x2000'005f, f));        // D cleared
        CHECK_FALSE(needs_flush(0x2000'001f, 0x2000'00df, f));
        CHECK(needs_flush(0x2000'00df, 0x2000'04df, f));                  // PPN
        CHECK(needs_flush(0x2000'00df, 0x2000'0000'2000'00df, f));        // PBMT
        CHECK(needs_flush(0x2000'20df, word{1} << 63 | 0x2000'20df, f));  // N
        CHECK(needs_flush(0x2000'00df, 0x2000'00ff, f));                  // G
        CHECK_FALSE(needs_flush(0x2000'00df, 0x2000'03df, f));            // RSW
        CHECK(needs_flush(0x2000'0001, 0x2000'00df, f, 2));
    });
}

TEST_CASE("a large page is split into pages that mean the same, and these are merged")
{
    with_both<everything>([](const auto& f) {
        const word large = 0x2000'0000'2008'037f;  // clean, global, NC
        std::vector<word> parts;
        for (unsigned i = 0; i < 512; ++i) parts.push_back(split(large, 2, i, f).entry);
        CHECK(parts[0] == 0x2000'0000'2008'037f);
        CHECK(parts[3] == 0x2000'0000'2008'0f7f);
        CHECK(parts[511] == 0x2000'0000'200f'ff7f);
        CHECK(merge(parts.data(), 0x1001, 2, f).entry == large);
        parts[17] |= f->dirty.mask();
        CHECK(merge(parts.data(), 0x1001, 2, f).entry == (large | f->dirty.mask()));
        parts[18] ^= f->write.mask();
        CHECK(merge(parts.data(), 0x1001, 2, f).error == split_error::entries_differ);
        CHECK(split(0x2000'00df, 3, 1, f).entry == 0x2008'00df);
        CHECK(split(0x2000'00df, 1, 0, f).error != split_error::none);

        // Live: the same address before and after, and no A in the entry for the table.
        walking::arena memory(0x1000, 4);
        const word slot_at = walking::build_chain(memory, f, 2, 0x20'0000, 0x8020'0000).slots[2];
        CHECK(walk(f, 0x1000, 0x20'3456, user_store, {}, memory).address == 0x8020'3456);
        word& slot = *memory(slot_at, std::type_identity<word>{});
        word* const table = memory(0x4000, std::type_identity<word>{});
        CHECK(split_live(slot, 2, table, 0x4000, f) == split_error::none);
        CHECK(slot == 0x1001);
        CHECK(table[3] == 0x2008'0cdf);
        const walk_result r = walk(f, 0x1000, 0x20'3456, user_store, {}, memory);
        CHECK(r.address == 0x8020'3456);
        CHECK(r.page_shift == 12);
    });
}

TEST_CASE("entries in words")
{
    with_both<everything>([](const auto& f) {
        CHECK(words(0x2000'00df, 1, f) == "4K leaf 0x8000'0000 RWX user A D PMA");
        CHECK(words(0x4000'0000'0400'00c7, 2, f) == "2M leaf 0x1000'0000 RW- A D IO");
        CHECK(words(0xa000'0000'2000'60cf, 1, f) == "64K run 0x8001'0000 RWX A D NC");
        CHECK(words(0x2000'0021, 3, f) == "L2->L1 table 0x8000'0000 RWX G");
        CHECK(words(0x2000'0005, 1, f) == "4K leaf 0x8000'0000 -W- PMA; write without read: 2");
        CHECK(words(0x2000'0081, 2, f) == "L1->L0 table 0x8000'0000 RWX; reserved bits set: 7");
        CHECK(words(0x2000'0000, 2, f) == "not present 0x2000'0000");
        CHECK(words(0, 2, f) == "empty");
    });
    char text[1000];
    describe_fields(0x2000'0000'2000'03cf, 1, svadu, text);
    CHECK(std::string_view(text) ==
          "4K leaf 0x8000'0000 RWX A D NC sw=8,9\n"
          "  V         0      1              4K page\n"
          "  R         1      1              read\n"
          "  W         2      1              write\n"
          "  X         3      1              execute\n"
          "  U         4      0              no user\n"
          "  G         5      0              attribute\n"
          "  A         6      1              accessed\n"
          "  D         7      1              dirty\n"
          "  RSW       9:8    3              ignored by the MMU\n"
          "  PPN       53:10  0x8'0000       address 0x8000'0000\n"
          "  PBMT      62:61  1              NC\n");
}

TEST_CASE("what does not translate in Sv39 is no page: rights that are reserved, a table without one")
{
    CHECK(leaf_model::wrong_translations_both_ways(host) == 0);
    CHECK(leaf_model::wrong_translations_both_ways(svadu) == 0);
    for (const word entry : {word{0xc5}, word{0xc1}, word{0x0040'0000'0000'00c7}}) {
        CAPTURE(entry);
        word slot = entry;
        CHECK_FALSE(age(slot, host));
        CHECK_FALSE(clear_dirty(slot, host));
        CHECK_FALSE(write_protect(slot, host));
        CHECK(slot == entry);
    }
    word slot = 0xc7;
    CHECK(age(slot, host));
    CHECK(slot == 0x87);
}
