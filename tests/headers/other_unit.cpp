#include "unit.hpp"

unit in_other_unit() { return in_this_unit(); }
