// SPDX-License-Identifier: BSL-1.0
// All of ptebits.
#pragma once

#include <ptebits/ageing.hpp>
#include <ptebits/entry.hpp>
#include <ptebits/ept.hpp>
#include <ptebits/field.hpp>
#include <ptebits/format.hpp>
#include <ptebits/layout.hpp>
#include <ptebits/masks.hpp>
#include <ptebits/npt.hpp>
#include <ptebits/shadow.hpp>
#include <ptebits/slot.hpp>
#include <ptebits/table.hpp>
