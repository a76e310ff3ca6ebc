#include "reshard/save_plan.h"
