// expect: ptebits: a flush list needs room for an item and a table
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/flush.hpp>

using namespace ptebits;

#ifdef PTEBITS_CONTROL
flush_list_of<1, 1> list;
#else
flush_list_of<1, 0> list;
#endif

int main() {}
