// Formats of constants but for what is known at boot: they answer as a format known at run time does.
#include <cstddef>
#include <cstdint>

#include <doctest/doctest.h>

#include <ptebits/ptebits.hpp>

using namespace ptebits;

namespace {

using word = std::uint64_t;

/// Asks both formats everything about the entries of all levels and kinds.
template <class Boot>
void same_answers(const typename Boot::features_type& features)
{
    const Boot boot(features);
    const auto other = format_for(features);
    REQUIRE(boot->wrong().what == defect::none);
    CHECK(boot->features() == features);
    CHECK(boot->accessed == other->accessed);
    CHECK(boot->dirty == other->dirty);
    CHECK(boot->present_mask() == other->present_mask());
    CHECK(boot->empty() == other->empty());
    CHECK(boot->accessed_by() == other->accessed_by());
    CHECK(boot->permissions_in_place() == other->permissions_in_place());
    CHECK(boot->modes_apart() == other->modes_apart());
    CHECK(boot->uses_sizes() == other->uses_sizes());
    CHECK(boot->memory_bits() == other->memory_bits());
    CHECK(boot->other_writes() == other->other_writes());
    CHECK(boot->revocable_writes() == other->revocable_writes());
    CHECK(boot->shape().levels == other->shape().levels);
    CHECK(boot->shape().address_bits() == other->shape().address_bits());
    CHECK(boot->page_test().mask == other->page_test().mask);
    CHECK(boot->page_test().judged == other->page_test().judged);
    CHECK(well_formed(boot));
    for (unsigned level = 0; level <= max_levels + 1; ++level) {
        for (const kind k : {kind::none, kind::table, kind::leaf, kind::run}) {
            CHECK(boot->exists(level, k) == other->exists(level, k));
            CHECK(boot->layout_at(level, k) == other->layout_at(level, k));
        }
        for (unsigned n = 0; n < 64; ++n) {
            for (const word base : {word{0}, word{1}, word{7}, word{0x87}, word{0x137}, word{0x1b7}}) {
                const word entry = base | word{1} << n;
                CHECK(boot->kind_of(entry, level) == other->kind_of(entry, level));
                CHECK(diagnose(entry, level, boot) == diagnose(entry, level, other));
                CHECK(translates(entry, boot, level) == translates(entry, other, level));
            }
        }
    }
    // A table whose only entry lies at an address that these features have or not.
    alignas(4096) static word tables[4 * 512];
    const auto memory = [](word physical) { return physical < sizeof tables ? tables + physical / 8 : nullptr; };
    for (unsigned n = 0; n < 64; ++n) {
        for (const word bits : {word{0x27}, word{0x67}, word{0x137}, word{0x337}, word{0xe7}, word{0}}) {
            for (unsigned level = 1; level <= 4; ++level) {
                for (unsigned above = 0; above + level < 4; ++above)
                    tables[std::size_t{above} * 512] =
                        (above + 1) * 0x1000 | 0x107 | 0x20 * (boot->present_mask() == 1);
                tables[std::size_t{4 - level} * 512] = bits | word{1} << n;
                const auto by_boot = walk(boot, 0, 0x123, {.user = true}, {}, memory, update_flags::no);
                const auto by_other = walk(other, 0, 0x123, {.user = true}, {}, memory, update_flags::no);
                // All questions: from an entry that is held elsewhere only the slow path walks.
                const auto slow =
                    walk(other, held_entry{4, tables[0]}, 0x123, {.user = true}, {}, memory, update_flags::no);
                for (const walk_result& r : {by_other, slow}) {
                    CHECK(by_boot.fault == r.fault);
                    CHECK(by_boot.broken == r.broken);
                    CHECK(by_boot.address == r.address);
                    CHECK(by_boot.bits == r.bits);
                    CHECK(by_boot.level == r.level);
                    CHECK(by_boot.steps == r.steps);
                    CHECK(by_boot.page_shift == r.page_shift);
                    CHECK(by_boot.allowed == r.allowed);
                    CHECK(by_boot.last_entry() == r.last_entry());
                }
            }
        }
    }
}

}  // namespace

TEST_CASE("a boot format answers as a format known at run time, at every width")
{
    for (unsigned width = 32; width <= 52; ++width) {
        CAPTURE(width);
        same_answers<boot_format<shadow_description, shadow_features{}>>({.physical_bits = width});
        same_answers<boot_format<ept_description, ept_features{}>>({.physical_bits = width});
        same_answers<boot_format<npt_description, npt_features{}>>({.physical_bits = width});
    }
}

TEST_CASE("the place of the encryption bit may be known at boot")
{
    for (unsigned at = 40; at <= 51; ++at) {
        CAPTURE(at);
        same_answers<boot_format<npt_description, npt_features{}>>({.physical_bits = at, .encryption_bit = at});
        same_answers<boot_format<shadow_description, shadow_features{}>>({.physical_bits = 52, .encryption_bit = at});
    }
    using encrypted = boot_format<npt_description, npt_features{.encryption_bit = 47}>;
    same_answers<encrypted>(with_memory_encryption(npt_features{.physical_bits = 48}, 5U << 6 | 47U));
    same_answers<encrypted>({.physical_bits = 43});
}

TEST_CASE("features that are not the constants are refused, and touch no entry")
{
    using boot = boot_format<ept_description, ept_features{}>;
    CHECK(boot()->wrong().what == defect::no_format);
    CHECK(boot({.physical_bits = 53})->wrong().what == defect::physical_bits);
    for (const ept_features& other :
         {ept_features{.levels = 5}, ept_features{.accessed_dirty = false}, ept_features{.execute_only = false},
          ept_features{.suppress_ve = true}, ept_features{.memory_bits = 40}}) {
        const boot refused(other);
        CHECK(refused->wrong().what == defect::not_constant);
        word slot = 0x5337;
        CHECK_FALSE(age(slot, refused));
        CHECK_FALSE(clear_dirty(slot, refused));
        CHECK(slot == 0x5337);
        const auto memory = [&](word physical) { return physical == 0 ? &slot : nullptr; };
        CHECK(walk(refused, 0, 0, {}, {}, memory).fault == fault_kind::not_present);
    }
}
