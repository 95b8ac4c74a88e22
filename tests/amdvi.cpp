// SPDX-License-Identifier: BSL-1.0
// AMD-Vi's formats and the events of its faults: levels that are skipped, sizes coded in addresses, six levels.
// Expectations are the specification's. What was recorded on an emulator is replayed beside this, by
// tests/replay/iommu.hpp.
#include <algorithm>
#include <cstdint>
#include <iterator>
#include <ptebits/amdvi.hpp>
#include <ptebits/ptebits.hpp>
#include <vector>

#include "leaf_model.hpp"
#include "manual.hpp"
#include "walking.hpp"
#include "wider_walk.hpp"

using namespace ptebits;
using walking::word;
using wider::chain_root;
using wider::entry_chain;
using wider::one_walk;
using wider::walk_to;

namespace {

constexpr device_access reading{};
constexpr device_access writing{.what = operation::write};

constexpr auto six = amdvi_host<amdvi_host_features{.levels = 6}>;
constexpr auto tracked = amdvi_host<amdvi_host_features{.levels = 6, .accessed_bits = true, .dirty_bits = true}>;

/// The entry of a page whose size is none of the levels' own. Units: log2 of bytes.
word sized_entry(word physical, unsigned shift)
{
    const unsigned level = (shift - 12) / 9 + 1;
    const word smallest = encode(kind::run, level, physical, {}, six).entry;
    REQUIRE(smallest != 0);
    return smallest | ones(shift - 2, 12);
}

/// Six levels of tables of 4 Kbytes, from the root at 0x10'0000.
struct tables_of_six {
    walking::arena memory{0x10'0000, 8};

    static constexpr word root = 0x10'0000;
    static constexpr word table(unsigned n) { return root + word{0x1000} * n; }
    void put(unsigned n, word index, word entry) { memory.put(table(n) + 8 * index, entry); }
    walk_result walked(word address, const device_access& a = {}, const amdvi_host_paging::controls& by = {})
    {
        memory.given.clear();
        const walk_result r = walk(format_for(amdvi_host_features{.levels = 6}), root, address, a, by, memory);
        CHECK(walking::same_outcome(r, walk(six, root, address, a, by, memory)));
        walk_result batch;
        walk_batch(six, root, &address, 1, a, by, memory, &batch);
        CHECK(walking::same_outcome(r, batch));
        // No slot was asked for that is not on the way.
        for (const word given : memory.given) {
            bool on_the_way = false;
            for (unsigned n = 0; n < r.steps; ++n) on_the_way = on_the_way || r.path[n].slot_address == given;
            CHECK(on_the_way);
        }
        return r;
    }
};

// ---- the specification's figures

constexpr manual::letter<amdvi_host_fields> letters[] = {
    {'1', role::fixed, &amdvi_host_fields::present, every},
    {'R', role::read, &amdvi_host_fields::read},
    {'W', role::write, &amdvi_host_fields::write},
    {'F', role::attribute, &amdvi_host_fields::force_coherent},
    {'U', role::attribute, &amdvi_host_fields::untranslated},
    {'A', role::accessed},
    {'D', role::dirty},
    {'N', role::next_level},
    {'n', role::fixed, nullptr, runs},
    {'a', role::address},
    {'w', role::written},
    {'.', role::software},
    {'0', role::reserved},
};

// clang-format off
constexpr manual::drawn all_on[] = {
    {"23456", kind::table, ".WR. .000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa NNN. ..A. ...1"},
    {"1", kind::leaf, ".WRF U000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa nnn. .DA. ...1"},
    {"2", kind::leaf, ".WRF U000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaw wwww wwww nnn. .DA. ...1"},
    {"3", kind::leaf, ".WRF U000 0000 aaaa aaaa aaaa aaaa aaaa aaww wwww wwww wwww wwww nnn. .DA. ...1"},
    {"4", kind::leaf, ".WRF U000 0000 aaaa aaaa aaaa awww wwww wwww wwww wwww wwww wwww nnn. .DA. ...1"},
    {"5", kind::leaf, ".WRF U000 0000 aaaa wwww wwww wwww wwww wwww wwww wwww wwww wwww nnn. .DA. ...1"},
    {"1", kind::run,  ".WRF U000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa nnn. .DA. ...1"},
    {"2", kind::run,  ".WRF U000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaan nnnn nnnn nnn. .DA. ...1"},
    {"3", kind::run,  ".WRF U000 0000 aaaa aaaa aaaa aaaa aaaa aann nnnn nnnn nnnn nnnn nnn. .DA. ...1"},
    {"4", kind::run,  ".WRF U000 0000 aaaa aaaa aaaa annn nnnn nnnn nnnn nnnn nnnn nnnn nnn. .DA. ...1"},
    {"5", kind::run,  ".WRF U000 0000 aaaa nnnn nnnn nnnn nnnn nnnn nnnn nnnn nnnn nnnn nnn. .DA. ...1"},
};
constexpr manual::drawn all_off[] = {
    {"2", kind::table, ".WR. .000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa NNN. .... ...1"},
    {"1", kind::leaf, ".WRF U000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa nnn. .... ...1"},
    {"2", kind::leaf, ".WRF U000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaw wwww wwww nnn. .... ...1"},
};
// clang-format on

/// Holds the roles of all bits, and the fixed ones, against a drawing. The entries tell sizes and levels by values, so
/// that manual::difference() cannot make them up.
template <class Format>
void check_drawing(const manual::drawn& d, const Format& format)
{
    for (const char digit : d.levels) {
        const auto level = static_cast<unsigned>(digit - '0');
        CAPTURE(level);
        CAPTURE(d.drawing);
        CHECK(format->exists(level, d.in));
        const layout& l = format->layout_at(level, d.in);
        unsigned at = 64;
        for (const char sign : d.drawing) {
            if (sign == ' ') continue;
            const word bit = word{1} << --at;
            CAPTURE(at);
            const auto* is = std::find_if(std::begin(letters), std::end(letters),
                                          [&](const auto& letter) { return letter.sign == sign; });
            REQUIRE(is != std::end(letters));
            CHECK((l.mask(is->is) & bit) != 0);
            if (is->is == role::fixed) CHECK(((l.value & bit) != 0) == is->set_in.contains(level, d.in));
            if (is->name == nullptr) continue;
            CHECK((format->*is->name).mask() == bit);
            CHECK((format->*is->name).in().contains(level, d.in));
        }
        CHECK(at == 0);
    }
}

/// How many kinds of entries a format has, over all levels.
unsigned kinds_of(const amdvi_host_features& f)
{
    unsigned count = 0;
    for (unsigned level = 1; level <= max_levels; ++level) {
        for (const kind k : {kind::table, kind::leaf, kind::run}) count += format_for(f)->exists(level, k) ? 1U : 0U;
    }
    return count;
}

}  // namespace

TEST_CASE("AMD-Vi's entries are drawn as in the specification")
{
    for (const manual::drawn& d : all_on) check_drawing(d, tracked.operator->());
    CHECK(kinds_of(tracked->features()) == 15);
    constexpr amdvi_host_features plain{.levels = 2, .physical_bits = 48, .coded_sizes = false};
    const auto without = format_for(plain);
    for (const manual::drawn& d : all_off) check_drawing(d, without.operator->());
    CHECK(kinds_of(plain) == 3);
    CHECK(format_for(amdvi_host_features{.levels = 0})->wrong().what == defect::levels);
    CHECK(format_for(amdvi_host_features{.levels = 7})->wrong().what == defect::levels);
    CHECK(format_for(amdvi_host_features{.dirty_bits = true})->wrong().what == defect::contradiction);
    CHECK(format_for(amdvi_guest_features{.levels = 3})->wrong().what == defect::levels);
    CHECK_FALSE(six->caches_absent());
    CHECK(format_for(amdvi_host_features{.caches_absent = true})->caches_absent());
    CHECK(format_for(amdvi_guest_features{.caches_absent = true})->caches_absent());
    // Guest tables are the CPU's, without G and protection keys.
    constexpr auto guest = amdvi_guest<amdvi_guest_features{}>;
    constexpr auto cpu = shadow<shadow_features{.global_pages = false}>;
    for (unsigned level = 1; level <= 4; ++level) {
        for (const kind k : {kind::table, kind::leaf}) CHECK(guest->layout_at(level, k) == cpu->layout_at(level, k));
    }
    CHECK(format_for(amdvi_guest_features{.levels = 5})->shape().address_bits() == 57);
    CHECK(format_for(amdvi_guest_features{.gigabyte_pages = false})->reserved_mask(3, kind::table) == 0x80);
    CHECK(format_for(amdvi_guest_features{.execute_disable = false})->reserved_mask(1, kind::leaf) == word{1} << 63);
}

TEST_CASE("AMD-Vi: the events of faults")
{
    const auto event = [](word entry, const device_access& a, const amdvi_host_paging::controls& c = {}) {
        return fault_code(walk_to(six, 2, entry, 0x1000, a, c).ended, a, c, six);
    };
    // Code 2; RW bit 53, PR bit 52, PE bit 54, RZ bit 55.
    CHECK_FALSE(event(0x6000'0000'1220'0001, writing));
    CHECK(event(0x6000'0000'1220'0000, reading).value == 0x2000'0000'0000'0000);
    CHECK(event(0x6000'0000'1220'0000, writing).value == 0x2020'0000'0000'0000);
    CHECK(event(0x2000'0000'1220'0001, writing).value == 0x2070'0000'0000'0000);
    CHECK(event(0x4000'0000'1220'0001, reading).value == 0x2050'0000'0000'0000);
    CHECK(event(0x6000'0000'1220'0001, writing, {.write = false}).value == 0x2070'0000'0000'0000);
    CHECK(event(0x2000'0000'1220'0001, {.what = operation::read_write}).value == 0x2070'0000'0000'0000);
    CHECK(event(0x6010'0000'1220'0001, reading).value == 0x2090'0000'0000'0000);
    CHECK(event(0x6000'0000'1220'0401, reading).value == 0x2010'0000'0000'0000);  // NextLevel 2 at level 2
    CHECK(event(0x6000'0000'1220'0e01, reading).value == 0x2010'0000'0000'0000);  // 8 Kbytes at level 2
    // A table that cannot be read: code 4.
    CHECK(event(0x6000'7fff'f000'0201, reading).value == 0x4000'0000'0000'0000);

    constexpr auto guest = amdvi_guest<amdvi_guest_features{}>;
    const auto guest_event = [&](word entry, const device_access& a, const device_controls& c = {}) {
        return fault_code(walk_to(guest, 1, entry, 0x1000, a, c).ended, a, c, guest).value;
    };
    // And GN bit 48, NX bit 49, US bit 50.
    CHECK(guest_event(0x1234'5007, writing) == 0);
    CHECK(guest_event(0x1234'5006, reading) == 0x2005'0000'0000'0000);
    CHECK(guest_event(0x1234'5003, {.user = false}) == 0);
    CHECK(guest_event(0x1234'5001, {.what = operation::write, .user = false}) == 0x2071'0000'0000'0000);
    CHECK(guest_event(0x8000'0000'1234'5007, {.what = operation::fetch}) == 0x2057'0000'0000'0000);
    CHECK(guest_event(0x1234'5001, {.what = operation::write, .user = false}, {.write_protect = false}) == 0);
}

TEST_CASE("a level that is skipped must not be asked of the address")
{
    tables_of_six t;
    // Level 6 refers to a table of level 2, and that to one of level 1.
    t.put(0, 0x5a, t.table(1) | 0x6000'0000'0000'0401);
    t.put(1, 0x1, t.table(2) | 0x6000'0000'0000'0201);
    t.put(2, 0x1ff, 0x1234'5000 | 0x6000'0000'0000'0001);
    const word address = word{0x5a} << 57 | 0x003f'f678;
    const walk_result r = t.walked(address);
    CHECK(r.fault == fault_kind::none);
    CHECK(r.address == 0x1234'5678);
    CHECK(r.level == 1);
    CHECK(r.steps == 3);
    CHECK(r.path[1].slot_address == t.table(1) + 8);
    for (unsigned bit = 0; bit < 64; ++bit) {
        CAPTURE(bit);
        const walk_result off = t.walked(address ^ word{1} << bit);
        if (bit < 12) {
            CHECK(off.address == (0x1234'5678 ^ word{1} << bit));
        } else if (bit >= 30 && bit < 57) {
            CHECK(off.fault == fault_kind::address_too_wide);
            CHECK(off.level == 6);
            CHECK(off.steps == 1);
        } else {
            CHECK(off.fault == fault_kind::not_present);
        }
    }

    // From level 6 to a page of level 1, and by two skips.
    t.put(0, 0x5a, t.table(2) | 0x6000'0000'0000'0201);
    CHECK(t.walked(word{0x5a} << 57 | 0x1f'f678).address == 0x1234'5678);
    t.put(0, 0x5a, t.table(1) | 0x6000'0000'0000'0801);
    t.put(1, 0x1, t.table(2) | 0x6000'0000'0000'0401);
    t.put(2, 0x3, 0x4020'0000 | 0x6000'0000'0000'0001);
    const walk_result twice = t.walked(word{0x5a} << 57 | word{1} << 39 | 0x7f'eabc);
    CHECK(twice.address == 0x403f'eabc);
    CHECK(twice.level == 2);
    CHECK(twice.page_shift == 21);

    // A next level that is none below.
    for (const word next : {4U, 5U, 6U}) {
        t.put(1, 0x1, t.table(2) | next << 9 | 0x6000'0000'0000'0001);
        const walk_result wrong = t.walked(word{0x5a} << 57 | word{1} << 39);
        CHECK(wrong.fault == fault_kind::reserved_bits);
        CHECK(wrong.broken == rule::next_level);
        CHECK(wrong.level == 4);
    }
}

TEST_CASE("a visit of tables with skipped levels comes by what walks reach")
{
    tables_of_six t;
    t.put(0, 0x7f, t.table(1) | 0x6000'0000'0000'0401);
    t.put(1, 0x1, t.table(2) | 0x6000'0000'0000'0201);
    t.put(1, 0x2, 0x4000'0000 | 0x2000'0000'0000'0001);
    t.put(2, 0x0, 0x1234'5000 | 0x6000'0000'0000'0001);
    t.put(2, 0x1, 0x1234'6000 | 0x6000'0000'0000'0001);
    t.put(2, 0x2, 0x0000'0000 | 0x6000'0000'0000'0ff0);  // absent, in use
    unsigned found = 0;
    const word top = word{0x7f} << 57;
    const auto look = [&](const mapping& m) {
        if (found == 0) {
            CHECK(m.address == (top | 0x20'0000));
            CHECK(m.physical == 0x1234'5000);
            CHECK(m.bytes == 0x2000);
            CHECK(m.allowed.write);
        } else {
            CHECK(m.address == (top | 0x40'0000));
            CHECK(m.bytes == 0x20'0000);
            CHECK_FALSE(m.allowed.write);
        }
        ++found;
    };
    const visit_summary s = for_each_mapping(six, t.root, {}, t.memory, look);
    CHECK(found == 2);
    CHECK(s.entered == 3);
}

TEST_CASE("sizes coded in addresses")
{
    for (unsigned shift = 13; shift < 57; ++shift) {
        if ((shift - 12) % 9 == 0 || shift > 52) continue;
        CAPTURE(shift);
        const unsigned level = (shift - 12) / 9 + 1;
        const word physical = shift < 52 ? word{1} << shift : 0;
        const word entry = sized_entry(physical, shift);
        // The lowest zero bit, and no other, is below the address.
        CHECK(entry == (0x6000'0000'0000'0e01 | physical | ones(shift - 2, 12)));
        CHECK(kind_of(entry, level, six) == kind::run);
        CHECK(page_shift_of(entry, level, six) == shift);
        CHECK(address_of(entry, level, six) == physical);
        CHECK(legal(entry, level, six));
        // At the level above it is too small, at the one below too large.
        if (level < 6) CHECK_FALSE(legal(entry, level + 1, six));
        if (level > 1) CHECK_FALSE(legal(entry, level - 1, six));
        if (level > 1) CHECK(diagnose(entry, level - 1, six).broken == rule::page_size);

        const word address = 0xfedc'ba98'7654'3210;
        const one_walk w = walk_to(six, level, entry, address);
        CHECK(w.ended.fault == fault_kind::none);
        CHECK(w.ended.address == (physical | (address & ones(shift - 1, 0))));
        CHECK(w.ended.page_shift == shift);
        CHECK(walking::same_outcome(
            w.ended, walk_to(format_for(amdvi_host_features{.levels = 6}), level, entry, address).ended));
    }
    // The next level's own size is no size here.
    for (const unsigned level : {1U, 2U, 3U, 4U}) {
        const word entry = 0x6000'0000'0000'0e01 | ones(12 + 9 * level - 2, 12);
        CHECK(kind_of(entry, level, six) == kind::run);
        CHECK(diagnose(entry, level, six) == finding{rule::page_size, ones(51, 12 + 9 * (level - 1))});
        CHECK(walk_to(six, level, entry, 0).ended.fault == fault_kind::reserved_bits);
    }
    CHECK(encode(kind::run, 1, 0x1000, {}, six).error == encode_error::address_misaligned);
    CHECK(encode(kind::run, 2, 0x20'0000, {}, six).error == encode_error::address_misaligned);
    CHECK(encode(kind::run, 2, 0x40'0000, {.write = false}, six).entry == 0x2000'0000'005f'fe01);
    for (unsigned shift = 0; shift <= 64; ++shift) {
        CAPTURE(shift);
        const encoded_page e = encode_coded(shift, 0, {.write = false}, six, six->force_coherent);
        const bool coded = shift > 12 && shift < 57 && (shift - 12) % 9 != 0;
        REQUIRE(static_cast<bool>(e) == (coded && shift <= 52));
        if (!e) {
            CHECK(e.error == (coded ? encode_error::address_too_wide : encode_error::no_such_entry));
            continue;
        }
        CHECK(e.entry == (0x3000'0000'0000'0e01 | (shift > 13 ? ones(shift - 2, 12) : 0)));
        CHECK(page_shift_of(e.entry, e.level, six) == shift);
        CHECK(e.level == (shift - 12) / 9 + 1);
        CHECK(e.copies_shift == (shift - 12) % 9);
        CHECK(legal(e.entry, e.level, six));
    }
    CHECK(encode_coded(14, 0x1'4000, {}, six).entry == 0x6000'0000'0001'5e01);
    CHECK(encode_coded(14, 0x1'2000, {}, six).error == encode_error::address_misaligned);
    CHECK(encode_coded(14, word{1} << 52, {}, six).error == encode_error::address_too_wide);
    CHECK(encode_coded(30, 0, {}, amdvi_host<amdvi_host_features{.levels = 2}>).error == encode_error::no_such_entry);
    CHECK(encode_coded(14, 0, {}, ept<ept_features{}>).error == encode_error::no_such_entry);
    CHECK(encode_coded(14, 0, {}, format_for(amdvi_host_features{.levels = 9})).error == encode_error::no_such_entry);
}

TEST_CASE("64-bit addresses of a device")
{
    CHECK(six->shape().address_bits() == 64);
    CHECK(six->shape().index_bits_at(6) == 7);
    CHECK(six->shape().index(~word{0}, 6) == 0x7f);
    CHECK(six->shape().slot_address(0x10'0000, 0x8200'0000'0000'0000, 6) == 0x10'0208);
    for (const word address : {word{0}, ~word{7}, word{1} << 63, word{0x7fff'ffff'ffff'f000}}) {
        const one_walk w = walk_to(six, 1, 0x6000'0000'1234'5001, address);
        CHECK(w.ended.fault == fault_kind::none);
        CHECK(w.ended.address == (0x1234'5000 | (address & 0xfff)));
        CHECK(w.ended.steps == 6);
    }
    // With fewer levels, the bits above are zero.
    constexpr auto three = amdvi_host<amdvi_host_features{.levels = 3}>;
    for (unsigned bit = 39; bit < 64; ++bit) {
        entry_chain chain(three, 1, 0x6000'0000'1234'5001, 0x1000);
        const walk_result r = walk(three, chain_root, 0x1000 | word{1} << bit, reading, {}, chain.memory());
        CHECK(chain.walked());
        CHECK(r.fault == fault_kind::address_too_wide);
        CHECK(r.level == 0);
    }
}

TEST_CASE("a device's entry and all tables must allow an access")
{
    for (unsigned n = 0; n < 16; ++n) {
        CAPTURE(n);
        const word leaf = 0x1234'5001 | word{n & 3} << 61;
        entry_chain chain(six, 1, leaf, 0x1000);
        const word above = chain.get(3) & ~(word{3} << 61);
        chain.put(3, above | word{n >> 2} << 61);
        for (const bool ir : {false, true}) {
            for (const bool iw : {false, true}) {
                const bool read = ir && (n & 1) != 0 && (n & 4) != 0;
                const bool write = iw && (n & 2) != 0 && (n & 8) != 0;
                CHECK(chain.walked(reading, {ir, iw}).fault == (read ? fault_kind::none : fault_kind::protection));
                CHECK(chain.walked(writing, {ir, iw}).fault == (write ? fault_kind::none : fault_kind::protection));
            }
        }
    }
}

TEST_CASE("A and D of AMD-Vi: A in every entry that is used, D in the page")
{
    for (const unsigned level : {1U, 2U, 5U}) {
        for (const bool sized : {false, true}) {
            const kind k = sized ? kind::run : kind::leaf;
            const word leaf = encode(k, level, 0, {}, tracked).entry;
            entry_chain chain(tracked, level, leaf, 0x1000);
            word before[7];
            for (unsigned at = level; at <= 6; ++at) before[at] = chain.get(at);

            CHECK(chain.walked(reading, {}, update_flags::no));
            for (unsigned at = level; at <= 6; ++at) CHECK(chain.get(at) == before[at]);
            CHECK_FALSE(chain.walked(writing, {.write = false}));
            for (unsigned at = level; at <= 6; ++at) CHECK(chain.get(at) == before[at]);
            CHECK(chain.walked(reading));
            for (unsigned at = level; at <= 6; ++at) CHECK(chain.get(at) == (before[at] | 0x20));
            CHECK(chain.walked(writing));
            CHECK(chain.get(level) == (before[level] | 0x60));
            for (unsigned at = level + 1; at <= 6; ++at) CHECK(chain.get(at) == (before[at] | 0x20));
        }
    }
    // With the levels between skipped.
    tables_of_six t;
    t.put(0, 0, t.table(1) | 0x6000'0000'0000'0201);
    t.put(1, 0, 0x1234'5000 | 0x6000'0000'0000'0001);
    CHECK(walk(tracked, t.root, 0x10, writing, {}, t.memory));
    CHECK(t.memory.get<word>(t.table(0)) == (t.table(1) | 0x6000'0000'0000'0221));
    CHECK(t.memory.get<word>(t.table(1)) == (0x1234'5000 | 0x6000'0000'0000'0061));
    const word sized = sized_entry(0x8000, 14);
    t.put(1, 0, sized);
    CHECK(walk(tracked, t.root, 0x10, writing, {}, t.memory));
    CHECK(t.memory.get<word>(t.table(1)) == (sized | 0x60));
}

TEST_CASE("ageing and harvesting of AMD-Vi's pages")
{
    // Any one of the entries of a run may carry A and D.
    word run[4];
    for (word& entry : run) entry = sized_entry(0x8000, 14);
    run[2] |= 0x60;
    CHECK(young_any(run, tracked));
    CHECK(age_all(run, tracked));
    CHECK_FALSE(age_all(run, tracked));
    CHECK(harvest_dirty(run, tracked).count() == 1);
    CHECK(harvest_dirty(run, tracked).count() == 0);
    for (const word entry : run) CHECK(entry == sized_entry(0x8000, 14));
    CHECK(write_protect_table(run, tracked).count() == 4);
    for (const word entry : run) CHECK(entry == (sized_entry(0x8000, 14) & ~(word{1} << 62)));

    const word page = 0x6000'0000'1234'5001;
    CHECK_FALSE(needs_flush(page | 0x20, page, tracked));
    CHECK(needs_flush(page | 0x40, page, tracked));
    CHECK(needs_flush(page, page & ~(word{1} << 62), tracked));
    CHECK_FALSE(needs_flush(page & ~(word{1} << 62), page, tracked));
    CHECK(needs_flush(page, page | word{1} << 60, tracked));        // FC
    CHECK_FALSE(needs_flush(page, page | word{1} << 63, tracked));  // software's
    // A table of another level is another table.
    CHECK(needs_flush(0x6000'0000'0010'0401, 0x6000'0000'0010'0201, tracked, 6));
    CHECK(needs_flush(page, sized_entry(0, 13), tracked));
}

TEST_CASE("which entries of AMD-Vi translate")
{
    CHECK(leaf_model::wrong_translations_both_ways(six) == 0);
    CHECK(leaf_model::wrong_translations_both_ways(tracked) == 0);
}

TEST_CASE("absent entries of AMD-Vi hold what software wants")
{
    CHECK(six->empty() == 0);
    for (const word entry : {word{0}, ~word{1}, word{0x6000'0000'1234'5000}}) {
        CHECK_FALSE(present(entry, six));
        CHECK(check_absent(entry, six) == absent_error::none);
        CHECK(legal(entry, 1, six));
        CHECK(address_of(entry, 1, six) == 0);
        CHECK(permissions_of(entry, 1, six) == no_permissions);
        CHECK(walk_to(six, 1, entry, 0x1000).ended.fault == fault_kind::not_present);
    }
}

TEST_CASE("AMD-Vi's guest tables above host tables: the event is of the tables that refuse")
{
    constexpr auto guest = amdvi_guest<amdvi_guest_features{}>;
    constexpr auto host = amdvi_host<amdvi_host_features{.levels = 2}>;
    constexpr word host_root = 0x10'0000, guest_root = 0x20'0000;
    walking::arena memory(host_root, 0x200);
    memory.put(host_root + 8, 0x10'1000 | 0x6000'0000'0000'0201);
    const auto host_page = [&](word address, word rights) {
        memory.put(0x10'1000 + 8 * (address >> 12 & 0x1ff), address | rights << 61 | 1);
    };
    for (word n = 0; n < 16; ++n) host_page(guest_root + 0x1000 * n, 3);
    for (word n = 0; n < 4; ++n) {
        memory.put(guest_root + 0x1000 * n, (n < 3 ? guest_root + 0x1000 * (n + 1) : guest_root + 0x8000) | 7);
    }
    const auto walked = [&](const device_access& a, word& event) {
        const auto r = nested_walk(guest, guest_root, host, host_root, 0x123, a, {}, memory);
        event = fault_code(r, a, {}, guest, host).value;
        return r;
    };
    word event = 0;
    CHECK(walked(writing, event).address() == guest_root + 0x8123);
    CHECK(memory.get<word>(guest_root + 0x3000) == ((guest_root + 0x8000) | 0x67));
    host_page(guest_root + 0x8000, 1);
    CHECK_FALSE(walked(writing, event));
    CHECK(event == 0x2070'0000'0000'0000);  // of host tables: GN is clear
    host_page(guest_root + 0x1000, 1);
    memory.put(guest_root + 0x1000, (guest_root + 0x2000) | 7);
    CHECK_FALSE(walked(reading, event));
    CHECK(event == 0x2070'0000'0000'0000);  // A cannot be set
    memory.put(guest_root, word{0});
    CHECK_FALSE(walked(writing, event));
    CHECK(event == 0x2025'0000'0000'0000);
}

TEST_CASE("AMD-Vi: a page of a coded size is aged and harvested as one, whichever copy has A and D")
{
    for (const unsigned level : {1U, 2U}) {
        const unsigned base = 12 + 9 * (level - 1);
        for (const unsigned shift : {base + 1, base + 2, base + 7, base + 8}) {
            CAPTURE(shift);
            constexpr auto two =
                amdvi_host<amdvi_host_features{.levels = 2, .accessed_bits = true, .dirty_bits = true}>;
            tables_of_six t;
            const word copies = word{1} << (shift - base);
            const word entry = sized_entry(0, shift);
            // From slot `copies` of the table on; a page of 4 Kbytes, or 2 Mbytes, before it.
            const unsigned table = level == 1 ? 1 : 0;
            t.put(0, 0, t.table(1) | 0x6000'0000'0000'0201);
            for (word n = 0; n < copies; ++n) t.put(table, copies + n, entry);
            const word own = encode(kind::leaf, level, 0, {}, two).entry;
            t.put(table, copies - 1, own | 0x60);
            struct seen_page {
                word address;
                word size;
            };
            std::vector<seen_page> seen;
            const auto report = [&](word address, word size) { seen.push_back({address, size}); };
            for (const word marked : {word{0}, copies / 2, copies - 1}) {
                CAPTURE(marked);
                t.put(table, copies + marked, entry | 0x60);
                t.put(table, copies - 1, own | 0x60);
                seen.clear();
                CHECK(harvest_range(two, t.root, {}, t.memory, report).pages == 2);
                REQUIRE(seen.size() == 2);
                CHECK(seen[0].address == (copies - 1) << base);
                CHECK(seen[0].size == word{1} << base);
                CHECK(seen[1].address == word{1} << shift);
                CHECK(seen[1].size == word{1} << shift);
                CHECK(t.memory.get<word>(t.table(table) + 8 * (copies + marked)) == (entry | 0x20));
                // A range inside the page that does not hold the copy with A.
                const word inside = (copies + copies - 1 - marked) << base;
                seen.clear();
                CHECK(age_range(two, t.root, {inside, inside}, t.memory, report).pages == 1);
                REQUIRE(seen.size() == 1);
                CHECK(seen[0].address == word{1} << shift);
                CHECK(seen[0].size == word{1} << shift);
                CHECK(t.memory.get<word>(t.table(table) + 8 * (copies + marked)) == entry);
                CHECK(harvest_range(two, t.root, {}, t.memory, report).pages == 0);
            }
            // An entry among them that is no copy is a page of its own.
            t.put(table, copies + 1, own | 0x60);
            t.put(table, copies, entry | 0x60);
            seen.clear();
            CHECK(harvest_range(two, t.root, {copies << base, ~word{0}}, t.memory, report).pages == 2);
            REQUIRE(seen.size() == 2);
            CHECK(seen[0].size == word{1} << shift);
            CHECK(seen[1].address == (copies + 1) << base);
            CHECK(seen[1].size == word{1} << base);
        }
    }
}
