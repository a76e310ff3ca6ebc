#include "reshard/strided.h"
