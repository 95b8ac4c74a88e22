// expect: ptebits: an address of this format stands in more than two pieces
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/format.hpp>

using namespace ptebits;

struct features {
    unsigned physical_bits = 52;
};
struct names {
    entry_field valid;
};

struct description {
    using features = ::features;
    using fields = names;
    using row = ptebits::row<features, fields>;

    static constexpr row rows[] = {
        {"V", bit(0), every, is(1), &fields::valid},
        {"", bits(3, 1), every, role::software},
#ifdef PTEBITS_CONTROL
        {"", bits(7, 4), every, role::software},
#else
        row{"", bits(7, 4), every, role::address}.holding(44),
#endif
        row{"", bits(11, 8), every, role::address}.holding(48),
        {"", bits(43, 12), every, role::address},
        {"", bits(63, 44), every, role::software},
    };

    static constexpr dimensions shape_of(const features&) { return {.levels = 1}; }
    static constexpr entries entries_of(const features&) { return leaf_at(1); }
};

static_assert(constant_format<description, features{}> {} -> valid.mask() == 1);

int main() {}
