// A program of somebody who uses the installed package.
#include <ptebits/ptebits.hpp>

int main()
{
    constexpr auto host = ptebits::ept<ptebits::ept_features{}>;
    std::uint64_t slot = 0x1007 | host->accessed;
    return ptebits::age(slot, host) && slot == 0x1007 ? 0 : 1;
}
