// expect: ptebits: two rows of this format claim the same bit
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/format.hpp>

using namespace ptebits;

struct features {
    unsigned physical_bits = 40;
};
struct names {
    field valid;
};

struct description {
    using features = ::features;
    using fields = names;

    static constexpr row<features, fields> rows[] = {
        {"V", bit(0), every, role::present, &fields::valid},
#ifdef PTEBITS_CONTROL
        {"", bits(11, 1), every, role::software},
#else
        {"", bits(12, 1), every, role::software},
#endif
        {"", bits(51, 12), every, role::address},
        {"", bits(63, 52), every, role::reserved},
    };

    static constexpr shape shape_of(const features&) { return {.levels = 1}; }
    static constexpr entries entries_of(const features&) { return leaf(1); }
};

static_assert(static_format<description, features{}>::value.valid.mask() == 1);

int main() {}
