"""A lab: a guest with a bonding driver, and what runs in it."""
