#include "reshard/fingerprint.h"
