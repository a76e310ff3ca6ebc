#include "reshard/names.h"
