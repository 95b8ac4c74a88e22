// expect: ptebits: two rows of this format claim the same bit
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
        {"", bits(11, 1), every, role::software},
#else
        {"", bits(12, 1), every, role::software},
#endif
        {"", bits(51, 12), every, role::address},
        {"", bits(63, 52), every, role::reserved},
    };

    static constexpr dimensions shape_of(const features&) { return {.levels = 1}; }
    static constexpr entries entries_of(const features&) { return leaf_at(1); }
};

static_assert(constant_format<description, features{}> {} -> valid.mask() == 1);

int main() {}
