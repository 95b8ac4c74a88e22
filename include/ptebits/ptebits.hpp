// SPDX-License-Identifier: BSL-1.0
// All of ptebits but text_stream.hpp, which needs a hosted standard library.
#pragma once

#include <ptebits/ageing.hpp>
#include <ptebits/block.hpp>
#include <ptebits/entry.hpp>
#include <ptebits/ept.hpp>
#include <ptebits/field.hpp>
#include <ptebits/format.hpp>
#include <ptebits/layout.hpp>
#include <ptebits/masks.hpp>
#include <ptebits/npt.hpp>
#include <ptebits/range.hpp>
#include <ptebits/shadow.hpp>
#include <ptebits/slot.hpp>
#include <ptebits/split.hpp>
#include <ptebits/table.hpp>
#include <ptebits/text.hpp>
#include <ptebits/visit.hpp>
#include <ptebits/walk.hpp>
