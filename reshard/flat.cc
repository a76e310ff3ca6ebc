#include "reshard/flat.h"
