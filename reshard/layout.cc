#include "reshard/layout.h"
