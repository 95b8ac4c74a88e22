// SPDX-License-Identifier: BSL-1.0
// The kernel's own half on x86: exceptions, its page tables, the second CPU.
#pragma once

#include "../two_cpus.hpp"

/// The options on the command line of a multiboot loader; none where there was no loader.
[[nodiscard]] options read_options();

namespace host {

void set_up_exceptions();
/// The kernel's own tables take the place of those that paging was turned on with: nothing is writable and executable.
void set_up_paging();

}  // namespace host
