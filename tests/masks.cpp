// SPDX-License-Identifier: BSL-1.0
#include <ptebits/masks.hpp>

#include "manual.hpp"

using namespace ptebits;

namespace {

constexpr std::uint64_t at(unsigned index) { return std::uint64_t{1} << index; }

// EPT as a shadow MMU sets it: no present bit of its own, execution granted by a bit.
constexpr mask_values ept_like{.present = 0x7, .accessed = at(8), .dirty = at(9), .execute = 0x4};

// Ordinary paging: a present bit, execution denied by a bit.
constexpr mask_values x86_like{.present = 1, .user = 4, .accessed = at(5), .dirty = at(6), .no_execute = at(63)};

}  // namespace

TEST_CASE("masks that nothing is wrong with")
{
    for (const mask_values& values : {ept_like, x86_like, mask_values{.present = 1}}) {
        const masks m = masks::from(values);
        CHECK(check(values) == masks_error::none);
        CHECK(m.valid());
        CHECK(m.error() == masks_error::none);
        CHECK(m.present_mask() == values.present);
        CHECK(m.values().user == values.user);
        CHECK(m.values().execute == values.execute);
        CHECK(m.values().no_execute == values.no_execute);
        CHECK(m.accessed.mask() == values.accessed);
        CHECK(m.dirty.mask() == values.dirty);
        CHECK(m.has_accessed() == (values.accessed != 0));
        CHECK(m.has_dirty() == (values.dirty != 0));
    }
    static_assert(masks::from(ept_like).accessed_shift() == 8);
}

TEST_CASE("the shift is derived from the mask, for each of 64 bits")
{
    for (unsigned index = 0; index < 64; ++index) {
        CAPTURE(index);
        const std::uint64_t elsewhere = index == 0 ? 2 : 1;
        const masks accessed = masks::from({.present = elsewhere, .accessed = at(index)});
        REQUIRE(accessed.valid());
        CHECK(accessed.has_accessed());
        CHECK(accessed.accessed_shift() == index);
        CHECK(accessed.accessed.mask() == at(index));
        CHECK_FALSE(accessed.has_dirty());

        const masks dirty = masks::from({.present = elsewhere, .dirty = at(index)});
        REQUIRE(dirty.valid());
        CHECK(dirty.has_dirty());
        CHECK(dirty.dirty.shift() == index);
        CHECK_FALSE(dirty.has_accessed());
    }
}

TEST_CASE("no accessed bit is a state, not a shift")
{
    const masks m = masks::from({.present = 0x7});
    CHECK(m.valid());
    CHECK_FALSE(m.has_accessed());
    CHECK_FALSE(m.accessed.exists());
    CHECK_FALSE(manual::constant_expression<[] { return masks::from({.present = 0x7}).accessed_shift(); }>);
    CHECK(manual::constant_expression<[] { return masks::from(ept_like).accessed_shift(); }>);
}

TEST_CASE("every error, and masks with it match no entry")
{
    struct faulty {
        mask_values values;
        masks_error error;
    };
    const faulty all[] = {
        {{}, masks_error::no_present_bit},
        {{.accessed = at(8)}, masks_error::no_present_bit},
        {{.present = 7, .accessed = at(8) | at(9)}, masks_error::accessed_several_bits},
        {{.present = 7, .accessed = at(31) | at(32)}, masks_error::accessed_several_bits},
        {{.present = 7, .accessed = at(63) | at(62)}, masks_error::accessed_several_bits},
        {{.present = 7, .dirty = at(63) | at(0)}, masks_error::dirty_several_bits},
        {{.present = 7, .dirty = ~std::uint64_t{0}}, masks_error::dirty_several_bits},
        {{.present = 1, .no_execute = at(63) | at(62)}, masks_error::no_execute_several_bits},
        {{.present = 7, .accessed = at(8), .dirty = at(8)}, masks_error::overlap},
        {{.present = 7, .accessed = at(40), .dirty = at(40)}, masks_error::overlap},
        {{.present = 1, .user = at(5), .accessed = at(5)}, masks_error::overlap},
        {{.present = 1, .user = at(6), .dirty = at(6)}, masks_error::overlap},
        {{.present = 1, .user = at(63), .no_execute = at(63)}, masks_error::overlap},
        {{.present = 1, .user = at(2), .execute = at(2)}, masks_error::overlap},
        {{.present = 1, .accessed = at(63), .no_execute = at(63)}, masks_error::overlap},
        {{.present = 1, .dirty = at(63), .no_execute = at(63)}, masks_error::overlap},
        {{.present = 1, .accessed = at(2), .execute = at(2)}, masks_error::overlap},
        {{.present = 1, .dirty = at(2), .execute = at(2)}, masks_error::overlap},
        {{.present = 7, .accessed = at(2)}, masks_error::overlap},
        {{.present = 7, .dirty = at(1)}, masks_error::overlap},
        {{.present = 7, .no_execute = at(0)}, masks_error::overlap},
        {{.present = 1, .no_execute = at(2), .execute = at(2)}, masks_error::overlap},
        {{.present = 1, .no_execute = at(63), .execute = at(2)}, masks_error::execute_both_ways},
    };
    bool seen[static_cast<unsigned>(masks_error::execute_both_ways) + 1] = {};
    for (const faulty& f : all) {
        CAPTURE(manual::hex(f.values.present));
        CAPTURE(manual::hex(f.values.accessed));
        CAPTURE(manual::hex(f.values.dirty));
        CHECK(check(f.values) == f.error);
        seen[static_cast<unsigned>(f.error)] = true;

        const masks m = masks::from(f.values);
        CHECK(m.error() == f.error);
        CHECK_FALSE(m.valid());
        CHECK(m.present_mask() == 0);
        CHECK_FALSE(m.has_accessed());
        CHECK_FALSE(m.has_dirty());
        CHECK(m.values().execute == 0);
        CHECK(m.values().no_execute == 0);
        CHECK(m.values().user == 0);
        CHECK_FALSE(present(~std::uint64_t{0}, m));
    }
    for (unsigned error = 1; error < std::size(seen); ++error) CHECK(seen[error]);
}

TEST_CASE("present may share bits with permissions, and with nothing else")
{
    CHECK(check({.present = 7, .user = 4}) == masks_error::none);
    CHECK(check({.present = 7, .execute = 4}) == masks_error::none);
    CHECK(check({.present = at(0) | at(33), .execute = at(33)}) == masks_error::none);
    for (unsigned index = 0; index < 64; ++index) {
        CAPTURE(index);
        CHECK(check({.present = at(index), .accessed = at(index)}) == masks_error::overlap);
        CHECK(check({.present = at(index), .dirty = at(index)}) == masks_error::overlap);
        CHECK(check({.present = at(index), .no_execute = at(index)}) == masks_error::overlap);
        CHECK(check({.present = at(index), .execute = at(index)}) == masks_error::none);
    }
}

TEST_CASE("masks as a constant are the masks at run time")
{
    constexpr auto fixed = masks_of<ept_like>;
    static_assert(constant_masks<std::remove_const_t<decltype(fixed)>>);
    static_assert(entry_masks<masks> && !constant_masks<masks> && !entry_format<masks>);
    static_assert(std::is_empty_v<decltype(fixed)>);
    const masks found = masks::from(ept_like);
    CHECK(fixed->accessed == found->accessed);
    CHECK(fixed->dirty == found->dirty);
    CHECK(fixed->present_mask() == found->present_mask());
    CHECK(fixed->values().execute == found->values().execute);
    CHECK(fixed->valid());
    CHECK(fixed->empty() == 0);
    CHECK(found->empty() == 0);
    CHECK_FALSE(masks_of<mask_values{.present = 1}>->accessed.exists());
}

TEST_CASE("an absent entry by masks is one without the present bits")
{
    const masks m = masks::from(x86_like);
    CHECK(check_absent(0, m) == absent_error::none);
    CHECK(check_absent(~(1 | x86_like.accessed | x86_like.dirty), m) == absent_error::none);
    CHECK(check_absent(~std::uint64_t{1}, m) == absent_error::looks_accessed);
    CHECK(check_absent(~(1 | x86_like.accessed), m) == absent_error::looks_dirty);
    CHECK(check_absent(1, m) == absent_error::looks_present);
    CHECK(check_absent(~std::uint64_t{0}, m) == absent_error::looks_present);
}

TEST_CASE("entries by masks: present is any of the bits, young and dirty one bit each")
{
    const masks m = masks::from({.present = at(1) | at(34), .accessed = at(33), .dirty = at(62)});
    REQUIRE(m.valid());
    for (unsigned index = 0; index < 64; ++index) {
        CAPTURE(index);
        CHECK(present(at(index), m) == (index == 1 || index == 34));
        CHECK(young(at(index), m) == (index == 33));
        CHECK(dirty(at(index), m) == (index == 62));
        CHECK(present(~at(index), m));
        CHECK(young(~at(index), m) == (index != 33));
        CHECK(dirty(~at(index), m) == (index != 62));
    }
}
