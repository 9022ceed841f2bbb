"""How stages are computed, kept and found again: store, execution, plans, records, the lab."""
