#include "reshard/dtype.h"
