#include "reshard/box.h"
