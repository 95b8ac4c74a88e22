#include "unit.hpp"

int main()
{
    const unit here = in_this_unit();
    const unit there = in_other_unit();
    bool same = here.failed == 0 && there.failed == 0 && here.words == there.words && here.function == there.function;
    for (std::size_t i = 0; i < 7; ++i) same = same && here.places[i] == there.places[i];
    return same ? 0 : 1;
}
