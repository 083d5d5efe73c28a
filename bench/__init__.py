"""What the gateway costs. Ratios from one run count; absolute figures depend on the machine and its neighbours."""
