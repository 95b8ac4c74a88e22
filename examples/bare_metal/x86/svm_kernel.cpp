// SPDX-License-Identifier: BSL-1.0
// The kernel for AMD's CPUs.
#include "kernel.hpp"
#include "svm.hpp"

void run_second_stages(const options& wanted)
{
    static constexpr auto nested = ptebits::npt<ptebits::npt_features{.physical_bits = physical_bits}>;
    if (!svm::exists()) fail("this CPU has no SVM with nested paging");
    if (wanted.two_cpus) {
        run_on_two_cpus<svm>(new_mmu<nested>(), guest_over<guest_format<4>, nested>::over(long_mode_4), wanted);
    } else {
        run_guests<svm, nested, root_as_it_is>("nested paging");
    }
}
