// expect: ptebits: two kinds of entries of this format cannot be told apart
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/format.hpp>

using namespace ptebits;

struct features {
    unsigned physical_bits = 40;
};
struct names {
    entry_field valid;
};

struct description {
    using features = ::features;
    using fields = names;

    static constexpr row<features, fields> rows[] = {
        {"V", bit(0), every, is(1), &fields::valid},
#ifdef PTEBITS_CONTROL
        {"T", bit(1), tables, is(1)},
        {"T", bit(1), leaves, is(0)},
#else
        {"", bit(1), every, role::software},
#endif
        {"", bits(11, 2), every, role::software},
        {"", bits(51, 12), every, role::address},
        {"", bits(63, 52), every, role::reserved},
    };

    static constexpr dimensions shape_of(const features&) { return {.levels = 2}; }
    static constexpr entries entries_of(const features&) { return leaf_at(1) | leaf_at(2) | table_at(2); }
};

static_assert(constant_format<description, features{}> {} -> valid.mask() == 1);

int main() {}
