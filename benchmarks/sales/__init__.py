"""The sales flow on a real shop's invoices: windows, days, both workers, and what then happened."""
