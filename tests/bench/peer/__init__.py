"""Other checkpoint libraries at the same work as Keepstep, each behind one interface (api.py)."""
