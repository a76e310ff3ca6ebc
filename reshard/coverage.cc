#include "reshard/coverage.h"
