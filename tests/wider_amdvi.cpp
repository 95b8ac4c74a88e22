// SPDX-License-Identifier: BSL-1.0
// AMD-Vi as a user's format: levels that are skipped, sizes coded in addresses, six levels; and
// accesses of a device as an emulated IOMMU made them.
#include <cstdint>
#include <string>

#include "leaf_model.hpp"
#include "manual.hpp"
#include "wider_recorded.hpp"

using namespace wider;

namespace {

constexpr amdvi_features modes[] = {{.levels = 1}, {.levels = 2}, {.levels = 3},
                                    {.levels = 4}, {.levels = 5}, {.levels = 6}};
using by_mode = constants<modes[0], modes[1], modes[2], modes[3], modes[4], modes[5]>;

constexpr auto six = amdvi<amdvi_features{.levels = 6}>;
constexpr auto tracked = amdvi<amdvi_features{.levels = 6, .accessed_bits = true, .dirty_bits = true}>;

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
    walk_result walked(word address, const request& a = {}, const device_paging::controls& by = {})
    {
        memory.given.clear();
        const walk_result r = walk(format_for(amdvi_features{.levels = 6}), root, address, a, by, memory);
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

}  // namespace

TEST_CASE("accesses through AMD-Vi's tables as recorded")
{
    const auto check = [](const std::string& name, unsigned lines, unsigned by_constants) {
        CAPTURE(name);
        const tally t = replay_amdvi<by_mode>(recording(name));
        CHECK(t.lines == lines);
        CHECK(t.by_constants == by_constants);
        CHECK_MESSAGE(t.failed == 0, t.first_failures());
        return t;
    };
    // Where the emulator makes an access that the manual refuses: how often in these lines.
    const tally mixed = check("amdvi-mixed.vec", 311, 311);
    CHECK(mixed.exception("A1") == 8);  // a leaf with PR clear
    CHECK(mixed.exception("A2") == 9);  // address bits above the width
    CHECK(mixed.exception("A3") == 6);  // address bits of a level that is skipped
    CHECK(mixed.exception("A4") == 9);  // reserved bits
    CHECK(mixed.exception("A5") == 6);  // a size that pages of the level do not have
    CHECK(mixed.exception("A6") == 6);  // a page at level 6
    const tally deep = check("amdvi-m6.vec", 200, 200);
    CHECK(deep.exception("A1") == 24);
    CHECK(deep.exception("A3") == 12);
    CHECK(deep.exception("A4") == 24);
    CHECK(deep.exception("A5") == 12);
    CHECK(deep.exception("A6") == 12);
    const tally by_device = check("amdvi-dte.vec", 60, 8);
    CHECK(by_device.exception("A8") == 5);  // a device table entry without tables
    CHECK(mixed.exceptions.size() + deep.exceptions.size() + by_device.exceptions.size() == 12);
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
        CHECK(walking::same_outcome(w.ended,
                                    walk_to(format_for(amdvi_features{.levels = 6}), level, entry, address).ended));
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
    constexpr auto three = amdvi<amdvi_features{.levels = 3}>;
    for (unsigned bit = 39; bit < 64; ++bit) {
        entry_chain chain(three, 1, 0x6000'0000'1234'5001, 0x1000);
        const walk_result r = walk(three, chain_root, 0x1000 | word{1} << bit, reads, {}, chain.memory());
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
                CHECK(chain.walked(reads, {ir, iw}).fault == (read ? fault_kind::none : fault_kind::protection));
                CHECK(chain.walked(writes_it, {ir, iw}).fault == (write ? fault_kind::none : fault_kind::protection));
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

            CHECK(chain.walked(reads, {}, update_flags::no));
            for (unsigned at = level; at <= 6; ++at) CHECK(chain.get(at) == before[at]);
            CHECK_FALSE(chain.walked(writes_it, {.write = false}));
            for (unsigned at = level; at <= 6; ++at) CHECK(chain.get(at) == before[at]);
            CHECK(chain.walked(reads));
            for (unsigned at = level; at <= 6; ++at) CHECK(chain.get(at) == (before[at] | 0x20));
            CHECK(chain.walked(writes_it));
            CHECK(chain.get(level) == (before[level] | 0x60));
            for (unsigned at = level + 1; at <= 6; ++at) CHECK(chain.get(at) == (before[at] | 0x20));
        }
    }
    // With the levels between skipped.
    tables_of_six t;
    t.put(0, 0, t.table(1) | 0x6000'0000'0000'0201);
    t.put(1, 0, 0x1234'5000 | 0x6000'0000'0000'0001);
    CHECK(walk(tracked, t.root, 0x10, writes_it, {}, t.memory));
    CHECK(t.memory.get<word>(t.table(0)) == (t.table(1) | 0x6000'0000'0000'0221));
    CHECK(t.memory.get<word>(t.table(1)) == (0x1234'5000 | 0x6000'0000'0000'0061));
    const word sized = sized_entry(0x8000, 14);
    t.put(1, 0, sized);
    CHECK(walk(tracked, t.root, 0x10, writes_it, {}, t.memory));
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
