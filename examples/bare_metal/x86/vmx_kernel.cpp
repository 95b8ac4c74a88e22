// SPDX-License-Identifier: BSL-1.0
// The kernel for Intel's CPUs.
#include "kernel.hpp"
#include "vmx.hpp"

namespace {

template <bool Flags>
constexpr auto extended = ptebits::ept<ptebits::ept_features{.physical_bits = physical_bits, .accessed_dirty = Flags}>;

template <bool Flags>
bool run_if_there(const char* what, const options& wanted)
{
    using machine_type = vmx<extended<Flags>>;
    if (!machine_type::exists()) return false;
    if (wanted.two_cpus) {
        run_on_two_cpus<machine_type>(new_mmu<extended<Flags>>(),
                                      guest_over<guest_format<4>, extended<Flags>>::over(long_mode_4), wanted);
    } else {
        run_guests<machine_type, extended<Flags>, pdptes_at>(what);
    }
    return true;
}

}  // namespace

void run_second_stages(const options& wanted)
{
    const bool with_flags = run_if_there<true>("EPT with A and D", wanted);
    const bool without = !(wanted.two_cpus && with_flags) && run_if_there<false>("EPT without A and D", wanted);
    if (!with_flags && !without) fail("this CPU has no VMX with EPT");
}
