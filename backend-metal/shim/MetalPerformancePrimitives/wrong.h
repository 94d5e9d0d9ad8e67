// The same, with sums that lack a term in some elements: for tests of the known product.
#pragma once
#define MSL_WRONG_UNITS
#include "MetalPerformancePrimitives.h"
