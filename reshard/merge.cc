#include "reshard/merge.h"
