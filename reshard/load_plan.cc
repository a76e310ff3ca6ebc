#include "reshard/load_plan.h"
