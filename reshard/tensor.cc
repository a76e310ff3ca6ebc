#include "reshard/tensor.h"
