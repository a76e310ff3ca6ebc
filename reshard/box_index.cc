#include "reshard/box_index.h"
